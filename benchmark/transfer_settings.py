"""Settings of transfer between regions: the table ``[protocol.transfer]``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from benchmark.fields import Names, refuse_duplicates, tuple_of_array
from benchmark.section import Section

LEAVE_ONE_OUT = "leave_one_region_out"


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
