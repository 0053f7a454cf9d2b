"""Grids of embeddings of whole scenes: the one call behind the command and Python."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.arguments import check_bands, check_range, check_type, path_text, path_texts
from benchmark.cluster.connection import Cluster
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.mapping.embeddings import (
    COG,
    FLOAT32,
    SUFFIXES,
    Embedded,
    EmbeddedScene,
    EmbeddingPlan,
    cut_windows,
    embed_strip,
    pack,
    plan_embeddings,
    unpack,
)
from benchmark.mapping.finding import Outputs, Work, find_work
from benchmark.mapping.running import one_thread
from benchmark.mapping.scenes import open_scene
from benchmark.mapping.streams import Piece, Stream
from benchmark.mapping.strips import Strip
from benchmark.mapping.vectors import open_sink
from benchmark.progress import LoggedProgress, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmark.mapping.axes import Grid
    from benchmark.networks.embedder import Embedder
    from benchmark.progress import StageProgress

FEW_WINDOWS = 128
"""One scene of so many windows is done sooner in this process than Ray starts."""


def embed_scenes(
    backbone: str | os.PathLike[str],
    scenes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    stride: int,
    size: int | None = None,
    bands: Sequence[str | int] = (),
    value_range: tuple[float, float] | None = None,
    format: str = COG,
    dtype: str = FLOAT32,
    trust_code: bool = False,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> list[EmbeddedScene]:
    """Write a grid of embeddings of each scene into a folder.

    A scene of H x W px has R x C windows, R = (H - size) // stride + 1 and C likewise, and each
    becomes one vector of D values. As ``cog`` it is a raster of D bands of R x C pixels, in a
    table at most R C rows: one for each window that has data. Details: docs/EMBED_SCENES.md.

    One small scene is embedded in this process, unless ``address`` is given; a large one and
    several on Ray. A scene of several that fails is a result with a reason.

    Args:
        backbone: a name as in an experiment, or a folder that ``bm.export`` wrote.
        scenes: a raster, folder, glob, or table with a column ``path``; or a list of these.
        out: a folder; outputs have the names and sub-folders of the scenes.
        stride: distance of two windows in px.
        size: side of a window in px; None: that of the backbone's input, and of the patches of the
            training for an exported folder.
        bands: numbers (from 1) or names of the scenes' bands, in the backbone's order; empty: found
            by name.
        value_range: pixel values that become 0 and 255, for scenes that are not uint8.
        format: ``cog``, ``geoparquet`` or ``neuco_csv``.
        dtype: of a raster: ``float32``, ``float16`` or ``int8`` with a scale for each band; tables
            hold float32.
        trust_code: whether an exported folder may run a program or code of others.
        address: of a Ray cluster, or an open ``Cluster``; None starts Ray on this machine.
        progress: receives the progress; default: the ``benchmark`` logger.

    Returns: one ``EmbeddedScene`` per scene: ``scene``, ``out``, ``status`` (``complete`` or
        ``failed``), ``reason``, ``num_embedded``, ``num_empty``, ``dim`` and ``seconds``.

    Raises:
        UsageError: the backbone, an argument or the only scene cannot be used, or an output exists.

    Example:
        >>> (grid,) = bm.embed_scenes(model, scene, out="grids", stride=32)
        >>> grid.num_embedded, grid.dim
        (64, 8)
    """
    where = "embed_scenes:"
    names = path_texts(f"{where} scenes", scenes)
    check_type(f"{where} stride", stride, Integral, "give a whole number of px")
    check_type(f"{where} size", size, (Integral, type(None)), "give a whole number of px, or None")
    check_bands(f"{where} bands", bands)
    for name, value in (("format", format), ("dtype", dtype)):
        check_type(f"{where} {name}", value, str, "give a name")
    check_type(f"{where} trust_code", trust_code, bool, "give True or False")
    plan = plan_embeddings(
        path_text(f"{where} backbone", backbone, "give a name, or an exported folder"),
        out=(out := path_text(f"{where} out", out)),
        stride=int(stride),
        size=None if size is None else int(size),
        bands=tuple(map(str, bands)),
        value_range=check_range(f"{where} value_range", value_range),
        format=format,
        dtype=dtype,
        trust_code=trust_code,
    )
    outputs = Outputs(
        "embed-scenes", "output", SUFFIXES[plan.format], lambda path: [path], single=False
    )
    works = find_work(names, out, overwrite=False, outputs=outputs)
    grids, reasons = _open_grids(plan, works)
    count = sum(grid.num_patches for grid in grids.values())
    stage = (progress or LoggedProgress()).stage(
        "embed-scenes", num_cells=len(works), num_items=count or None, unit="windows"
    )
    try:
        if len(works) == 1 and address is None and count <= FEW_WINDOWS:
            return [_embed_here(plan, works[0], grids[works[0]], stage)]
        with nullcontext(address) if isinstance(address, Cluster) else Cluster(address) as cluster:
            found = _embed_pooled(plan, grids, cluster, stage, is_only=len(works) == 1)
    finally:
        stage.close()
    for work, reason in reasons.items():
        found[work] = _failed(work, reason, stage)
    return [found[work] for work in works]


def _open_grids(
    plan: EmbeddingPlan, works: Sequence[Work]
) -> tuple[dict[Work, Grid], dict[Work, str]]:
    """Return the windows of each scene, and why others cannot be used."""
    grids, reasons = {}, {}
    for work in works:
        try:
            with open_scene(work.scene, plan.needs) as scene:
                grids[work] = plan.grid(scene)
        except UsageError as error:
            if len(works) == 1:
                raise
            reasons[work] = str(error)
    return grids, reasons


def _embed_here(plan: EmbeddingPlan, work: Work, grid: Grid, stage: StageProgress) -> EmbeddedScene:
    """Embed one scene in this process, with one thread, as an actor on a CPU does."""

    def embed() -> Generator[tuple[Strip, Embedded]]:
        embedder = build_embedder(plan, num_threads=1, device=None)
        with open_scene(work.scene, plan.needs) as scene:
            for strip in cut_windows(grid):
                yield strip, embed_strip(embedder, scene, grid, strip)

    with one_thread():
        return _write(plan, work, grid, embed(), stage)


def _embed_pooled(
    plan: EmbeddingPlan,
    grids: Mapping[Work, Grid],
    cluster: Cluster,
    stage: StageProgress,
    *,
    is_only: bool,
) -> dict[Work, EmbeddedScene]:
    """Embed the strips of all scenes with a pool of Ray actors; this process writes the outputs.

    Scenes lie on disks that all machines of the cluster share.

    Raises:
        BenchmarkError: the only scene has failed.
    """
    from benchmark.cluster.pools import plan_pool

    pool = plan_pool(cluster.connect(), num_actors=None, wants_gpu=not plan.needs_cpu)
    pieces = [Piece(work, strip) for work, grid in grids.items() for strip in cut_windows(grid)]
    stream = Stream(EmbedSceneActor, plan, pieces, pool, keeps_order=True)
    found = {}
    with closing(iter(stream)) as rows:
        for work, grid in grids.items():
            strips = cut_windows(grid)
            mine = islice(rows, len(strips))
            embedded = (
                (strip, unpack(row, grid, strip)) for strip, row in stream.blocks(mine, strips)
            )
            try:
                found[work] = _write(plan, work, grid, embedded, stage)
            except BenchmarkError as error:
                if is_only:
                    raise
                found[work] = _failed(work, str(error), stage)
            for _ in mine:
                pass  # the other strips of a scene that has failed
    return found


def _write(
    plan: EmbeddingPlan,
    work: Work,
    grid: Grid,
    embedded: Generator[tuple[Strip, Embedded]],
    stage: StageProgress,
) -> EmbeddedScene:
    """Write the output of a scene from its strips, from top to bottom."""
    began = time.perf_counter()
    stage.start(work.scene)
    with (
        open_scene(work.scene, plan.needs) as scene,
        open_sink(plan, scene, grid, Path(work.map)) as sink,
        # It may hold the scene open, too: GDAL's settings end in the order in which they began.
        closing(embedded),
    ):
        for strip, item in embedded:
            sink.write(strip, item)
            stage.advance(item.known.size)
    stage.done(work.scene)
    return EmbeddedScene(
        scene=work.scene,
        out=work.map,
        status="complete",
        num_embedded=sink.num_embedded,
        num_empty=grid.num_patches - sink.num_embedded,
        dim=sink.dim,
        seconds=round(time.perf_counter() - began, 3),
    )


def _failed(work: Work, reason: str, stage: StageProgress) -> EmbeddedScene:
    stage.failed(work.scene, reason)
    return EmbeddedScene(scene=work.scene, out=work.map, status="failed", reason=reason)


class EmbedSceneActor:
    """Holds the backbone and embeds strips of scenes (a Ray Data actor)."""

    def __init__(self, plan: EmbeddingPlan, num_threads: int, uses_gpu: bool) -> None:
        self._plan = plan
        device = None if uses_gpu else "cpu"
        self._embedder = build_embedder(plan, num_threads=num_threads, device=device)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Embed the strip in a block of one row; return one row with its vectors."""
        import pyarrow as pa

        work, strip = Piece.from_json(block["piece"][0].as_py())
        assert strip is not None
        reason, vectors = "", {"vectors": [b""], "known": [b""]}
        try:
            with open_scene(work.scene, self._plan.needs) as scene:
                vectors = pack(embed_strip(self._embedder, scene, self._plan.grid(scene), strip))
        except Exception as error:  # of any type: other scenes may work
            reason = one_line(error)
        return pa.table({"reason": [reason], **vectors})


def build_embedder(plan: EmbeddingPlan, *, num_threads: int, device: str | None) -> Embedder:
    """Return the backbone on a device; None: a GPU if there is one."""
    from benchmark.networks.devices import plan_device
    from benchmark.networks.embedder import Embedder

    if plan.needs_cpu:
        # Traced on tensors in the usual layout.
        chosen = plan_device(
            num_threads=num_threads, device="cpu", precision="float32", channels_last=False
        )
    else:
        chosen = plan_device(num_threads=num_threads, device=device)
    return Embedder(plan.backbone, plan.needs.bands, chosen)
