"""What a stage is: it lists its cells, and runs those that are not complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from benchmark.context import Cell, CellResult, Context


@dataclass(frozen=True)
class TextTable:
    """A small table for the terminal."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageResult:
    """How the cells of a stage ended, what to print, and the path that it wrote."""

    cells: list[CellResult]
    tables: list[TextTable] = field(default_factory=list)

    def with_tables(self, tables: list[TextTable]) -> StageResult:
        """Return the result with these tables to print."""
        return replace(self, tables=tables)


class Stage(ABC):
    """One stage of the benchmark: the name is its module, job, command and section."""

    name: ClassVar[str]

    @abstractmethod
    def cells(self, context: Context) -> list[Cell]:
        """Return the cells of the stage, complete or not."""

    def check(self, context: Context) -> None:
        """Refuse what cannot work before an earlier stage has spent hours.

        Raises:
            UsageError: the user's input is wrong.
        """
        del context

    @abstractmethod
    def run(self, context: Context) -> StageResult:
        """Run every cell that is not complete and return how all of them stand.

        A failed cell is recorded with its reason and leaves its neighbours alone.

        Raises:
            UsageError: the user's input is wrong.
        """

    def status(self, context: Context) -> list[CellResult]:
        """Return how the cells stand, without running anything."""
        results = []
        for cell in self.cells(context):
            status, reason = context.status(cell.artefact)
            results.append(CellResult(cell=cell, status=status, reason=reason))
        return results
