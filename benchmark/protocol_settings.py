"""The table ``[protocol]``, and settings of transfer between regions in it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from benchmark.fields import (
    Count,
    Names,
    Share,
    finite_floats,
    refuse_duplicates,
    tuple_of_array,
)
from benchmark.flipping import Flips
from benchmark.section import Section

LEAVE_ONE_OUT = "leave_one_region_out"
MOST_FOLDS = 20


class TransferConfig(Section):
    """``[protocol.transfer]``: train in some regions and test in others (docs/PROTOCOLS.md).

    ``transfer = "leave_one_region_out"`` in ``[protocol]`` is this table without settings.
    """

    train: Annotated[tuple[Names, ...], Field(max_length=1000)] = ()
    """Regions to train on, each a train set of its own; a list in the list is several regions
    together. Empty: all regions but one, each of ``test`` in turn."""
    test: Names = ()
    """Regions to test on; empty: those of ``train``, or all."""

    _tests_differ = field_validator("test")(refuse_duplicates)

    @field_validator("train", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return tuple((item,) if isinstance(item, str) else tuple_of_array(item) for item in value)

    @field_validator("train")
    @classmethod
    def _trains_differ(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for item in value:
            if not item:
                raise ValueError("holds a list without a region; remove it")
            refuse_duplicates(item)
        # By the names that tables show.
        refuse_duplicates(tuple(" + ".join(sorted(item)) for item in value))
        return value

    @model_validator(mode="after")
    def _needs_two(self) -> TransferConfig:
        if len({*self.test, *(name for item in self.train for name in item)}) == 1 and self.train:
            raise ValueError("names one region; name another one to test on")
        return self


def transfer_by_name(value: Any) -> Any:
    """Return the table that a name stands for; other values unchanged; ValueError: no name."""
    if isinstance(value, str) and value != LEAVE_ONE_OUT:
        raise ValueError(f'write "{LEAVE_ONE_OUT}", or a table of regions')
    return TransferConfig() if isinstance(value, str) else value


class ProtocolConfig(Section):
    """``[protocol]``: what the methods are trained on, and how they predict (docs/PROTOCOLS.md)."""

    label_fractions: Annotated[tuple[Share, ...], Field(max_length=20)] = (1.0,)
    """Shares of the labels of train, of every class alike, each contained in the larger ones; 1.0
    is all of train. Val keeps the same share."""
    shots: Annotated[tuple[Count, ...], Field(max_length=20)] = ()
    """Numbers of labels of each class of train, drawn from all of it. Val keeps the same share."""
    cross_validation: Annotated[int, Field(ge=2, le=MOST_FOLDS)] | None = None
    """Number of folds that replace the splits of the data: each is tested by methods that are
    trained on the others, and the predictions of all are scored together. Unset: no folds."""

    transfer: TransferConfig | None = None
    """Train in some regions and test in others."""

    flips: Flips = "none"
    """What each prediction on val and test is the mean over: ``"horizontal"`` is the patch and its
    mirror image left-right; ``"all"`` also up-down, and both."""

    _fractions_of_floats = field_validator("label_fractions", mode="before")(finite_floats)
    _transfer_by_name = field_validator("transfer", mode="before")(transfer_by_name)
    _shots_differ = field_validator("shots")(refuse_duplicates)

    @field_validator("label_fractions")
    @classmethod
    def _fractions_differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        # To the digits that tables show.
        refuse_duplicates(tuple(float(f"{share:.6g}") for share in value))
        return value
