"""The cells of the grid, which the stages compute, and their status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.experiment.flipped import FlippedPatches
from benchmark.experiment.train_sets import ALL
from benchmark.markup import html_table
from benchmark.store.artefacts import Artefact, Status, describe_files


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of a stage's grid, with the artefact that completes it."""

    stage: str
    artefact: Artefact
    dataset: str
    backbone: str | None = None
    method: str | None = None
    train_set: str = ALL.name
    seed: int | None = None
    flipped: FlippedPatches | None = None
    """The flip that is embedded; None: plain patches."""

    @property
    def label(self) -> str:
        """A short name for progress and messages."""
        seed = None if self.seed is None else f"seed {self.seed}"
        train_set = None if self.train_set == ALL.name else self.train_set
        flip = self.flipped and self.flipped.name
        parts = [part for part in (self.backbone, self.method, train_set, seed, flip) if part]
        return " / ".join(parts) or self.dataset


@dataclass(frozen=True, kw_only=True, repr=False)
class CellResult:
    """The status of a cell: complete, stale, missing, failed or left out, with the reason."""

    cell: Cell
    status: Status
    reason: str = ""
    is_verified: bool | None = None
    """Whether its files match their checksums; None: not compared, or written without any."""

    def __repr__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"<{self.cell.stage} of {self.cell.label}: {self.status}{reason}>"

    def to_json(self) -> dict[str, Any]:
        """Return the record that ``--json`` prints."""
        return {
            "stage": self.cell.stage,
            "dataset": self.cell.dataset,
            "backbone": self.cell.backbone,
            "method": self.cell.method,
            "train_set": self.cell.train_set,
            "seed": self.cell.seed,
            "status": self.status,
            "reason": self.reason,
            "artefact": self.cell.artefact.uri,
            **({} if self.cell.flipped is None else {"flipped": self.cell.flipped.name}),
            **({} if self.is_verified is None else {"verified": self.is_verified}),
        }


def count_flips(cell: Cell, num_patches: int | None, num_train: int | None) -> int | None:
    """Return the patches of a flip that no earlier run has embedded.

    Args:
        cell: of a flip.
        num_patches: of the data; None: unknown.
        num_train: those in train.
    """
    if cell.flipped is None or num_patches is None or num_train is None:
        return None
    done = cell.artefact.files("part-")
    table = cell.artefact.read_table(names=done, columns=["patch_id"]) if done else ()
    num_wanted = num_train if "train" in cell.flipped.splits else num_patches - num_train
    return num_wanted - len(table)


def verified(result: CellResult) -> CellResult:
    """Read every file of a complete cell; return it as missing if one is damaged.

    Raises:
        CellError: the store cannot be read.
    """
    if result.status != "complete":
        return result
    found, has_checksums = result.cell.artefact.verify()
    if found:
        reason = f"{describe_files(found)}: delete it and run again"
        return replace(result, status="missing", reason=reason, is_verified=False)
    if not has_checksums:
        return replace(result, reason="not verified: written without checksums")
    return replace(result, is_verified=True)


@dataclass(frozen=True)
class TextTable:
    """A small table for the terminal and for notebooks."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return html_table(self.columns, self.rows, title=self.title, notes=self.notes)
