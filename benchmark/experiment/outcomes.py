"""What became of the artefacts of a run: complete, failed, left out, still to come."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from benchmark.cluster.scheduling import Ledger
from benchmark.errors import CellError
from benchmark.progress import Progress
from benchmark.store.artefacts import LEFT_OUT, Artefact, Status

Readiness = Literal["ready", "waiting", "blocked"]


@dataclass(kw_only=True)
class Outcomes(ABC):
    """The status of artefacts, failures of this run included."""

    progress: Progress
    failures: dict[str, str] = field(default_factory=dict)
    """Why artefacts failed in this run, by path; dependent artefacts fail with the same reason."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why artefacts are not computed although nothing failed, by path."""
    unsuited: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why a mode of fine-tuning does not suit a backbone, by backbone and method; empty: it does.
    Those that are absent were not examined yet."""
    examined: set[str] = field(default_factory=set)
    """Paths of the complete artefacts whose files this run has compared with their manifests."""
    is_stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the run is interrupted: cells that end because of it have not failed."""

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """The stages with work."""

    def readiness(self, artefact: Artefact) -> Readiness:
        """Return whether dependents of an artefact can be computed, now or later in this run."""
        # Before the check below: the stage may complete it and close in between.
        may_come = artefact.path not in self.failures and self.ledger.is_open(artefact.stage)
        if artefact.is_complete:
            return "ready"
        return "waiting" if may_come else "blocked"

    def status(self, artefact: Artefact) -> tuple[Status, str]:
        """Return the status and reason of an artefact, failures of this run included."""
        if not artefact.is_complete:
            if artefact.path in self.left_out:
                return LEFT_OUT, self.left_out[artefact.path]
            if artefact.path in self.failures:
                return "failed", self.failures[artefact.path]
        return artefact.status()

    def why_missing(self, artefact: Artefact) -> str:
        """Return why dependents of an incomplete artefact cannot be computed."""
        status, reason = self.status(artefact)
        if status == "failed":
            return f"{artefact.stage} failed: {reason}"
        if status == LEFT_OUT:
            return f"{artefact.stage} is left out: {reason}"
        return f"{artefact.stage} is {status}: run `benchmark {artefact.stage}` first"

    def block(self, artefact: Artefact, dependency: Artefact) -> None:
        """Record that an artefact cannot be computed because of its dependency.

        Written to the store only if the dependency failed: one that has not been run is missing.
        """
        reason = self.why_missing(dependency)
        self.failures[artefact.path] = reason
        if self.status(dependency)[0] == "failed":
            self.fail(artefact, reason)

    def fail(self, artefact: Artefact, reason: str) -> None:
        """Record that an artefact failed, here and in the store."""
        if self.is_stopping.is_set():
            return
        self.failures[artefact.path] = reason
        self._record(artefact, reason, is_left_out=False)

    def record_left_out(self, artefact: Artefact) -> None:
        """Record in the store that an artefact is left out, if it is."""
        if artefact.path in self.left_out and not self.is_stopping.is_set():
            self._record(artefact, self.left_out[artefact.path], is_left_out=True)

    def _record(self, artefact: Artefact, reason: str, *, is_left_out: bool) -> None:
        try:
            artefact.fail(reason, is_left_out=is_left_out)
        except CellError as error:
            # The store is full or gone: this run still reports how every cell ended.
            self.progress.message(f"could not record why there is no result: {error}")
