"""One side of a comparison of two runs: its test patches, and what each method gets right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.catalog.heads import reads_embeddings
from benchmark.catalog.metrics import HEADLINE
from benchmark.comparing.runs import FinishedRun
from benchmark.errors import CellError, UsageError
from benchmark.experiment.fold_sets import find_folds
from benchmark.experiment.train_sets import COLUMNS, PatchRows, rows_of_table
from benchmark.options import ANY_BACKBONE
from benchmark.statistics.design import find_design
from benchmark.tables import find_rows

TOLERANCE = 1e-6
"""Largest difference of a score that is computed again from that in the table."""


class Method(NamedTuple):
    """What is compared: a method of a backbone, trained on some rows."""

    train_set: str
    backbone: str
    method: str


def _method_of(train_set: str, backbone: str, method: str) -> Method:
    return Method(train_set, backbone if reads_embeddings(method) else ANY_BACKBONE, method)


@dataclass(frozen=True, eq=False)
class Side:
    """The test patches of a run, sorted by identity, with the predictions on them."""

    run: FinishedRun

    @cached_property
    def rows(self) -> PatchRows:
        """All patches of the run, whatever their splits.

        Raises:
            CellError: they are not in the store any more, or damaged.
        """
        patches = self.run.need_patches()
        table = patches.read_table(columns=list(COLUMNS))
        return rows_of_table(table, patches.manifest()["classes"])

    @cached_property
    def is_test(self) -> NDArray[np.bool_]:
        """Whether each of ``rows`` is scored (N,): those of test, or all with cross-validation."""
        if self.run.num_folds:
            return np.ones(len(self.rows.ids), bool)
        found: NDArray[np.bool_] = self.rows.splits == "test"
        return found

    @property
    def ids(self) -> NDArray[Any]:
        """The identities of the test patches (N,)."""
        found: NDArray[Any] = self.rows.ids[self.is_test]
        return found

    @property
    def labels(self) -> NDArray[np.int32]:
        """The number of the class of each test patch (N,)."""
        return self.rows.labels[self.is_test]

    @property
    def class_names(self) -> NDArray[np.object_]:
        """The name of the class of each test patch (N,)."""
        return np.array(self.rows.classes, object)[self.labels]

    @property
    def scenes(self) -> NDArray[Any]:
        """The scene of each test patch (N,), None where it is unknown."""
        found: NDArray[Any] = self.rows.scenes[self.is_test]
        return found

    @cached_property
    def methods(self) -> dict[Method, list[Mapping[str, Any]]]:
        """The scored cells of each method, one per seed, on the run's test patches.

        Train sets of regions have test patches of their own and are left out, as are single folds.
        What depends on no backbone is there once, as that of ``ANY_BACKBONE``.
        """
        found: dict[Method, list[Mapping[str, Any]]] = {}
        left_out = {name for name, kind in self.run.kinds.items() if kind in ("regions", "fold")}
        for row in self._test_rows:
            if row["train_set"] not in left_out:
                key = Method(row["train_set"], row["backbone"], row["method"])
                found.setdefault(key, []).append(row)
        shown: dict[Method, list[Mapping[str, Any]]] = {}
        for key, rows in found.items():
            name = _method_of(*key)
            # The same for every backbone: that with most seeds.
            if len(rows) > len(shown.get(name, ())):
                shown[name] = rows
        return shown

    @cached_property
    def headline(self) -> Method:
        """The leader of the fullest train set that is compared.

        Raises:
            UsageError: there is none.
        """
        for row in self.run.ranking.to_pylist():
            method = _method_of(row["train_set"], row["backbone"], row["method"])
            if method in self.methods:
                return method
        raise UsageError(
            f"compare: '{self.run.artefact.uri}' has scores of train sets of regions alone, whose "
            "test patches differ by region; give a run that tests on the split of its data"
        )

    def right(self, method: Method) -> NDArray[np.float64]:
        """Return the share of seeds that classify each test patch correctly (N,).

        Raises:
            CellError: predictions are missing, or do not give the score in the table.
        """
        found: NDArray[np.float64] = np.mean(
            [self._is_right(row) for row in self.methods[method]], axis=0
        )
        return found

    @cached_property
    def _test_rows(self) -> list[dict[str, Any]]:
        import pyarrow.compute as pc

        table = self.run.scores
        wanted = pc.and_(pc.equal(table["metric"], HEADLINE), pc.equal(table["split"], "test"))
        found: list[dict[str, Any]] = table.filter(wanted).to_pylist()
        return found

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return find_design(self.labels, None).weights

    @cached_property
    def _fold_of(self) -> NDArray[np.int64]:
        return find_folds(self.rows, self.run.num_folds or 0)

    def _is_right(self, row: Mapping[str, Any]) -> NDArray[np.bool_]:
        folder = self.run.artefact.folder
        is_pooled = bool(self.run.num_folds) and row["artefact"] == folder
        y_pred = self._pooled(row) if is_pooled else self._predicted(row["artefact"], self.ids)
        is_right: NDArray[np.bool_] = y_pred == self.labels
        value = float((self._weights * is_right).sum())
        if row["value"] is None or abs(value - row["value"]) > TOLERANCE:
            raise CellError(
                f"{self.run.artefact.uri}: the predictions in '{row['artefact']}' score "
                f"{value:.4f} on the test patches, but the table of scores has {row['value']}; "
                "run `benchmark evaluate` with the experiment again"
            )
        return is_right

    def _pooled(self, row: Mapping[str, Any]) -> NDArray[np.int32]:
        """Return the prediction of each patch by the cell that was trained without its fold."""
        count = self.run.num_folds or 0
        y_pred = np.empty(len(self.ids), np.int32)
        same = ("backbone", "method", "seed")
        parts = [
            item
            for item in self._test_rows
            if self.run.kinds.get(item["train_set"]) == "fold"
            and all(item[key] == row[key] for key in same)
        ]
        names = {item["train_set"]: item for item in parts}
        for number in range(count):
            name = f"fold {number + 1} of {count}"
            if name not in names:
                raise CellError(f"{self.run.artefact.uri}: the scores of '{name}' are missing")
            mine = self._fold_of == number
            y_pred[mine] = self._predicted(names[name]["artefact"], self.ids[mine])
        return y_pred

    def _predicted(self, folder: str, wanted: Sequence[Any] | NDArray[Any]) -> NDArray[np.int32]:
        """Return the predicted class of some patches (N,)."""
        artefact = self.run.cell_artefact(folder)
        table = artefact.read_table(columns=["patch_id", "y_pred"])
        at = find_rows(
            table["patch_id"].to_numpy(), np.asarray(wanted), what=f"{artefact.uri}, split 'test',"
        )
        found: NDArray[np.int32] = table["y_pred"].to_numpy()[at]
        return found
