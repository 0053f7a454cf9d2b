"""Everything that is complete by now, read once from the store."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.experiment.context import FINETUNE, Context
from benchmark.stages.report.headline import name_method


class Results:
    """The tables and manifests that the page is made of."""

    def __init__(self, context: Context) -> None:
        self.context = context
        scores = context.scores()
        self.evaluated = scores.manifest()
        self.ranking = scores.read_table(names=["ranking.parquet"]).to_pandas()
        self.scores = scores.read_table(names=["scores.parquet"]).to_pandas()
        confusion = scores.read_table(names=["confusion.parquet"]).to_pandas()
        self.confusion = confusion[confusion["split"] == "test"]
        self.comparison = scores.read_table(names=["comparison.parquet"]).to_pandas()
        self.patches = context.patches.manifest()
        self.classes = tuple(self.patches["classes"])
        self.is_synthetic = bool(self.patches["is_synthetic"])
        self.caption = "Synthetic scenes" if self.is_synthetic else ""
        self.embed = {
            item.name: context.embeddings(item).manifest()
            for item in context.backbones
            if context.embeddings(item).is_complete
        }
        self.manifests = {
            cell: cell.artefact.manifest()
            for cell in context.prediction_cells()
            if cell.artefact.is_complete
        }
        self.tuned = {
            cell: item for cell, item in self.manifests.items() if cell.method != FINETUNE
        }
        self.finetuned = {
            cell: item for cell, item in self.manifests.items() if cell.method == FINETUNE
        }

    def num_test_patches(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the number of test patches of each class, (K,)."""
        counts: np.ndarray[Any, np.dtype[np.int64]] = _counts(self.confusion.iloc[0]["counts"])
        return np.asarray(counts.sum(axis=1))

    def best_confusions(self, limit: int) -> list[tuple[str, Any]]:
        """Return the counts (K, K) of the best methods, first seed, with their names."""
        found = []
        for row in self.ranking.head(limit).itertuples():
            at = (self.confusion["backbone"] == row.backbone) & (
                self.confusion["method"] == row.method
            )
            first = self.confusion[at].iloc[0]
            name = name_method(row.backbone, row.method)
            if row.num_seeds > 1:
                name += f", seed {first['seed']}"
            found.append((name, _counts(first["counts"])))
        return found


def _counts(nested: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([list(row) for row in nested], dtype=np.int64)
