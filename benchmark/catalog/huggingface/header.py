"""Names and shapes of the tensors in files of weights, read without the tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from benchmark.catalog.huggingface.documents import (
    AGAIN,
    MAX_JSON_BYTES,
    explained,
    field,
    parse_object,
)
from benchmark.errors import UsageError
from benchmark.fields import shown

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of a number, by the names of the safetensors library."""
_MAX_AXES = 64
_BUFFERS = (
    "running_mean", "running_var", "num_batches_tracked", "relative_position_index", "position_ids",
)  # fmt: skip
_HEADS = {"classifier", "cls_classifier", "distillation_classifier", "lm_head", "decoder", "head"}


def read_header(path: Path, *, what: str) -> dict[str, Any]:
    """Return the header of a safetensors file: ``dtype`` and ``shape`` of each tensor by name.

    Format: length of the header (8 bytes, little-endian), header (JSON), tensors
    (https://huggingface.co/docs/safetensors).

    Raises:
        UsageError: the file has another format or is truncated.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= MAX_JSON_BYTES else b""
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror}") from None
    is_whole = len(text) == length > 0
    header = parse_object(text, f"{what}: the header of {path}") if is_whole else {}
    field(header, "__metadata__", f"{what}: the header of {path}")
    header.pop("__metadata__", None)
    end = check_tensors(header, f"{what}: {path}")
    if not header or size != 8 + length + end:
        raise UsageError(
            f"{what}: {path} is not a safetensors file or is truncated; fetch it again"
        )
    return header


def read_saved(path: Path, *, what: str) -> dict[str, Any]:
    """Return the ``shape`` of each tensor in a file of ``torch.save``, whose code is not run.

    Raises:
        UsageError: the file is truncated or holds more than tensors.
    """
    import torch

    with explained(f"{what}: {path} cannot be read as a file of tensors alone"):
        # Tensors on this device have no memory.
        found = torch.load(path, map_location="meta", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(x, torch.Tensor) for x in found.values()):
        raise UsageError(f"{what}: {path} is not a dictionary of tensors by name; {AGAIN}")
    return {str(name): {"shape": list(tensor.shape)} for name, tensor in found.items()}


def check_tensors(header: Mapping[str, Any], what: str) -> int:
    """Check the entries of a header; return the number of bytes of the tensors.

    Args:
        header: ``dtype``, ``shape`` and ``data_offsets`` of each tensor by name.
        what: prefix of error messages.

    Raises:
        UsageError: a type is unknown, a size is negative, or the tensors do not fill the file.
    """
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        tensor = f"{what}: its tensor '{name[:100]}'"
        known: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
        dtype, shape, span = (known.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise UsageError(f"{tensor} has dtype = {shown(dtype)}, which is unknown; {AGAIN}")
        if not _are_integers(shape) or len(shape) > _MAX_AXES:
            raise UsageError(f"{tensor} has shape = {shown(shape)}, which is no shape; {AGAIN}")
        length = -(-math.prod(shape) * _BITS[dtype] // 8)
        if not _are_integers(span) or len(span) != 2 or span[1] - span[0] != length:
            raise UsageError(
                f"{tensor} has data_offsets = {shown(span)}, but {dtype} of shape {shown(shape)} "
                f"takes {shown(length)} bytes; {AGAIN}"
            )
        spans.append((span[0], span[1], name))
    end = 0
    for begin, stop, name in sorted(spans):
        if begin != end:
            raise UsageError(
                f"{what}: its tensor '{name[:100]}' has data_offsets = {[begin, stop]}, but the "
                f"tensor before it ends at {end}; {AGAIN}"
            )
        end = stop
    return end


def _are_integers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def shapes(headers: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Return the shapes of all tensors of a checkpoint."""
    return [entry["shape"] for header in headers for entry in header.values()]


def count_parameters(headers: list[Mapping[str, Any]], *, prefix: str = "") -> int:
    """Count the parameters of a checkpoint without head, pooler and buffers.

    Args:
        headers: of its files.
        prefix: only tensors whose name starts with it count.
    """
    return sum(
        math.prod(entry["shape"])
        for header in headers
        for name, entry in header.items()
        if name.startswith(prefix)
        and not name.endswith(_BUFFERS)
        and name.partition(".")[0] not in _HEADS
        and "pooler" not in name.split(".")
    )
