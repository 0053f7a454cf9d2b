"""Sizes in ``config.json``: what a network of these sizes needs must be in the weights."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmark.catalog.huggingface.header import shapes
from benchmark.errors import UsageError
from benchmark.fields import shown

if TYPE_CHECKING:
    import torch

MAX_SIDE = 4096
"""Longest side of an image in px, as of the option ``image_size``."""
_MAX_TOTAL = 1_000_000
"""Largest number, or sum of a list of numbers; libraries make lists of that length."""

_WIDTHS = ("hidden_size", "hidden_sizes")
_SIZES = (
    *_WIDTHS, "intermediate_size", "embed_dim", "num_hidden_layers", "depths", "num_channels",
    "num_attention_heads", "num_heads", "patch_size", "image_size",
)  # fmt: skip

_SAME = "use config.json and weights of the same model"


def check_sizes(config: Mapping[str, Any], headers: Sequence[Mapping[str, Any]], what: str) -> None:
    """Compare the sizes that most model types name alike with the tensors.

    Args:
        config: of the image model; absent sizes and null are the model's defaults.
        headers: of the weights.
        what: prefix of error messages.

    Raises:
        UsageError: a size is no positive integer, or the tensors have no such size.
    """
    stored = shapes(headers)
    lengths = {shape[0] for shape in stored if len(shape) == 1}
    most = max([len(stored), *(size for shape in stored for size in shape)])
    for key in _SIZES:
        value = config.get(key)
        sizes = value if isinstance(value, list) and value else [value]
        limit = MAX_SIDE if key == "image_size" else most
        if value is not None and not all(type(n) is int and 0 < n <= limit for n in sizes):
            raise UsageError(
                f"{what}: its config.json has {key} = {shown(value)}; for its weights, give "
                f"integers from 1 to {limit:,}"
            )
        if value is not None and key in _WIDTHS and not lengths.issuperset(sizes):
            raise UsageError(
                f"{what}: its config.json has {key} = {shown(value)}, but no vector of its weights "
                f"has that length; {_SAME}"
            )


def check_totals(fields: Iterable[tuple[str, Any]], what: str) -> None:
    """Refuse numbers that no network has, before a library makes lists of that length.

    Args:
        fields: names and values; values may be lists.
        what: prefix of error messages; names the file.

    Raises:
        UsageError: names the first such field.
    """
    for name, value in fields:
        if _total(value) > _MAX_TOTAL:
            raise UsageError(
                f"{what} has {name} = {shown(value)}; set numbers of at most {_MAX_TOTAL:,} in all"
            )


def _total(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return sum(map(_total, value))
    return abs(value) if isinstance(value, int) else 0


@contextmanager
def bounded(headers: Sequence[Mapping[str, Any]], what: str) -> Iterator[None]:
    """Refuse to build a network that is far larger than its weights.

    Args:
        headers: of the weights.
        what: prefix of error messages.

    Raises:
        UsageError: names the first tensor or module too many.
    """
    from torch.nn.modules import module as hooks

    stored = shapes(headers)
    # A new pooler, classifier and buffers are not among the weights.
    most_numbers = 2 * sum(map(math.prod, stored)) + 10_000_000
    most_parts = 10 * len(stored) + 1000
    numbers = parts = 0
    thread = threading.get_ident()

    def count(owner: torch.nn.Module, name: str, part: Any) -> None:
        nonlocal numbers, parts
        # Loading puts tensors in the place of others.
        if threading.get_ident() != thread or getattr(owner, name, None) is not None:
            return
        size = part.numel() if hasattr(part, "numel") else 0
        numbers, parts = numbers + size, parts + 1
        if numbers > most_numbers or parts > most_parts:
            shape = f" of shape {shown(list(part.shape))}" if size else ""
            raise UsageError(
                f"{what}: its config.json describes a network that is larger than its weights: at "
                f"'{name}'{shape} of {type(owner).__name__}, it has {numbers:,} numbers in "
                f"{parts:,} parts; {_SAME}"
            )

    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
        hooks.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
