"""The complete results, read once from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.flipped import embedding_seconds
from benchmark.methods import is_finetuned
from benchmark.options import short_names
from benchmark.stages.report.headline import name_method
from benchmark.stages.report.naming import Naming
from benchmark.store.names import SCORES_FILE, beside
from benchmark.variants import name_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmark.page.pictures import Components

TRAIN_SET = "train set"
"""Heading of the column ``train_set``."""


class Results:
    """The tables and manifests behind the page; scores and confusion hold the rows of test.

    Ranking, comparison and the tables of scores hold the train set of the headline; those that
    begin with ``every_`` hold all train sets. All names of backbones are those of the page.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.figures: list[tuple[str, Figure]] | None = None
        """Title and figure of each picture that is drawn; None: they are not kept."""
        self.components: dict[str, Components] = {}
        """Principal components of a backbone's embeddings, once they have been found."""
        scores = context.scores()
        self.evaluated = scores.manifest()
        self.every_ranking, self.every_comparison, every_score, confusion, calibration = (
            scores.read_table(names=[name]).to_pandas()
            for name in (
                beside("ranking"),
                beside("comparison"),
                SCORES_FILE,
                beside("confusion"),
                beside("calibration"),
            )
        )
        self.transfer, self.drops = (
            scores.read_table(names=[beside(name)]).to_pandas()
            if self.evaluated.get("transfer")
            else pd.DataFrame()
            for name in ("transfer", "drops")
        )
        self.train_set: str = self.every_ranking["train_set"].iloc[0]
        self.naming = Naming(
            short_names(
                [item.name for item in context.backbones],
                name_options(context.backbones, context.experiment.backbone),
            ),
            [item.name for item in context.heads if not item.reads_embeddings],
            self.every_ranking,
        )
        self.every_ranking, self.every_comparison, every_score, confusion, calibration = map(
            self.naming.table,
            (self.every_ranking, self.every_comparison, every_score, confusion, calibration),
        )
        self.transfer, self.drops = map(self.naming.table, (self.transfer, self.drops))
        self.every_ranking = _ranked_again(self.every_ranking)
        self.has_train_sets = len(context.train_sets) > 1
        self.ranking, self.comparison = map(
            self._of_headline, (self.every_ranking, self.every_comparison)
        )
        self.every_score = every_score[every_score["split"] == "test"]
        self.scores = self._of_headline(self.every_score)
        self.confusion = self._of_headline(confusion[confusion["split"] == "test"])
        self.calibration = self._of_headline(calibration[calibration["split"] == "test"])
        self.patches = context.patches.manifest()
        self.classes = tuple(self.patches["classes"])
        self.is_synthetic = bool(self.patches["is_synthetic"])
        self.caption = "Synthetic scenes" if self.is_synthetic else ""
        self.backbones = {self.naming.short[item.name]: item for item in context.backbones}
        self.embed = {
            name: context.embeddings(item).manifest()
            for name, item in self.backbones.items()
            if context.embeddings(item).is_complete
        }
        self.embed_seconds = {
            name: embedding_seconds(self.embed[name], context.flipped(item).values())
            for name, item in self.backbones.items()
            if name in self.embed
        }
        cells = context.prediction_cells()
        self.missing = [self.naming.named(cell) for cell in cells if not cell.artefact.is_complete]
        self.manifests = {
            shown: cell.artefact.manifest()
            for cell in cells
            if cell.artefact.is_complete and (shown := self.naming.cell(cell)) is not None
        }
        self.tuned = {
            cell: item for cell, item in self.manifests.items() if not is_finetuned(cell.method)
        }
        self.finetuned = {
            cell: item for cell, item in self.manifests.items() if is_finetuned(cell.method)
        }

    def _of_headline(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[table["train_set"] == self.train_set]

    @property
    def cell_sets(self) -> tuple[str, ...]:
        """The train sets of the cells behind the headline: its own, or those of its folds."""
        names = tuple(item.name for item in self.context.train_sets)
        return (self.train_set,) if self.train_set in names else names

    def names(self, cell: Cell, *names: str) -> tuple[str, ...]:
        """Return what names a row of a cell: some attributes, and its train set among several."""
        return tuple(getattr(cell, name) for name in (*names, *self.columns()))

    def named_backbones(self) -> list[str]:
        """Return the names of the backbones that have a result."""
        finetuned = {cell.backbone for cell in self.finetuned}
        return [name for name in self.backbones if name in self.embed or name in finetuned]

    def headings(self) -> tuple[str, ...]:
        """Return the headings of ``columns``."""
        return (TRAIN_SET,) if self.has_train_sets else ()

    def columns(self) -> tuple[str, ...]:
        """Return the column ``train_set`` if the grid has several, for tables of all cells."""
        return ("train_set",) if self.has_train_sets else ()

    def num_test_patches(self) -> dict[str, int]:
        """Return the number of test patches of each class."""
        counts = _counts(self.confusion.iloc[0]["counts"]).sum(axis=1)
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def class_scores(self, metric: str) -> pd.DataFrame:
        """Return the scores of a metric per class, with the class in the column ``label``."""
        rows = self.scores[self.scores["metric"].str.startswith(f"{metric}/")]
        return rows.assign(label=rows["metric"].str.removeprefix(f"{metric}/"))

    def best_confusions(self, limit: int) -> list[tuple[str, NDArray[np.int64]]]:
        """Return the names and counts (K, K) of the best methods, first seed."""
        return [self.first_confusion(row)[:2] for row in self.ranking.head(limit).itertuples()]

    def first_confusion(self, row: Any) -> tuple[str, NDArray[np.int64], int]:
        """Return name, counts (K, K) and seed of the first seed of a row of the ranking."""
        first = rows_of(self.confusion, row).iloc[0]
        name = name_method(row.backbone, row.method)
        if row.num_seeds > 1:
            name += f", seed {first['seed']}"
        return name, _counts(first["counts"]), int(first["seed"])


def rows_of(table: pd.DataFrame, cell: Any) -> pd.DataFrame:
    """Return the rows of the backbone and method of ``cell``, a row of the ranking."""
    return table[(table["backbone"] == cell.backbone) & (table["method"] == cell.method)]


def _ranked_again(ranking: pd.DataFrame) -> pd.DataFrame:
    """Return a ranking whose ranks have no gap, within each train set."""
    ranks = ranking.groupby("train_set")["rank"].rank(method="first")
    return ranking.assign(rank=ranks.astype(int))


def _counts(nested: Any) -> NDArray[np.int64]:
    return np.array([list(row) for row in nested], dtype=np.int64)
