"""The interface of a stage: list its cells and compute those that are not complete.

Runs on one store share the work: a stage computes the cells that this run has leased, and waits
for those of other runs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from benchmark.errors import CellError, UsageError
from benchmark.experiment.cells import Cell, CellResult, TextTable
from benchmark.experiment.context import Context
from benchmark.experiment.rates import learn
from benchmark.experiment.train_sets import ALL, ChosenPatches, PatchRows, rows_of_table
from benchmark.experiment.usage import StageUsage, save_usage
from benchmark.store.artefacts import INCOMPLETE

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class StageResult:
    """The final status of a stage's cells, and the tables to print."""

    cells: list[CellResult]
    tables: list[TextTable] = field(default_factory=list)


def check_train_sets(context: Context) -> None:
    """Refuse train sets that the patches cannot be divided into, once these are known.

    Raises:
        UsageError: names the setting and what works.
    """
    rules = [item.rule for item in context.train_sets if item.rule is not None]
    rows = _known_rows(context) if rules else None
    if rows is None or not (rows.splits == "train").any():
        # Unknown, or refused where the patches are chosen.
        return
    for rule in rules:
        try:
            # How many patches a class has does not depend on the seed.
            rule(rows, context.experiment.seeds[0])
        except UsageError as error:
            raise UsageError(f"{context.experiment.path} [protocol]: {error}") from None


def _known_rows(context: Context) -> PatchRows | None:
    """Return the patches if they are complete or known without reading a file; else None."""
    if context.patches.is_complete:
        return ChosenPatches(context.patches, ALL, 0).rows
    chosen = listed_patches(context)
    if chosen is None:
        return None
    return rows_of_table(chosen.sort_by("patch_id"), context.source.classes)


def listed_patches(context: Context) -> pa.Table | None:
    """Return the patches that will be read, in the columns ``tables.CANDIDATES``, or None.

    An image folder holds their list; of scenes it is unknown until they are read.
    """
    candidates = getattr(context.source, "candidates", None)
    if candidates is None:
        return None
    from benchmark.stages.patches.sampling import choose

    return choose(candidates, context.experiment.dataset)


class Stage(ABC):
    """One stage of the benchmark; module, job, command and section have its name."""

    name: ClassVar[str]

    resumes_by_part: ClassVar[bool] = False
    """Whether a damaged part is computed again alone; otherwise its whole artefact is."""

    is_handed_out: ClassVar[bool] = False
    """Whether a run prints paths of its artefacts, which are read whole before."""

    leases_late: ClassVar[bool] = False
    """Whether ``compute`` leases each cell at its start, with ``leases.acquire_one``; otherwise the
    cells that it gets are leased."""

    @abstractmethod
    def cells(self, context: Context) -> list[Cell]:
        """Return the cells of the stage, complete or not."""

    def check(self, context: Context) -> None:
        """Refuse impossible input before an earlier stage has spent hours.

        Raises:
            UsageError: the user's input is wrong.
        """
        del context

    @abstractmethod
    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Compute these incomplete cells.

        A failed cell is recorded with its reason and does not affect the others.

        Raises:
            UsageError: the user's input is wrong.
        """

    def ready(self, context: Context, cells: Sequence[Cell]) -> Sequence[Cell]:
        """Return those of the cells left to compute that need none of the others first."""
        del context
        return cells

    def tables(self, context: Context) -> list[TextTable]:
        """Return the tables to print at the end of the stage."""
        del context
        return []

    def discard_damage(self, context: Context) -> None:
        """Delete the damaged files of complete cells, once in a run: they are computed again.

        Raises:
            CellError: the store cannot be read or written.
        """
        for cell in self.cells(context):
            artefact = cell.artefact
            if artefact.path in context.examined:
                continue
            found = artefact.verify()[0] if self.is_handed_out else artefact.damage()
            if found == INCOMPLETE:
                continue
            context.examined.add(artefact.path)
            if found and context.leases.acquire_complete(artefact):
                artefact.discard_damage(by_part=self.resumes_by_part)
                context.leases.release([artefact])
                name = min(found)
                context.progress.message(
                    f"{artefact.file_uri(name)} {found[name]}: it is computed again"
                )

    def run(self, context: Context) -> StageResult:
        """Compute every incomplete cell that no other run computes, and what is damaged.

        Wait for the cells of other runs, and take over those of a run that died.

        Raises:
            UsageError: the user's input is wrong.
        """
        self.check(context)
        tried: set[str] = set()
        awaited: dict[str, str] = {}
        with context.leases as leases:
            self.discard_damage(context)
            # Listed each time: the cells may depend on which artefacts are complete.
            while cells := [
                cell
                for cell in self.cells(context)
                if cell.artefact.path not in tried and not cell.artefact.is_complete
            ]:
                taken = self._compute_free(context, self.ready(context, cells))
                tried |= taken
                if not taken:
                    awaited = self._note_holders(context, cells, awaited)
                    leases.wait()
        return StageResult(cells=self.status(context), tables=self.tables(context))

    def _compute_free(self, context: Context, cells: Sequence[Cell]) -> set[str]:
        """Compute the cells that no other run has leased; return the paths of those tried."""
        leases = context.leases
        artefacts = [cell.artefact for cell in cells]
        try:
            if self.leases_late:
                paths = {item.path for item in artefacts} - leases.holders(artefacts).keys()
            else:
                most = leases.share(len(cells))
                paths = {item.path for item in leases.acquire(artefacts, most=most)}
        except CellError as error:
            # A store that cannot take a lease cannot take a result.
            for artefact in artefacts:
                context.fail(artefact, str(error))
            return {artefact.path for artefact in artefacts}
        free = [cell for cell in cells if cell.artefact.path in paths]
        if not free:
            return set()
        leases.forget_refused(cell.artefact for cell in free)
        began_s, num_usages = time.time(), len(context.usages)
        try:
            self.compute(context, free)
        finally:
            leases.release(cell.artefact for cell in free)
        if self.name not in {usage.stage for usage in context.usages[num_usages:]}:
            context.usages.append(
                StageUsage(self.name, began_s, time.time(), None, 1, len(free), len(free), "cells")
            )
        save_usage(context.store, context.experiment.name, list(context.usages))
        learn(context, self.name, free, context.usages[num_usages:])
        return {cell.artefact.path for cell in free} - leases.refused

    def _note_holders(
        self, context: Context, cells: Sequence[Cell], awaited: dict[str, str]
    ) -> dict[str, str]:
        """Return the run that holds each cell, by path; show a message if they changed."""
        holders = context.leases.holders(cell.artefact for cell in cells)
        if holders and holders != awaited:
            names = " and ".join(sorted(set(holders.values()))[:3])
            what = "1 cell is" if len(holders) == 1 else f"{len(holders)} cells are"
            context.progress.message(f"{self.name}: {what} computed by {names}; waiting")
        return holders

    def status(self, context: Context) -> list[CellResult]:
        """Return the status of the cells, without running anything."""
        results = []
        for cell in self.cells(context):
            status, reason = context.status(cell.artefact)
            results.append(CellResult(cell=cell, status=status, reason=reason))
        return results
