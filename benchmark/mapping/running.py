"""Plan the maps of a model, and map a scene in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError, UsageError
from benchmark.exporting.running import PROGRAM, check_trusted, open_model, read_description
from benchmark.mapping.axes import Grid
from benchmark.mapping.finding import Work
from benchmark.mapping.rasters import MAX_CLASSES, MapPaths
from benchmark.mapping.scenes import Needs, open_scene
from benchmark.mapping.sliding import classify_rows, write_map

if TYPE_CHECKING:
    from benchmark.exporting.running import OpenedModel
    from benchmark.mapping.scenes import Scene
    from benchmark.mapping.sliding import PatchRow
    from benchmark.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How scenes become maps."""

    model: str
    """The exported folder."""
    classes: tuple[str, ...]
    """Names of the K classes."""
    needs: Needs
    stride: int
    tags: dict[str, str]
    trust_code: bool
    """Whether the folder's code may run; a program was checked on the driver."""

    def grid(self, scene: Scene) -> Grid:
        """Return where the patches of an open scene lie."""
        shape = scene.dataset.shape
        return Grid.of(shape, patch_size=self.needs.patch_size, stride=self.stride)


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
    needs = Needs.checked(names, size, bands, value_range, of="model")
    tags = {
        "TIFFTAG_SOFTWARE": "backbone-benchmark",
        "MODEL": f"{described.get('backbone', '-')} / {described.get('method', '-')}",
        "MODEL_ARTEFACT": str(described.get("artefact", "-")),
        "PATCH_SIZE": str(size),
        "STRIDE": str(stride),
    }
    trust_code = trust_code or described["kind"] == PROGRAM
    return Plan(
        model=model,
        classes=tuple(classes),
        needs=needs,
        stride=stride,
        tags=tags,
        trust_code=trust_code,
    )


def map_here(plan: Plan, work: Work, progress: Progress) -> MapResult:
    """Map one scene in this process, with one thread, as an actor does.

    Raises:
        UsageError: the model or the scene cannot be used.
    """
    count = count_patches(plan, work)
    stage = progress.stage("predict", num_cells=1, num_items=count, unit="patches")
    stage.start(work.scene)
    try:
        with one_thread():
            model = open_model(plan.model, trust_code=plan.trust_code)
            result = map_whole(plan, model, work, on_patches=stage.advance)
        stage.done(work.scene)
    except BenchmarkError as error:
        stage.failed(work.scene, str(error))
        raise
    finally:
        stage.close()
    return result


def count_patches(plan: Plan, work: Work) -> int:
    """Return the number of patches of a scene.

    Raises:
        UsageError: the scene does not suit the model.
    """
    with open_scene(work.scene, plan.needs) as scene:
        return plan.grid(scene).num_patches


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: several would sum in another order than an actor, which has one."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def map_whole(
    plan: Plan,
    model: OpenedModel,
    work: Work,
    *,
    on_patches: Callable[[int], None] = lambda _: None,
) -> MapResult:
    """Map a scene with an open model; ``on_patches`` gets the number of further patches.

    Raises:
        UsageError: the scene cannot be used.
    """
    with open_scene(work.scene, plan.needs) as scene:
        grid = plan.grid(scene)
        rows = classify_rows(model, scene, grid, 0, len(grid.rows))
        return write_result(plan, work, scene, rows, on_patches=on_patches)


def write_result(
    plan: Plan,
    work: Work,
    scene: Scene,
    rows: Iterable[PatchRow],
    *,
    on_patches: Callable[[int], None] = lambda _: None,
) -> MapResult:
    """Write the map of a scene from the rows of its patches, and tell what it holds."""
    began = time.perf_counter()
    out = Path(work.map)
    tags = {**plan.tags, "SCENE": Path(work.scene).name}
    mapped = write_map(
        rows, scene, plan.grid(scene), out, plan.classes, tags=tags, on_patches=on_patches
    )
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


def failed_map(work: Work, reason: str) -> MapResult:
    """Return the result of a scene that has no map."""
    confidence = str(MapPaths.of(Path(work.map)).confidence)
    return MapResult(
        scene=work.scene, map=work.map, confidence=confidence, status="failed", reason=reason
    )
