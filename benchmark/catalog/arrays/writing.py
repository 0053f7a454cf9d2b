"""Write arrays once into a folder that workers read: ``images.npy`` and ``table.parquet``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.arrays.data import WHERE, Arrays
from benchmark.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGES = "images.npy"
"""Pixels, uint8 (N, C, H, W)."""
TABLE = "table.parquet"
"""One row per image; the metadata FACTS of its schema holds classes, bands, notes and (C, H, W)."""
FACTS = b"benchmark.arrays"
FOLDER = "arrays"
"""In a store."""


def digest_image(image: NDArray[np.uint8]) -> str:
    """Return the digest of one image's pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()


def write(arrays: Arrays, folder: Path) -> Path:
    """Return the folder ``NAME-DIGEST`` of arrays, written below ``folder`` if it is not there.

    Raises:
        UsageError: it cannot be written.
    """
    digests = [digest_image(image) for chunk in arrays.chunks() for image in chunk]
    state = hashlib.blake2b(digest_size=8)
    for item in (arrays.classes, arrays.bands, arrays.pixels.shape, arrays.notes):
        state.update(json.dumps(item).encode())
    for digest, given in zip(digests, arrays.given.values(), strict=True):
        state.update(json.dumps([digest, *given]).encode())
    root = folder.absolute() / f"{arrays.name}-{state.hexdigest()}"
    if _is_whole(root, arrays):
        return root
    temporary = ""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".writing-", dir=root.parent)
        # Other users' workers may read what this one wrote, as far as the umask allows.
        made = Path(temporary) / "made"
        made.mkdir()
        _write_images(arrays, made / IMAGES)
        _write_table(arrays, digests, made / TABLE)
        if root.exists() and not _is_whole(root, arrays):
            shutil.rmtree(root)
        # Another process may have written the same meanwhile.
        with suppress(OSError):
            made.rename(root)
        if not _is_whole(root, arrays):
            raise OSError("it is not whole after writing")
    except OSError as error:
        raise UsageError(
            f"{WHERE}: the arrays cannot be written to '{root}': {error.strerror or error}"
        ) from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return root


def _is_whole(root: Path, arrays: Arrays) -> bool:
    try:
        size = os.stat(root / IMAGES).st_size  # noqa: PTH116
        return (root / TABLE).is_file() and size > arrays.pixels.size
    except OSError:
        return False


def _write_images(arrays: Arrays, path: Path) -> None:
    from numpy.lib import format as npy

    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": arrays.pixels.shape}
        npy.write_array_header_1_0(file, header)
        for chunk in arrays.chunks():
            file.write(chunk.data)


def _write_table(arrays: Arrays, digests: list[str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    given = arrays.given.values()
    columns = {
        "patch_id": list(arrays.given),
        "label": [item.label for item in given],
        "split": [item.split for item in given],
        "scene": [item.scene for item in given],
        "region": [item.region for item in given],
        "digest": digests,
    }
    facts = {
        "classes": arrays.classes,
        "bands": arrays.bands,
        "notes": arrays.notes,
        "shape": arrays.pixels.shape[1:],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), path)
