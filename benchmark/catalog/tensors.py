"""Tensors of checkpoints and networks: checks, dimensions, number of bands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchmark.errors import UsageError, one_line

if TYPE_CHECKING:
    import torch


class Facts(NamedTuple):
    """Length of the embedding and number of parameters of a network."""

    dim: int
    num_parameters: int


def measure(
    name: str,
    build: Callable[[int], torch.nn.Module],
    num_bands: int,
    side: int,
    *,
    note: str = "",
) -> Facts:
    """Run a network on the meta device, without memory or weights.

    Args:
        name: prefix of error messages.
        build: returns the network for a number of bands.
        num_bands: of the input.
        side: of the input, in px.
        note: ends the message about a missing embedding.

    Raises:
        UsageError: it does not support such images, or has no pooled embedding.
    """
    import torch

    try:
        with torch.device("meta"), torch.inference_mode():
            network = build(num_bands)
            found = network(torch.zeros(2, num_bands, side, side))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"{name} cannot take {num_bands} bands of {side} px: {one_line(error, limit=160)}"
        ) from None
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise UsageError(f"{name} gives no pooled embedding{note}")
    return Facts(int(found.shape[1]), sum(item.numel() for item in network.parameters()))


def inflated(network: torch.nn.Module, num_bands: int) -> torch.nn.Module:
    """Return a network of 3 bands, its first convolution widened if ``num_bands`` is larger."""
    from benchmark.networks.inflation import inflate_first_convolution

    return network if num_bands == 3 else inflate_first_convolution(network, num_bands)


def misfit(prefix: str, error: Exception) -> UsageError:
    """Return the UsageError for weights that a network does not load, in one line."""
    text = " ".join(str(error).split())[:200] or "tensors are missing or left over"
    return UsageError(f"{prefix} do not fit the model: {text}")


def check_fit(
    what: str, *, absent: Iterable[str], left_over: Iterable[str], misshapen: Iterable[str]
) -> None:
    """Raise UsageError if a tensor of the network or checkpoint has no counterpart.

    Args:
        what: prefix of the message.
        absent: names of tensors of the network that the checkpoint lacks.
        left_over: names of tensors of the checkpoint that the network lacks.
        misshapen: names of tensors of different shapes.
    """
    for problem, names in (
        ("lack the tensor", sorted(absent)),
        ("have an unexpected tensor", sorted(left_over)),
        ("have another shape for the tensor", sorted(misshapen)),
    ):
        if names:
            raise UsageError(
                f"{what}: its weights {problem} {_first_of(names)}; use config.json and weights "
                "of the same model"
            )


def check_finite(what: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise UsageError if a weight is NaN or infinite.

    Args:
        what: prefix of the message.
        tensors: by name.
    """
    import torch

    names = sorted(name for name, item in tensors.items() if not torch.isfinite(item).all())
    if names:
        raise UsageError(
            f"{what}: its weights are NaN or infinite in the tensor {_first_of(names)}; fetch them "
            "again or use another checkpoint"
        )


def _first_of(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
