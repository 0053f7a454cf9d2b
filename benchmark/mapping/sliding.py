"""Slide a model over one scene, in bounded memory.

An area of the scene, one patch high, is read in chunks of patches, and the probabilities of its
patches are kept until no further row of the map needs them. So memory grows with the width of a
scene in patches, not with its pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.errors import UsageError
from benchmark.mapping.axes import Axis, Grid
from benchmark.mapping.rasters import NODATA, MapWriter, open_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmark.exporting.running import OpenedModel
    from benchmark.mapping.scenes import Area, Scene

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


class PatchRow(NamedTuple):
    """The patches of one row."""

    scores: NDArray[np.float32]
    """Probabilities, (n, K); 0 for patches without data."""
    known: NDArray[np.bool_]
    """Which patches have data, (n,)."""
    has_data: NDArray[np.bool_]
    """Of the pixels in the ``lines`` of the row, (L, W)."""


class Chunk(NamedTuple):
    """Neighbouring patches of one row."""

    row: int
    begin: int
    end: int
    """The number of the first patch in its row, and of the one after the last."""
    area: Area


def write_map(
    patch_rows: Iterable[PatchRow],
    scene: Scene,
    grid: Grid,
    out: Path,
    classes: tuple[str, ...],
    *,
    tags: Mapping[str, str],
    on_patches: Callable[[int], None] = lambda _: None,
) -> Mapped:
    """Write the map of a scene from the probabilities of its patches.

    The class of a pixel has the largest mean probability over the patches that cover it.

    Args:
        patch_rows: all rows of the grid, from top to bottom.
        scene: whose size and location the map gets.
        grid: of the patches.
        out: ``MAP.tif``.
        classes: names of the K classes.
        tags: what the map's metadata says of its origin.
        on_patches: gets the number of further patches.

    Raises:
        UsageError: the scene is damaged or holds no data, or the map cannot be written.
        BenchmarkError: the disk is full.
    """
    rows, columns = grid.rows, grid.columns
    kept: deque[PatchRow] = deque()
    first = 0
    count = 0
    with open_map(out, scene.dataset, classes=classes, tags=tags) as writer:
        for number, row in enumerate(patch_rows):
            kept.append(row)
            on_patches(len(columns))
            count += int(row.known.sum())
            begin, end = grid.lines(number)
            for span in np.flatnonzero((rows.cuts[:-1] >= begin) & (rows.cuts[:-1] < end)):
                low = int(rows.covers[span, 0])
                while first < low:
                    kept.popleft()
                    first += 1
                top, bottom = rows.cuts[span : span + 2] - begin
                _write(writer, kept, columns, row.has_data[top:bottom])
        if not count:
            raise UsageError(f"{scene.path}: holds no data (all pixels are nodata); no map written")
    found = writer.counts
    pixels = {name: int(found[value]) for value, name in enumerate(classes)}
    return Mapped(count, pixels, int(found[NODATA]))


def _write(
    writer: MapWriter, kept: deque[PatchRow], columns: Axis, has_data: NDArray[np.bool_]
) -> None:
    """Write rows that are covered by all kept rows of patches."""
    sums = columns.sums(np.sum([row.scores for row in kept], axis=0, dtype=np.float64))
    known = columns.sums(np.sum([row.known for row in kept], axis=0, dtype=np.float64))
    means = (sums / np.maximum(known, 1)[:, None]).astype(np.float32)
    labels = np.where(known > 0, means.argmax(axis=1), NODATA).astype(np.uint8)
    writer.write(labels.repeat(columns.widths), means.max(axis=1).repeat(columns.widths), has_data)


def classify_rows(
    model: OpenedModel, scene: Scene, grid: Grid, begin: int, end: int
) -> Iterator[PatchRow]:
    """Classify the patches of some rows of a scene, and yield them row by row.

    A batch never spans two rows, so that probabilities do not depend on ``begin`` and ``end``.

    Args:
        model: takes the scene's bands.
        scene: to slide over.
        grid: of the patches.
        begin: the first row of patches.
        end: the one after the last.

    Raises:
        UsageError: the scene is damaged.
    """
    size, columns = grid.patch_size, grid.columns
    with ThreadPoolExecutor(1) as reader:
        for row, low, high, area in read_chunks(scene, grid, range(begin, end), reader):
            if low == 0:
                scores = np.zeros((len(columns), len(model.classes)), np.float32)
                known = np.zeros(len(columns), bool)
                has_data = np.zeros((size, grid.shape[1]), bool)
            left = columns.starts[low]
            has_data[:, left : left + area.has_data.shape[1]] = area.has_data
            offsets = columns.starts[low:high] - left
            seen = [i for i, x in enumerate(offsets) if area.has_data[:, x : x + size].any()]
            if seen:
                patches = np.stack([area.pixels[:, :, x : x + size] for x in offsets[seen]])
                scores[low:high][seen] = model.predict(patches)
                known[low:high][seen] = True
            if high == len(columns):
                top, bottom = np.array(grid.lines(row)) - grid.rows.starts[row]
                yield PatchRow(scores, known, has_data[top:bottom])


def read_chunks(scene: Scene, grid: Grid, rows: range, reader: Executor) -> Iterator[Chunk]:
    """Yield the patches in the order of the rows; each chunk is read while another is used."""
    size, columns, dataset = grid.patch_size, grid.columns, scene.dataset
    # What lies between patches is read, too.
    pitch = max([size, *np.diff(columns.starts[:2])])
    patch_bytes = dataset.count * size * pitch * np.dtype(dataset.dtypes[0]).itemsize
    step = max(1, min(CHUNK, CHUNK_BYTES // patch_bytes))
    places = [(row, begin) for row in rows for begin in range(0, len(columns), step)]

    def read(place: int) -> Chunk:
        row, begin = places[place]
        end = min(begin + step, len(columns))
        left, right = int(columns.starts[begin]), int(columns.starts[end - 1]) + size
        top = int(grid.rows.starts[row])
        return Chunk(row, begin, end, scene.read(top, left, size, right - left))

    following = reader.submit(read, 0)
    for place in range(1, len(places)):
        current = following.result()
        following = reader.submit(read, place)
        yield current
    yield following.result()
