"""Map scenes with a pool of Ray actors: many scenes, one each, and the strips of large ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.exporting.running import open_model
from benchmark.mapping.finding import Work
from benchmark.mapping.running import MapResult, Plan, failed_map, map_whole, write_result
from benchmark.mapping.scenes import open_scene
from benchmark.mapping.sliding import classify_rows
from benchmark.mapping.streams import Piece, Stream
from benchmark.mapping.strips import (
    STRIP_PATCHES,
    Strip,
    cut_strips,
    empty_block,
    pack_rows,
    unpack_rows,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmark.cluster.connection import Cluster
    from benchmark.mapping.axes import Grid
    from benchmark.mapping.sliding import PatchRow
    from benchmark.progress import Progress, StageProgress


def map_many(
    plan: Plan, works: Sequence[Work], cluster: Cluster, progress: Progress
) -> list[MapResult]:
    """Map scenes with a pool of Ray actors; one of many that fails is a result, not an error.

    A scene that holds more than an actor's share of all patches is cut into strips, whose patches
    several actors classify. This process writes its map from them, from top to bottom, and the map
    has the bits that one actor would have written. Scenes, model and maps lie on disks that all
    machines of the cluster share.

    Raises:
        BenchmarkError: the only scene has failed.
    """
    from benchmark.cluster.pools import plan_pool

    # An exported model runs on the CPU.
    pool = plan_pool(cluster.connect(), num_actors=None, wants_gpu=False)
    grids = _open_grids(plan, works)
    strips = {
        work: cut_strips(grids[work], pool.num_actors)
        for work in find_large({work: grids[work].num_patches for work in grids}, pool.num_actors)
    }
    pieces = [
        *(Piece(work, strip) for work, mine in strips.items() for strip in mine),
        *(Piece(work, None) for work in works if work not in strips),
    ]
    num_patches = sum(grid.num_patches for grid in grids.values())
    stage = progress.stage(
        "predict", num_cells=len(works), num_items=num_patches or None, unit="patches"
    )
    stream = Stream(MapActor, plan, pieces, pool, keeps_order=bool(strips))
    rows = iter(stream)
    found: dict[Work, MapResult] = {}
    try:
        for work, mine in strips.items():
            blocks = islice(rows, len(mine))
            stage.start(work.scene)
            try:
                patches = _patches(stream.blocks(blocks, mine), grids[work])
                with open_scene(work.scene, plan.needs) as scene:
                    found[work] = write_result(plan, work, scene, patches, on_patches=stage.advance)
                stage.done(work.scene)
            except BenchmarkError as error:
                if len(works) == 1:
                    raise
                found[work] = failed_map(work, str(error))
                stage.failed(work.scene, str(error))
            for _ in blocks:
                pass  # the other strips of a scene that has failed
        for row in rows:
            result = MapResult(**json.loads(row["result"]))
            work = Work(result.scene, result.map)
            found[work] = result
            _report(stage, result)
        for work in works:
            if work not in found:
                found[work] = failed_map(work, stream.reason)
                _report(stage, found[work])
    finally:
        # Ends the pipeline if not all of it was used.
        rows.close()
        stage.close()
    return [found[work] for work in works]


def find_large(counts: Mapping[Work, int], num_actors: int) -> list[Work]:
    """Return the scenes to cut into strips: those that would keep one actor busy to the end.

    Args:
        counts: patches of each scene.
        num_actors: of the pool.
    """
    share = max(STRIP_PATCHES, sum(counts.values()) / num_actors)
    return [work for work, count in counts.items() if count > share or len(counts) == 1]


def _open_grids(plan: Plan, works: Sequence[Work]) -> dict[Work, Grid]:
    """Return where the patches of each scene lie; an actor tells why a scene cannot be used."""
    found = {}
    for work in works:
        try:
            with open_scene(work.scene, plan.needs) as scene:
                found[work] = plan.grid(scene)
        except UsageError:
            if len(works) == 1:
                raise
    return found


def _patches(blocks: Iterable[tuple[Strip, dict[str, Any]]], grid: Grid) -> Iterator[PatchRow]:
    """Yield the rows of patches of a scene from the blocks of its strips."""
    for strip, block in blocks:
        yield from unpack_rows(block, grid, strip)


class MapActor:
    """Holds the model and maps scenes or strips (a Ray Data actor)."""

    def __init__(self, plan: Plan, num_threads: int, uses_gpu: bool) -> None:
        import torch

        del uses_gpu  # An exported model runs on the CPU.

        torch.set_num_threads(num_threads)
        self._plan = plan
        self._model = open_model(plan.model, trust_code=plan.trust_code)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Do the piece in a block of one row; return one row with what came of it."""
        import pyarrow as pa

        work, strip = Piece.from_json(block["piece"][0].as_py())
        result, reason, patches = "", "", empty_block()
        try:
            if strip is None:
                result = json.dumps(map_whole(self._plan, self._model, work).to_json())
            else:
                patches = self._classify(work, strip)
        except Exception as error:  # of any type: other scenes may work
            reason = one_line(error)
            result = json.dumps(failed_map(work, reason).to_json())
        return pa.table({"result": [result], "reason": [reason], **patches})

    def _classify(self, work: Work, strip: Strip) -> dict[str, list[bytes]]:
        with open_scene(work.scene, self._plan.needs) as scene:
            grid = self._plan.grid(scene)
            return pack_rows(classify_rows(self._model, scene, grid, *strip))


def _report(stage: StageProgress, result: MapResult) -> None:
    if result.status == "failed":
        stage.failed(result.scene, result.reason)
        return
    stage.advance(result.num_patches)
    stage.done(result.scene)
