"""Maps of scenes by an exported model: the one call behind the command and Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from numbers import Integral

from benchmark.arguments import check_bands, check_range, check_type, path_text, path_texts
from benchmark.cluster.connection import Cluster
from benchmark.mapping.finding import find_work
from benchmark.mapping.pooled import map_many
from benchmark.mapping.running import MapResult, count_patches, map_here, plan_maps
from benchmark.progress import LoggedProgress, Progress

FEW_PATCHES = 128
"""One scene of so many patches is done sooner in this process than Ray starts."""


def predict_maps(
    model: str | os.PathLike[str],
    scenes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    stride: int | None = None,
    bands: Sequence[str | int] = (),
    value_range: tuple[float, float] | None = None,
    trust_code: bool = False,
    address: str | Cluster | None = None,
    progress: Progress | None = None,
) -> list[MapResult]:
    """Slide an exported model over scenes and write a map of each.

    One small raster is mapped in this process, unless ``address`` is given; a large one and several
    on Ray. The maps have the same bits. A scene of several that fails is a result.

    Args:
        model: the exported folder.
        scenes: a raster, folder, glob, or table with a column ``path``; or a list of these.
        out: the map ``MAP.tif`` of one raster, or a folder.
        overwrite: whether to replace maps.
        stride: distance of two patches in px; None: the size of a patch.
        bands: numbers (from 1) or names of the scenes' bands, in the model's order; empty: found
            by name.
        value_range: pixel values that become 0 and 255, for scenes that are not uint8.
        trust_code: whether to run a program of others in the exported folder.
        address: of a Ray cluster, or an open ``Cluster``; None starts Ray on this machine.
        progress: receives the progress; default: the ``benchmark`` logger.

    Raises:
        UsageError: the model, an argument or the only scene cannot be used, or a map exists.

    Example:
        >>> scene = next(Path("scenes").glob("pa_*-test_tiles/*naip-new.tif"))
        >>> (result,) = bm.predict_maps(model, scene, out="map.tif")
        >>> result.status, result.num_patches
        ('complete', 64)
    """
    where = "predict_maps:"
    names = path_texts(f"{where} scenes", scenes)
    target = path_text(f"{where} out", out)
    check_type(
        f"{where} stride", stride, (Integral, type(None)), "give a whole number of px, or None"
    )
    check_bands(f"{where} bands", bands)
    for name, value in (("overwrite", overwrite), ("trust_code", trust_code)):
        check_type(f"{where} {name}", value, bool, "give True or False")
    plan = plan_maps(
        path_text(f"{where} model", model, "give an exported folder"),
        stride=None if stride is None else int(stride),
        bands=tuple(map(str, bands)),
        value_range=check_range(f"{where} value_range", value_range),
        trust_code=trust_code,
    )
    works = find_work(names, target, overwrite=overwrite)
    shown = progress or LoggedProgress()
    if len(works) == 1 and address is None and count_patches(plan, works[0]) <= FEW_PATCHES:
        return [map_here(plan, works[0], shown)]
    with nullcontext(address) if isinstance(address, Cluster) else Cluster(address) as cluster:
        return map_many(plan, works, cluster, shown)
