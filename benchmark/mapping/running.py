"""Map one scene in this process, or many with a pool of Ray actors."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.exporting.running import PROGRAM, check_trusted, open_model, read_description
from benchmark.fields import shown
from benchmark.mapping.finding import Work
from benchmark.mapping.rasters import MAX_CLASSES, MapPaths
from benchmark.mapping.scenes import Needs, open_scene
from benchmark.mapping.sliding import map_scene, num_patches

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmark.cluster.connection import Cluster
    from benchmark.exporting.running import OpenedModel
    from benchmark.progress import Progress, StageProgress

RESTARTS: dict[str, Any] = {"max_restarts": 3, "max_task_retries": 3}
"""By default, Ray retries a scene that kills its process for ever."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How scenes become maps."""

    model: str
    """The exported folder."""
    needs: Needs
    stride: int
    tags: dict[str, str]
    trust_code: bool
    """Whether the folder's code may run; a program was checked on the driver."""


@dataclass(frozen=True, kw_only=True)
class MapResult:
    """One map, or the reason why there is none."""

    scene: str
    map: str
    confidence: str
    status: str
    """``complete`` or ``failed``."""
    reason: str = ""
    num_patches: int = 0
    pixels: dict[str, int] | None = None
    """Number of pixels of each class."""
    empty_pixels: int = 0
    """Pixels without data."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def plan_maps(
    model: str,
    *,
    stride: int | None = None,
    bands: Sequence[str] = (),
    value_range: tuple[float, float] | None = None,
    trust_code: bool = False,
) -> Plan:
    """Read what an exported folder needs, and check the options against it; open nothing.

    Args:
        model: the exported folder.
        stride: distance of two patches in px; None: the size of a patch.
        bands: numbers or names of the scenes' bands, in the model's order; empty: found by name.
        value_range: pixel values that become 0 and 255, for scenes that are not uint8.
        trust_code: whether to run a program of others.

    Raises:
        UsageError: the folder was not exported or is not trusted, or an option does not suit it.
    """
    described = read_description(model)
    size, classes = described.get("patch_size"), described["classes"]
    if size is None:
        raise UsageError(f"{model}: does not tell the size of its patches; export it again")
    if len(classes) > MAX_CLASSES:
        raise UsageError(f"{model}: has {len(classes)} classes; a map holds {MAX_CLASSES}")
    check_trusted(model, trust_code=trust_code)
    stride = size if stride is None else stride
    if not 1 <= stride <= size:
        raise UsageError(
            f"--stride {stride}: give 1 to {size} px; {size} is the size of the model's patches"
        )
    names = tuple(described["bands"])
    if bands and len(bands) != len(names):
        raise UsageError(
            f"--bands {shown(','.join(bands), 100)}: names {len(bands)}; the model takes "
            f"{len(names)}, in this order: {', '.join(names)}"
        )
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UsageError(
            f"--value-range {value_range[0]:g} {value_range[1]:g}: give the smaller value first"
        )
    tags = {
        "TIFFTAG_SOFTWARE": "backbone-benchmark",
        "MODEL": f"{described.get('backbone', '-')} / {described.get('method', '-')}",
        "MODEL_ARTEFACT": str(described.get("artefact", "-")),
        "PATCH_SIZE": str(size),
        "STRIDE": str(stride),
    }
    needs = Needs(names, size, tuple(bands), value_range)
    trust_code = trust_code or described["kind"] == PROGRAM
    return Plan(model=model, needs=needs, stride=stride, tags=tags, trust_code=trust_code)


def map_here(plan: Plan, work: Work, progress: Progress) -> MapResult:
    """Map one scene in this process.

    Raises:
        UsageError: the model or the scene cannot be used.
    """
    with open_scene(work.scene, plan.needs) as scene:
        count = num_patches(
            scene.dataset.shape, patch_size=plan.needs.patch_size, stride=plan.stride
        )
    model = open_model(plan.model, trust_code=plan.trust_code)
    stage = progress.stage("predict", num_cells=1, num_items=count, unit="patches")
    stage.start(work.scene)
    try:
        result = _map(plan, model, work, on_patches=stage.advance)
        stage.done(work.scene)
    except BenchmarkError as error:
        stage.failed(work.scene, str(error))
        raise
    finally:
        stage.close()
    return result


def map_many(
    plan: Plan, works: Sequence[Work], cluster: Cluster, progress: Progress
) -> list[MapResult]:
    """Map scenes with a pool of Ray actors; a scene that fails is a result, not an error.

    Scenes, model and maps lie on disks that all machines of the cluster share.
    """
    stage = progress.stage("predict", num_cells=len(works), num_items=None, unit="patches")
    found: dict[str, MapResult] = {}
    reason = "its process died repeatedly (out of memory?)"
    try:
        for row in _stream(plan, works, cluster):
            result = MapResult(**json.loads(row["result"]))
            found[result.scene] = result
            _report(stage, result)
    except BenchmarkError as error:
        reason = str(error)
    except Exception as error:  # Ray raises what the worker raised, of any type
        reason = f"the pipeline stopped: {one_line(error)}"
    for item in works:
        if item.scene not in found:
            found[item.scene] = _failed(item, reason)
            _report(stage, found[item.scene])
    stage.close()
    return [found[item.scene] for item in works]


class MapActor:
    """Holds the model and maps scenes (a Ray Data actor)."""

    def __init__(self, plan: Plan, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._plan = plan
        self._model = open_model(plan.model, trust_code=plan.trust_code)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Map the scene of a block of one row; return one row with the result as JSON."""
        import pyarrow as pa

        work = Work(**json.loads(block["work"][0].as_py()))
        try:
            result = _map(self._plan, self._model, work)
        except Exception as error:  # of any type: other scenes may work
            result = _failed(work, one_line(error))
        return pa.table({"result": [json.dumps(result.to_json())]})


def _stream(plan: Plan, works: Sequence[Work], cluster: Cluster) -> Iterator[dict[str, Any]]:
    from benchmark.cluster.pools import plan_pool
    from benchmark.cluster.streaming import Items, read_items, status_rows

    pool = plan_pool(cluster.connect(), num_actors=None, wants_gpu=False)
    num_actors = min(pool.num_actors, len(works))
    with warnings.catch_warnings():
        # The only way to bound restarts; deprecated before it has a replacement.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = read_items(Items("scenes", works, read_work), num_items=len(works)).map_batches(
            MapActor,
            fn_constructor_args=(plan, pool.num_threads),
            batch_size=1,
            batch_format="pyarrow",
            concurrency=num_actors,
            num_cpus=pool.num_cpus,
            **RESTARTS,
        )
    return status_rows(dataset)


def read_work(work: Work) -> pa.Table:
    """Return one row that names a scene and its map (a Ray Data read task)."""
    import pyarrow as pa

    return pa.table({"work": [json.dumps(work._asdict())]})


def _map(
    plan: Plan,
    model: OpenedModel,
    work: Work,
    *,
    on_patches: Callable[[int], None] = lambda _: None,
) -> MapResult:
    began = time.perf_counter()
    out = Path(work.map)
    tags = {**plan.tags, "SCENE": Path(work.scene).name}
    with open_scene(work.scene, plan.needs) as scene:
        mapped = map_scene(model, scene, out, stride=plan.stride, tags=tags, on_patches=on_patches)
    return MapResult(
        scene=work.scene,
        map=work.map,
        confidence=str(MapPaths.of(out).confidence),
        status="complete",
        num_patches=mapped.num_patches,
        pixels=mapped.counts,
        empty_pixels=mapped.num_empty,
        seconds=round(time.perf_counter() - began, 3),
    )


def _failed(work: Work, reason: str) -> MapResult:
    confidence = str(MapPaths.of(Path(work.map)).confidence)
    return MapResult(
        scene=work.scene, map=work.map, confidence=confidence, status="failed", reason=reason
    )


def _report(stage: StageProgress, result: MapResult) -> None:
    if result.status == "failed":
        stage.failed(result.scene, result.reason)
        return
    stage.advance(result.num_patches)
    stage.done(result.scene)
