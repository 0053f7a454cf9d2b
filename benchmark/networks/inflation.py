"""Widen the first convolution of a network to accept more bands."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmark.errors import UsageError


def inflate_first_convolution(
    module: torch.nn.Module, num_bands: int, *, names: Sequence[str] = ()
) -> torch.nn.Module:
    """Widen a network to ``num_bands`` bands, in place.

    The first bands keep their weights; each new band starts with their mean. All weights are
    scaled by (old number of bands) / (new number), so that activations keep their size: if all
    bands are equal, the output is unchanged.

    Args:
        module: a network whose first convolution takes the bands, (B, C, H, W).
        num_bands: at least its present number of bands.
        names: the convolutions that take the bands, if they are several or not the first.

    Returns: the module itself.

    Raises:
        UsageError: the module has no such convolution, or takes more than ``num_bands`` bands.
    """
    convolutions: list[torch.nn.Module | None] = [module.get_submodule(name) for name in names]
    for convolution in convolutions or [_first_convolution(module)]:
        if not isinstance(convolution, torch.nn.Conv2d) or convolution.groups != 1:
            raise UsageError(
                f"{type(module).__name__} has no first convolution that can take other bands; "
                "leave out bands = [...]"
            )
        _inflate(module, convolution, num_bands)
    return module


def _first_convolution(module: torch.nn.Module) -> torch.nn.Conv2d | None:
    """Return the convolution that is registered first, or None."""
    return next((m for m in module.modules() if isinstance(m, torch.nn.Conv2d)), None)


def _inflate(module: torch.nn.Module, convolution: torch.nn.Conv2d, num_bands: int) -> None:
    before = convolution.in_channels
    if num_bands == before:
        return
    if num_bands < before:
        raise UsageError(f"weights of {before} bands cannot take {num_bands}; name {before} bands")
    with torch.no_grad():
        old = convolution.weight
        new = old.mean(dim=1, keepdim=True).expand(-1, num_bands - before, -1, -1)
        weight = torch.cat([old, new], dim=1) * (before / num_bands)
    convolution.weight = torch.nn.Parameter(weight, requires_grad=old.requires_grad)
    convolution.in_channels = num_bands
    _announce(module, convolution, before, num_bands)


def _announce(
    module: torch.nn.Module, convolution: torch.nn.Conv2d, before: int, num_bands: int
) -> None:
    """Correct the number of bands in the modules around the convolution and their configuration.

    Models of transformers compare it with the number of bands of their input.
    """
    for parent in module.modules():
        if parent is convolution or not any(child is convolution for child in parent.modules()):
            continue
        for holder in (parent, getattr(parent, "config", None)):
            for name in ("num_channels", "in_chans"):
                if getattr(holder, name, None) == before:
                    setattr(holder, name, num_bands)
