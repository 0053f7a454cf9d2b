"""Poll the status of an experiment's cells while runs write the store.

A complete cell stays complete and a cell without a folder has not begun: neither is read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import pyarrow.fs as pafs

from benchmark.experiment.cells import Cell, CellResult
from benchmark.experiment.context import Context
from benchmark.stages import STAGES
from benchmark.stages.running import LAST
from benchmark.store.artefacts import LEFT_OUT


@dataclass(frozen=True)
class StageCount:
    """The number of cells of a stage by status."""

    stage: str
    num_cells: int
    num_complete: int
    num_running: int
    num_failed: int
    num_left_out: int

    def numbers(self) -> dict[str, int]:
        """Return the counts by name."""
        return {key: value for key, value in asdict(self).items() if key != "stage"}

    def short(self) -> str:
        """Return the counts in a few words: ``tune 3/8 (1 running, 2 failed)``."""
        text = f"{self.stage} {self.num_complete}/{self.num_cells}"
        return f"{text} ({', '.join(self._unusual())})" if self._unusual() else text

    def __str__(self) -> str:
        text = f"{self.stage}: {self.num_complete} of {self.num_cells} cells complete"
        return ", ".join([text, *self._unusual()])

    def _unusual(self) -> list[str]:
        counts = {
            "running": self.num_running,
            "failed": self.num_failed,
            LEFT_OUT: self.num_left_out,
        }
        return [f"{count} {name}" for name, count in counts.items() if count]


@dataclass(frozen=True)
class View:
    """The status of the cells at one time."""

    results: Sequence[CellResult]
    running: dict[str, str] = field(default_factory=dict)
    """The run that computes each cell, by the artefact's path."""
    is_run_alive: bool = False
    """Whether a run of this experiment is alive."""

    @property
    def failed(self) -> list[CellResult]:
        """The failed cells that no run is retrying."""
        return [
            item
            for item in self.results
            if item.status == "failed" and item.cell.artefact.path not in self.running
        ]

    @property
    def is_over(self) -> bool:
        """Whether every cell is complete or left out, or failed with no run that may retry it."""
        statuses = {item.status for item in self.results} - {LEFT_OUT}
        return statuses <= {"complete"} or (
            statuses <= {"complete", "failed"} and not self.is_run_alive
        )

    def counts(self) -> list[StageCount]:
        """Return the counts of each stage that has cells, in stage order."""
        stages = dict.fromkeys(item.cell.stage for item in self.results)
        return [self._count(stage) for stage in stages]

    def _count(self, stage: str) -> StageCount:
        cells = [item for item in self.results if item.cell.stage == stage]
        found = Counter(
            "running"
            if item.status != "complete" and item.cell.artefact.path in self.running
            else item.status
            for item in cells
        )
        names = ("complete", "running", "failed", LEFT_OUT)
        return StageCount(stage, len(cells), *(found[name] for name in names))


class Watcher:
    """Polls the cells of every stage; each poll reads only those that may have changed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stages = [entry.load() for entry in STAGES]
        self._cells: list[Cell] = []
        self._known: dict[str, CellResult] = {}
        self._last: set[str] = set()
        """The folders of the last stages, whose cells depend on which artefacts are complete."""

    def look(self) -> View:
        """Return the current status of the cells, without writing to the store.

        Raises:
            CellError: the store cannot be read.
        """
        last = {folder for stage in LAST for folder in self._folders(stage)}
        if is_first := not self._cells:
            self._list_cells()
        # Before what is complete: a cell that is released in between is then complete, and not
        # seen as one that nobody has begun.
        running, is_alive = self._context.leases.observe(cell.artefact for cell in self._cells)
        if not is_first and (self._refresh(last) or not last <= self._last):
            self._list_cells()
        self._last = last
        results = [self._known[cell.artefact.path] for cell in self._cells]
        return View(results, running, is_alive)

    def _list_cells(self) -> None:
        self._cells = [cell for stage in self._stages for cell in stage.cells(self._context)]
        for cell in self._cells:
            if cell.artefact.path not in self._known:
                status, reason = cell.artefact.status()
                self._known[cell.artefact.path] = CellResult(
                    cell=cell, status=status, reason=reason
                )

    def _refresh(self, last: set[str]) -> bool:
        """Read the cells that have begun; return whether this makes complete scores stale."""
        waiting = [cell for cell in self._cells if self._before(cell).status != "complete"]
        stages = {cell.stage for cell in waiting if cell.stage not in LAST}
        begun = last.union(*(self._folders(stage) for stage in stages))
        changed = False
        for cell in waiting:
            if cell.artefact.folder in begun:
                status, reason = cell.artefact.own_status()
                before = self._before(cell)
                if status == "missing" and before.status == "stale":
                    continue
                found = CellResult(cell=cell, status=status, reason=reason)
                changed |= found != before
                self._known[cell.artefact.path] = found
        done = {cell.stage for cell in self._cells if self._before(cell).status == "complete"}
        return changed and not done.isdisjoint(LAST)

    def _before(self, cell: Cell) -> CellResult:
        return self._known[cell.artefact.path]

    def _folders(self, stage: str) -> set[str]:
        store = self._context.store
        selector = pafs.FileSelector(f"{store.root}/{stage}", allow_not_found=True)
        found = store.attempt(stage, "read", lambda: store.fs.get_file_info(selector))
        return {f"{stage}/{info.base_name}" for info in found}
