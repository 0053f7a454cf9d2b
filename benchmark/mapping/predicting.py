"""Maps of scenes by an exported model: the one call behind the command and Python."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmark.cluster.connection import Cluster
from benchmark.mapping.finding import find_work
from benchmark.mapping.pooled import map_many
from benchmark.mapping.running import MapResult, count_patches, map_here, plan_maps
from benchmark.progress import LoggedProgress, Progress

FEW_PATCHES = 128
"""One scene of so many patches is done sooner in this process than Ray starts."""


def predict_maps(
    model: str | Path,
    scenes: Sequence[str],
    *,
    out: str | Path,
    overwrite: bool = False,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[MapResult]:
    """Slide an exported model over scenes and write a map of each.

    One small raster is mapped in this process, unless ``address`` is given; a large one and several
    on Ray. The maps have the same bits. A scene of several that fails is a result.

    Args:
        model: the exported folder.
        scenes: rasters, folders, globs, or tables with a column ``path``.
        out: the map ``MAP.tif`` of one raster, or a folder.
        overwrite: whether to replace maps.
        address: of a Ray cluster, or an open ``Cluster``; None starts Ray on this machine.
        progress: receives the progress; default: the ``benchmark`` logger.
        **options: of ``mapping.running.plan_maps``.

    Raises:
        UsageError: the model, an option or the only scene cannot be used, or a map exists.

    Example:
        >>> scene = next(Path("scenes").glob("pa_*-test_tiles/*naip-new.tif"))
        >>> (result,) = bm.predict_maps(model, [str(scene)], out="map.tif")
        >>> result.status, result.num_patches
        ('complete', 64)
    """
    plan = plan_maps(str(model), **options)
    works = find_work(scenes, str(out), overwrite=overwrite)
    shown = progress or LoggedProgress()
    if len(works) == 1 and address is None and count_patches(plan, works[0]) <= FEW_PATCHES:
        return [map_here(plan, works[0], shown)]
    with nullcontext(address) if isinstance(address, Cluster) else Cluster(address) as cluster:
        return map_many(plan, works, cluster, shown)
