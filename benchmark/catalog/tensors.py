"""Whether the tensors of a checkpoint fit a network, and are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.errors import UsageError

if TYPE_CHECKING:
    import torch


def check_fit(
    what: str, *, absent: Iterable[str], left_over: Iterable[str], misshapen: Iterable[str]
) -> None:
    """Raise UsageError where a tensor of the network or of the checkpoint has no counterpart.

    Args:
        what: begins the message.
        absent: names of tensors of the network that the checkpoint lacks.
        left_over: names of tensors of the checkpoint that the network lacks.
        misshapen: names of tensors that have another shape.
    """
    for problem, names in (
        ("lack the tensor", sorted(absent)),
        ("have, and the model has not, the tensor", sorted(left_over)),
        ("have another shape of the tensor", sorted(misshapen)),
    ):
        if names:
            raise UsageError(
                f"{what}: its weights {problem} {_first_of(names)}; config.json and weights are "
                "not of one model"
            )


def check_finite(what: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise UsageError where a weight is NaN or infinite.

    Args:
        what: begins the message.
        tensors: by name.
    """
    import torch

    names = sorted(name for name, item in tensors.items() if not torch.isfinite(item).all())
    if names:
        raise UsageError(
            f"{what}: its weights are not finite, first in the tensor {_first_of(names)}; take "
            "another copy or checkpoint"
        )


def _first_of(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
