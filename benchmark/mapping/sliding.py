"""Slide a model over one scene, in bounded memory.

A strip of the scene, one patch high, is read in chunks of patches, and the probabilities of its
patches are kept until no further row of the map needs them. So memory grows with the width of a
scene in patches, not with its pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.errors import UsageError
from benchmark.mapping.axes import Axis
from benchmark.mapping.rasters import NODATA, MapWriter, open_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmark.exporting.running import OpenedModel
    from benchmark.mapping.scenes import Scene, Strip

CHUNK_BYTES = 32 * 2**20
"""Of the patches that a model gets at once, as stored in the scene."""
CHUNK = 256
"""Most patches that a model gets at once."""


class Mapped(NamedTuple):
    """What a map holds."""

    num_patches: int
    """Patches that were classified."""
    counts: dict[str, int]
    """Pixels of each class."""
    num_empty: int
    """Pixels without data."""


class _Row(NamedTuple):
    """The patches of one row."""

    sums: NDArray[np.float64]
    """Probabilities, (n, K); 0 for patches without data."""
    known: NDArray[np.float64]
    """1 for patches with data, else 0, (n,)."""
    has_data: NDArray[np.bool_]
    """Of the pixels of the row, (P, W)."""


class _Chunk(NamedTuple):
    """Neighbouring patches of one row."""

    begin: int
    end: int
    """The number of the first patch in its row, and of the one after the last."""
    strip: Strip


def num_patches(shape: tuple[int, int], *, patch_size: int, stride: int) -> int:
    """Return the number of patches of a scene (H, W) px, those without data among them."""
    rows, columns = (Axis.of(side, patch_size=patch_size, stride=stride) for side in shape)
    return len(rows) * len(columns)


def map_scene(
    model: OpenedModel,
    scene: Scene,
    out: Path,
    *,
    stride: int,
    tags: Mapping[str, str],
    on_patches: Callable[[int], None] = lambda _: None,
) -> Mapped:
    """Write the map of a scene.

    The class of a pixel has the largest mean probability over the patches that cover it.

    Args:
        model: takes the scene's bands.
        scene: to slide over.
        out: ``MAP.tif``.
        stride: distance of two patches in px, at most the size of a patch.
        tags: what the map's metadata says of its origin.
        on_patches: gets the number of further patches.

    Raises:
        UsageError: the scene is damaged or holds no data, or the map cannot be written.
        BenchmarkError: the disk is full.
    """
    size = scene.needs.patch_size
    height, width = scene.dataset.shape
    rows, columns = (Axis.of(side, patch_size=size, stride=stride) for side in (height, width))
    kept: deque[_Row] = deque()
    first = 0
    count = 0
    with (
        open_map(out, scene.dataset, classes=model.classes, tags=tags) as writer,
        ThreadPoolExecutor(1) as reader,
    ):
        chunks = _chunks(scene, rows, columns, reader)
        for number, row in enumerate(_rows(model, size, columns, chunks, width)):
            kept.append(row)
            on_patches(len(columns))
            count += int(row.known.sum())
            begin = int(rows.firsts[number])
            end = int(rows.firsts[number + 1]) if number + 1 < len(rows) else height
            for span in np.flatnonzero((rows.cuts[:-1] >= begin) & (rows.cuts[:-1] < end)):
                low = int(rows.covers[span, 0])
                while first < low:
                    kept.popleft()
                    first += 1
                top, bottom = rows.cuts[span : span + 2] - rows.starts[number]
                _write(writer, kept, columns, row.has_data[top:bottom])
        if not count:
            raise UsageError(f"{scene.path}: holds no data (all pixels are nodata); no map written")
    found = writer.counts
    pixels = {name: int(found[value]) for value, name in enumerate(model.classes)}
    return Mapped(count, pixels, int(found[NODATA]))


def _write(
    writer: MapWriter, kept: deque[_Row], columns: Axis, has_data: NDArray[np.bool_]
) -> None:
    """Write rows that are covered by all kept rows of patches."""
    sums = columns.sums(np.sum([row.sums for row in kept], axis=0))
    known = columns.sums(np.sum([row.known for row in kept], axis=0))
    means = (sums / np.maximum(known, 1)[:, None]).astype(np.float32)
    labels = np.where(known > 0, means.argmax(axis=1), NODATA).astype(np.uint8)
    writer.write(labels.repeat(columns.widths), means.max(axis=1).repeat(columns.widths), has_data)


def _rows(
    model: OpenedModel, size: int, columns: Axis, chunks: Iterator[_Chunk], width: int
) -> Iterator[_Row]:
    """Classify the patches of a scene of ``width`` px, and yield them row by row."""
    for begin, end, strip in chunks:
        if begin == 0:
            sums = np.zeros((len(columns), len(model.classes)))
            known = np.zeros(len(columns))
            has_data = np.zeros((size, width), bool)
        left = columns.starts[begin]
        has_data[:, left : left + strip.has_data.shape[1]] = strip.has_data
        offsets = columns.starts[begin:end] - left
        seen = [i for i, x in enumerate(offsets) if strip.has_data[:, x : x + size].any()]
        if seen:
            patches = np.stack([strip.pixels[:, :, x : x + size] for x in offsets[seen]])
            sums[begin:end][seen] = model.predict(patches)
            known[begin:end][seen] = 1
        if end == len(columns):
            yield _Row(sums, known, has_data)


def _chunks(scene: Scene, rows: Axis, columns: Axis, reader: Executor) -> Iterator[_Chunk]:
    """Yield the patches in the order of the rows; each chunk is read while another is used."""
    size, dataset = scene.needs.patch_size, scene.dataset
    patch_bytes = dataset.count * size**2 * np.dtype(dataset.dtypes[0]).itemsize
    step = max(1, min(CHUNK, CHUNK_BYTES // patch_bytes))
    places = [(row, begin) for row in rows.starts for begin in range(0, len(columns), step)]

    def read(place: int) -> _Chunk:
        row, begin = places[place]
        end = min(begin + step, len(columns))
        left, right = int(columns.starts[begin]), int(columns.starts[end - 1]) + size
        return _Chunk(begin, end, scene.read(int(row), left, size, right - left))

    following = reader.submit(read, 0)
    for place in range(1, len(places)):
        current = following.result()
        following = reader.submit(read, place)
        yield current
    yield following.result()
