"""Which kernel a CPU takes for 1 x 1 convolutions."""

from __future__ import annotations

from typing import Final

import torch

ONE: Final = (1, 1)
TWO: Final = (2, 2)


def choose_pointwise(module: torch.nn.Module, *, is_fast: bool) -> None:
    """Have 1 x 1 convolutions computed by oneDNN, or by torch's own choice.

    With one thread and fewer than 16 patches, torch computes a 1 x 1 convolution without oneDNN,
    which halves the speed of many networks (``python -m perf.peers --forward``), unless the
    convolution is dilated. Dilation has no meaning for a kernel of one pixel, so it is set.

    Args:
        module: changed in place; its outputs change by rounding at most.
        is_fast: whether oneDNN computes them.
    """
    for conv in module.modules():
        if not isinstance(conv, torch.nn.Conv2d) or conv.kernel_size != ONE:
            continue
        if conv.dilation in (ONE, TWO):
            conv.dilation = TWO if is_fast else ONE
