"""Export a run's counts to Prometheus through Ray: patches, trials, cells and queued items.

Ray's agent on each node exports them with its own metrics (docs/CLUSTERS.md), under the names of
``exported_names``. Nothing is counted unless Ray is running, and a failed count never fails a run.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.progress import Progress, Snapshot, StageCounts, StageProgress

logger = logging.getLogger("benchmark")

Kind = Literal["Counter", "Gauge", "Histogram"]

CELL_SECONDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)
"""Upper bounds of the histogram's buckets."""

REPEAT_S = 8.0
"""Ray drops a gauge that is not set for 20 seconds, and a cell may take hours."""


@dataclass(frozen=True)
class MetricSpec:
    """One metric: its name without Ray's prefix, what it counts, and its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus finds it."""
        suffixes = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_count")}
        return tuple(f"ray_{self.name}{suffix}" for suffix in suffixes[self.kind])


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec(
            "benchmark_items",
            "Counter",
            "Items completed by stages: windows, patches, trials, predictions, figures.",
            ("experiment", "stage", "unit"),
        ),
        MetricSpec(
            "benchmark_items_queued",
            "Gauge",
            "Items that remain for a stage, if it knows their number.",
            ("experiment", "stage", "unit"),
        ),
        MetricSpec(
            "benchmark_cells",
            "Gauge",
            "Cells of a stage that are queued, running, done or failed in this run.",
            ("experiment", "stage", "state"),
        ),
        MetricSpec(
            "benchmark_cell_seconds",
            "Histogram",
            "Seconds from the start of a cell to its end.",
            ("experiment", "stage"),
        ),
        MetricSpec(
            "benchmark_embedded_patches",
            "Counter",
            "Patches that an embedding actor has embedded with a backbone.",
            ("backbone", "actor"),
        ),
        MetricSpec(
            "benchmark_forward_seconds",
            "Counter",
            "Seconds of an embedding actor in the forward pass; the rate is the share of time.",
            ("backbone", "actor"),
        ),
    )
}


def exported_names() -> set[str]:
    """Return every name that Prometheus finds."""
    return {name for spec in METRICS.values() for name in spec.exported}


class Meters:
    """The metrics of one run in one process; made once Ray is connected."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._is_off = False

    def record(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter, set a gauge, or observe a value; nothing unless Ray is running."""
        if self._is_off or not is_connected():
            return
        kind = METRICS[name].kind
        if kind == "Counter" and value <= 0:
            return
        try:
            with self._lock:
                if name not in self._made:
                    self._made[name] = _make(METRICS[name])
                metric = self._made[name]
            method = {"Counter": "inc", "Gauge": "set", "Histogram": "observe"}[kind]
            getattr(metric, method)(value, tags=labels)
        except Exception as error:  # no error of the metrics may fail the run
            self._is_off = True
            logger.debug("no more metrics: %s", error)


def is_connected() -> bool:
    """Return whether Ray is running for this process, without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _make(spec: MetricSpec) -> Any:
    from ray.util import metrics

    if spec.kind == "Histogram":
        return metrics.Histogram(
            spec.name, spec.help, boundaries=list(CELL_SECONDS), tag_keys=spec.labels
        )
    return getattr(metrics, spec.kind)(spec.name, spec.help, tag_keys=spec.labels)


class ForwardMeter:
    """Counts, in an embedding actor, its patches and its time in the forward pass."""

    def __init__(self) -> None:
        self._meters = Meters()
        self._actor = ""

    def count(self, backbone: str, num_patches: int, seconds: float) -> None:
        """Count a block of patches and the seconds that its forward pass took."""
        if not self._actor and is_connected():
            import ray

            self._actor = str(ray.get_runtime_context().get_actor_id() or "none")[:12]
        labels = {"backbone": backbone, "actor": self._actor}
        self._meters.record("benchmark_embedded_patches", num_patches, **labels)
        self._meters.record("benchmark_forward_seconds", seconds, **labels)


class MeteredProgress:
    """Forwards the progress of a run, and counts it for Prometheus."""

    def __init__(self, inner: Progress, *, experiment: str) -> None:
        self._inner = inner
        self._experiment = experiment
        self._meters = Meters()

    def stage(
        self, name: str, *, num_cells: int, num_items: int | None, unit: str
    ) -> StageProgress:
        """Begin a stage."""
        inner = self._inner.stage(name, num_cells=num_cells, num_items=num_items, unit=unit)
        labels = {"experiment": self._experiment, "stage": name}
        return _MeteredStage(inner, self._meters, StageCounts(num_cells, num_items), labels, unit)

    def message(self, text: str) -> None:
        """Forward the line."""
        self._inner.message(text)


class _MeteredStage:
    def __init__(
        self,
        inner: StageProgress,
        meters: Meters,
        counts: StageCounts,
        labels: dict[str, str],
        unit: str,
    ) -> None:
        self._inner, self._meters, self._counts = inner, meters, counts
        self._labels, self._unit = labels, unit
        self._is_closed = threading.Event()
        self._show(counts.snapshot())
        threading.Thread(target=self._repeat, name="gauges", daemon=True).start()

    def start(self, cell: str) -> None:
        self._inner.start(cell)
        self._show(self._counts.start(cell))

    def advance(self, count: int) -> None:
        self._inner.advance(count)
        self._meters.record("benchmark_items", count, **self._labels, unit=self._unit)
        self._show_items(self._counts.advance(count))

    def done(self, cell: str) -> None:
        self._inner.done(cell)
        self._end(cell, failed=False)

    def failed(self, cell: str, reason: str) -> None:
        self._inner.failed(cell, reason)
        self._end(cell, failed=True)

    def close(self) -> None:
        self._is_closed.set()
        self._inner.close()
        self._show(self._counts.snapshot())

    def _repeat(self) -> None:
        while not self._is_closed.wait(REPEAT_S):
            self._show(self._counts.snapshot())

    def _end(self, cell: str, *, failed: bool) -> None:
        now, seconds = self._counts.end(cell, failed=failed)
        if seconds is not None:
            self._meters.record("benchmark_cell_seconds", seconds, **self._labels)
        self._show(now)

    def _show(self, now: Snapshot) -> None:
        counts = {
            "queued": now.num_queued,
            "running": len(now.running),
            "done": now.num_done,
            "failed": now.num_failed,
        }
        for state, count in counts.items():
            self._meters.record("benchmark_cells", count, **self._labels, state=state)
        self._show_items(now)

    def _show_items(self, now: Snapshot) -> None:
        if now.num_items_wanted is not None:
            queued = now.num_items_queued
            self._meters.record("benchmark_items_queued", queued, **self._labels, unit=self._unit)
