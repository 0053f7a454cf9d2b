"""Headers of safetensors files, read without the tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError

_MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors library accepts."""
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
    torn = UsageError(f"{what}: {path} is not a safetensors file or is truncated; fetch it again")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise torn from None
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror}") from None
    if not header or path.stat().st_size != 8 + length + end:
        raise torn
    return dict(header)


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
