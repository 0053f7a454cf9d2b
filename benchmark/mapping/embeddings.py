"""Plan grids of embeddings of whole scenes, and embed the windows of a strip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown
from benchmark.mapping.axes import Axis, Grid
from benchmark.mapping.scenes import Needs
from benchmark.mapping.sliding import read_chunks
from benchmark.mapping.strips import STRIP_PATCHES, Strip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.mapping.scenes import Scene
    from benchmark.networks.embedder import Embedder
    from benchmark.specs import Backbone

COG, GEOPARQUET, NEUCO_CSV = "cog", "geoparquet", "neuco_csv"
SUFFIXES = {COG: ".tif", GEOPARQUET: ".parquet", NEUCO_CSV: ".csv"}
FLOAT32 = "float32"
DTYPES = (FLOAT32, "float16", "int8")
MAX_SIDE = 2**16
"""Of a window, and of the distance of two, in px."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingPlan:
    """How scenes become grids of embeddings."""

    backbone: Backbone
    needs_cpu: bool
    """Whether the backbone runs on CPUs in float32 alone."""
    needs: Needs
    stride: int
    format: str
    dtype: str
    root: str
    """The folder of all outputs."""
    tags: dict[str, str]

    def grid(self, scene: Scene) -> Grid:
        """Return where the windows of an open scene lie: regular, and all of them inside.

        Raises:
            UsageError: the stride is larger than the scene.
        """
        shape, size = scene.dataset.shape, self.needs.patch_size
        if self.stride > min(shape):
            raise UsageError(
                f"{scene.path}: --stride {self.stride} is larger than the scene, {shape[0]} x "
                f"{shape[1]} px; give a smaller one"
            )
        rows, columns = (Axis.regular(side, patch_size=size, stride=self.stride) for side in shape)
        return Grid(rows, columns, size, shape)

    def name(self, out: str) -> str:
        """Return the name of a scene in identifiers: its output's place, without the suffix."""
        return Path(out).relative_to(self.root).with_suffix("").as_posix()


@dataclass(frozen=True, kw_only=True)
class EmbeddedScene:
    """One grid of embeddings, or the reason why there is none."""

    scene: str
    out: str
    status: str
    """``complete`` or ``failed``."""
    reason: str = ""
    num_embedded: int = 0
    num_empty: int = 0
    """Windows without data."""
    dim: int | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


class Embedded(NamedTuple):
    """The windows of one strip."""

    vectors: NDArray[np.float32]
    """(R, n, D); 0 for windows without data."""
    known: NDArray[np.bool_]
    """Which windows have data, (R, n)."""


def plan_embeddings(
    backbone: str,
    *,
    out: str,
    stride: int,
    size: int | None = None,
    bands: Sequence[str] = (),
    value_range: tuple[float, float] | None = None,
    format: str = COG,
    dtype: str = FLOAT32,
    trust_code: bool = False,
) -> EmbeddingPlan:
    """Find the backbone and check the options against it; open no scene.

    Args:
        backbone: any name of the catalog, or an exported folder.
        out: the folder of all outputs.
        stride: distance of two windows in px.
        size: side of a window in px; None: that of the backbone's input, and of the patches of the
            training for an exported folder.
        bands: numbers or names of the scenes' bands, in the backbone's order; empty: found by name.
        value_range: pixel values that become 0 and 255, for scenes that are not uint8.
        format: one of ``SUFFIXES``.
        dtype: one of ``DTYPES``; tables hold float32.
        trust_code: whether an exported folder may run a program or code of others.

    Raises:
        UsageError: the backbone is unknown or computes nothing from pixels alone, or an option
            does not suit it.
    """
    for option, given, known in (("format", format, SUFFIXES), ("dtype", dtype, DTYPES)):
        if given not in known:
            raise UsageError(
                f"--{option} {shown(given, 100)}: choose one of: {', '.join(known)}."
                f"{did_you_mean(given, known, otherwise='')}"
            )
    if format != COG and dtype != FLOAT32:
        raise UsageError(
            f"--dtype {dtype}: tables hold float32; leave it out, or write --format {COG}"
        )
    found, own_bands, own_size, needs_cpu, about = _find(backbone, trust_code=trust_code)
    size = own_size if size is None else size
    if size is None:
        raise UsageError(f"backbone '{found.name}' takes windows of any size; give --size PX")
    for option, side in (("size", size), ("stride", stride)):
        if not 1 <= side <= MAX_SIDE:
            raise UsageError(f"--{option} {side}: give 1 to {MAX_SIDE:,} px")
    needed = own_bands or tuple(bands)
    if not needed:
        raise UsageError(
            f"backbone '{found.name}' takes any bands; say which of the scene, e.g. --bands 1,2,3"
        )
    needs = Needs.checked(needed, size, bands, value_range, of="backbone")
    tags = {
        "TIFFTAG_SOFTWARE": "backbone-benchmark",
        "BACKBONE": found.name,
        **about,
        "WINDOW_SIZE": str(size),
        "STRIDE": str(stride),
    }
    return EmbeddingPlan(
        backbone=found,
        needs_cpu=needs_cpu,
        needs=needs,
        stride=stride,
        format=format,
        dtype=dtype,
        root=out,
        tags=tags,
    )


class _Found(NamedTuple):
    """A backbone, and what it says of its windows."""

    backbone: Backbone
    bands: tuple[str, ...] | None
    size: int | None
    needs_cpu: bool
    tags: dict[str, str]


def _find(name: str, *, trust_code: bool) -> _Found:
    """Find a backbone of the catalog or of an exported folder.

    Raises:
        UsageError: there is none of this name, two have it, or it computes nothing from pixels.
    """
    from benchmark.catalog.backbones import BACKBONES, find_backbone
    from benchmark.exporting.embedding import read_backbone
    from benchmark.exporting.running import DESCRIPTION

    # The methods of Path fail on long names.
    is_folder = os.path.isdir(name)  # noqa: PTH112
    if name in BACKBONES.names():
        if is_folder and (Path(name) / DESCRIPTION).is_file():
            raise UsageError(
                f"embed-scenes: {shown(name)} is a backbone of the catalog and an exported folder "
                f"here; write ./{name} for the folder, or run elsewhere for the other"
            )
        is_folder = False
    if is_folder:
        given = read_backbone(name, trust_code=trust_code)
        tags = {"METHOD": given.method, "BACKBONE_REVISION": given.artefact}
        size = given.patch_size or given.backbone.image_size
        return _Found(given.backbone, given.bands, size, given.needs_cpu, tags)
    found = find_backbone(name, where="embed-scenes")
    _check_backbone(found)
    tags = {"BACKBONE_REVISION": found.revision() or "-"}
    return _Found(found, found.bands, found.image_size, False, tags)


def _check_backbone(backbone: Backbone) -> None:
    name = backbone.name
    if backbone.product is not None:
        raise UsageError(
            f"backbone '{name}': its embeddings are read from files, no network computes them; "
            "name a backbone that has one"
        )
    if backbone.fit is not None:
        raise UsageError(
            f"backbone '{name}': is fitted on the train patches of an experiment; name another"
        )


def cut_windows(grid: Grid) -> list[Strip]:
    """Cut the rows of a grid into strips, whatever the number of actors.

    Batches span the rows of a strip: strips that depended on the actors would change last bits.
    """
    count = len(grid.rows)
    step = -(-STRIP_PATCHES // len(grid.columns))
    return [Strip(begin, min(begin + step, count)) for begin in range(0, count, step)]


def embed_strip(embedder: Embedder, scene: Scene, grid: Grid, strip: Strip) -> Embedded:
    """Embed the windows of a strip that have data.

    Raises:
        UsageError: the scene is damaged.
        CellError: an embedding is not finite.
    """
    size, columns = grid.patch_size, grid.columns
    known = np.zeros((strip.end - strip.begin, len(columns)), bool)
    parts: list[NDArray[np.float32]] = []
    waiting: list[NDArray[np.uint8]] = []
    with ThreadPoolExecutor(1) as reader:
        for row, low, high, area in read_chunks(scene, grid, range(*strip), reader):
            offsets = columns.starts[low:high] - columns.starts[low]
            for column, x in enumerate(offsets, start=low):
                if area.has_data[:, x : x + size].any():
                    waiting.append(area.pixels[:, :, x : x + size])
                    known[row - strip.begin, column] = True
            if len(waiting) >= STRIP_PATCHES:
                parts.append(embedder(np.stack(waiting))[0])
                waiting = []
        if waiting:
            parts.append(embedder(np.stack(waiting))[0])
    dim = parts[0].shape[1] if parts else 0
    vectors = np.zeros((*known.shape, dim), np.float32)
    if parts:
        vectors[known] = np.concatenate(parts)
    return Embedded(vectors, known)


def pack(embedded: Embedded) -> dict[str, list[bytes]]:
    """Return columns of one row."""
    vectors, known = embedded
    return {"vectors": [vectors[known].tobytes()], "known": [known.tobytes()]}


def unpack(block: dict[str, Any], grid: Grid, strip: Strip) -> Embedded:
    """Return what ``pack`` has packed."""
    known = np.frombuffer(block["known"], bool).reshape(strip.end - strip.begin, len(grid.columns))
    count = int(known.sum())
    found = np.frombuffer(block["vectors"], np.float32).reshape(count, -1 if count else 0)
    vectors = np.zeros((*known.shape, found.shape[1]), np.float32)
    vectors[known] = found
    return Embedded(vectors, known)
