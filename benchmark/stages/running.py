"""Run the stages: first patches, then embed, tune and finetune side by side, then the scores.

Stages that the ledger admits together run in one thread each, which drives a Ray pipeline. A stage
admitted alone runs in the calling thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmark.experiment.context import Context
from benchmark.stages import STAGES
from benchmark.store.damage import AGAIN

if TYPE_CHECKING:
    from benchmark.stages.base import Stage, StageResult

FIRST = ("patches",)
SIDE_BY_SIDE = ("embed", "tune", "finetune")
LAST = ("evaluate", "report")

NUM_PASSES = len(FIRST) + len(SIDE_BY_SIDE) + len(LAST)
"""Most times that the stages run: a file may be damaged that is read after another one."""


def run_stages(context: Context) -> list[StageResult]:
    """Run all stages and return their results in the order of ``STAGES``.

    They run again, a few times at most, if a cell failed because a file that it read was damaged.

    Raises:
        UsageError: the user's input is wrong; stages that run in parallel end first.
    """
    stages = {entry.name: entry.load() for entry in STAGES}
    for stage in stages.values():
        stage.check(context)
    for _ in range(NUM_PASSES - 1):
        results = _run_once(context, stages)
        cells = [cell for result in results for cell in result.cells]
        if not any(cell.status == "failed" and AGAIN in cell.reason for cell in cells):
            return results
        context.progress.message("damaged files were removed: running their stages again")
        context.failures.clear()
        context.examined.clear()
    return _run_once(context, stages)


def _run_once(context: Context, stages: Mapping[str, Stage]) -> list[StageResult]:
    results = [stages[name].run(context) for name in FIRST]
    for name in (*SIDE_BY_SIDE, *LAST):
        # Checked again, now that the patches can be counted.
        stages[name].check(context)
    results += run_side_by_side(context, [stages[name] for name in SIDE_BY_SIDE])
    results += [stages[name].run(context) for name in LAST]
    return results


def run_side_by_side(context: Context, stages: Sequence[Stage]) -> list[StageResult]:
    """Run stages, in parallel if the cluster has room, and return their results.

    Raises:
        UsageError: the user's input is wrong; stages that run in parallel end first.
    """
    lanes = _Lanes(context, stages)
    try:
        while lanes.waiting or lanes.running:
            lanes.begin()
            if lanes.running:
                lanes.await_one()
    except BaseException:
        context.is_stopping.set()
        raise
    if lanes.errors:
        raise lanes.errors[0]
    return [lanes.results[stage.name] for stage in stages]


@dataclass
class _Lanes:
    context: Context
    stages: Sequence[Stage]
    waiting: list[Stage] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    results: dict[str, StageResult] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    _ended: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.waiting = list(self.stages)
        for stage in self.stages:
            stage.discard_damage(self.context)
        self.context.ledger.open(
            stage.name
            for stage in self.stages
            if any(not cell.artefact.is_complete for cell in stage.cells(self.context))
        )

    def begin(self) -> None:
        """Start the admitted stages: in this thread if one runs alone, else in a thread each."""
        if self.errors:
            # Running stages continue to their end; no other stage starts.
            self.waiting.clear()
            return
        ledger = self.context.ledger
        for stage in [item for item in self.waiting if not ledger.is_open(item.name)]:
            self.waiting.remove(stage)
            self._run(stage)
        if not self.waiting:
            return
        if len(self.waiting) == 1 and not self.running:
            # Do not ask for the resources: the stage may not need a cluster.
            admitted = [self.waiting[0]]
        else:
            names = ledger.admitted(self.context.cluster.connect())
            admitted = [stage for stage in self.waiting if stage.name in names]
        is_alone = len(admitted) == 1 and not self.running
        for stage in admitted:
            self.waiting.remove(stage)
            if is_alone:
                self._run(stage)
            else:
                self.running.add(stage.name)
                threading.Thread(
                    target=self._run_beside, args=(stage,), name=stage.name, daemon=True
                ).start()

    def await_one(self) -> None:
        """Wait until a stage has ended."""
        self.running.discard(self._ended.get())

    def _run_beside(self, stage: Stage) -> None:
        try:
            self._run(stage)
        except BaseException as error:  # raised again when the other stages have ended
            self.errors.append(error)
        finally:
            self._ended.put(stage.name)

    def _run(self, stage: Stage) -> None:
        try:
            self.results[stage.name] = stage.run(self.context)
        finally:
            self.context.ledger.close(stage.name)
