"""Complete scores in stores, found and read without the data that they were computed from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmark.errors import CellError, UsageError
from benchmark.experiment.context import CODE_VERSIONS, Context
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.filesystems import join
from benchmark.store.names import SCORES_FILE, beside
from benchmark.store.provenance import written_s
from benchmark.tables import SCORES

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "evaluate"
MOST_NAMED = 5
"""Runs that a message names."""

_SCORES_FOLDER = re.compile(r"(.+)/evaluate/([^/]+)-([0-9a-f]{16})/?")


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The complete scores of one run of an experiment.

    Attributes:
        artefact: folder of the scores.
        manifest: of the scores.
    """

    artefact: Artefact
    manifest: Mapping[str, Any]

    @property
    def store(self) -> Store:
        """The store that holds the run."""
        return self.artefact.store

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self.artefact.name

    @property
    def label(self) -> str:
        """NAME-FINGERPRINT: the name of the folder of the scores."""
        return f"{self.artefact.name}-{self.artefact.fingerprint}"

    @property
    def written(self) -> str:
        """When the scores were written (UTC, ISO 8601); empty: unknown."""
        return str(self._provenance.get("written") or "")

    @property
    def code(self) -> str | None:
        """The git commit of the code that scored; None: unknown."""
        found = self._provenance.get("code")
        return None if found is None else str(found)

    @property
    def version(self) -> str | None:
        """The version of this package that scored; None: unknown."""
        found = dict(self._provenance.get("versions") or {}).get("backbone-benchmark")
        return None if found is None else str(found)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of ``[evaluate]``."""
        return dict(self._inputs.get("settings") or {})

    @property
    def confidence(self) -> float:
        """The level of the intervals."""
        return float(self.settings.get("confidence", 0.95))

    @property
    def num_folds(self) -> int | None:
        """The number of folds whose predictions each score pools; None: no cross-validation."""
        count = sum(kind == "fold" for kind in self.kinds.values())
        return count or None

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each train set (``all``, ``fraction``, ``regions``, ...), by name."""
        return {item["name"]: item["kind"] for item in self.manifest.get("train_sets") or ()}

    @property
    def patches_fingerprint(self) -> str:
        """The identity of the patches: data, sampling and patch size."""
        return str(self._inputs.get("patches") or "")

    @cached_property
    def patches(self) -> Artefact | None:
        """The patches; None: they are not in the store any more."""
        name = self.store.names("patches").get(self.patches_fingerprint)
        if name is None:
            return None
        found = self.store.artefact("patches", name, self.patches_fingerprint)
        return found if found.is_complete else None

    def need_patches(self) -> Artefact:
        """Return the patches.

        Raises:
            CellError: they are not in the store any more.
        """
        if self.patches is None:
            raise CellError(
                f"{self.artefact.uri}: its patches (fingerprint {self.patches_fingerprint}) are "
                "not complete in the store; run the experiment again"
            )
        return self.patches

    @cached_property
    def scores(self) -> pa.Table:
        """The table ``scores``: all columns of ``tables.SCORES``.

        Raises:
            CellError: the table is damaged, or of another version.
        """
        table = self.artefact.read_table(names=[SCORES_FILE])
        self._check_columns(table, SCORES.names, SCORES_FILE)
        return table

    @cached_property
    def ranking(self) -> pa.Table:
        """The table ``ranking``.

        Raises:
            CellError: the table is damaged, or of another version.
        """
        from benchmark.stages.evaluate.schemas import RANKING

        table = self.artefact.read_table(names=[beside("ranking")])
        self._check_columns(table, RANKING.names, "ranking.parquet")
        return table

    def cell_artefact(self, folder: str) -> Artefact:
        """Return the predictions in a folder that the table ``scores`` names."""
        stage, _, rest = folder.partition("/")
        name, _, fingerprint = rest.rpartition("-")
        return self.store.artefact(stage, name, fingerprint)

    def _check_columns(self, table: pa.Table, wanted: list[str], what: str) -> None:
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            raise CellError(
                f"{self.artefact.uri}: {what} was written by another version: it lacks the column "
                f"'{missing[0]}'; run `benchmark evaluate` with the experiment to score it again"
            )

    @property
    def _inputs(self) -> Mapping[str, Any]:
        return dict(self.manifest.get("inputs") or {})

    @property
    def _provenance(self) -> Mapping[str, Any]:
        return dict(self.manifest.get("provenance") or {})


def open_store(uri: str) -> Store:
    """Open a store to read from.

    Raises:
        UsageError: the address is wrong, or the store cannot be read.
    """
    store = Store(uri)
    store.check_readable()
    return store


def find_runs(store: Store) -> list[FinishedRun]:
    """Return all complete scores of a store, the last written last.

    Raises:
        CellError: the store cannot be read, or scores are of a newer version.
    """
    runs = [_read(item) for item in store.artefacts(STAGE) if item.is_complete]
    return sorted(runs, key=lambda run: (written_s(run.manifest), run.label))


def latest_runs(store: Store) -> list[FinishedRun]:
    """Return the last complete scores of each experiment in a store.

    Raises:
        UsageError: there are none.
        CellError: the store cannot be read, or scores are of a newer version.
    """
    last = {run.name: run for run in find_runs(store)}
    if not last:
        raise UsageError(
            f"'{store.uri}' holds no complete scores; give the folder or URI of a store in which "
            "an experiment has run (`benchmark run` prints it)"
        )
    return list(last.values())


def is_scores_folder(where: str) -> bool:
    """Return whether a path is that of a folder of scores in a store."""
    return bool(_SCORES_FOLDER.fullmatch(where))


def run_of(context: Context) -> FinishedRun:
    """Return the run of an experiment.

    Raises:
        UsageError: its scores are not complete.
        CellError: the store cannot be read, or the scores are of a newer version.
    """
    artefact = context.scores()
    if not artefact.is_complete:
        raise UsageError(
            f"{context.experiment.path}: there are no complete scores in '{context.store.uri}'; "
            "run it first, or give the store of its run"
        )
    return _read(artefact)


def find_run(where: str) -> FinishedRun:
    """Return the run in a store.

    Args:
        where: a store with the scores of one experiment, or a folder of scores
            (``STORE/evaluate/NAME-FINGERPRINT``).

    Raises:
        UsageError: there are no complete scores, or those of several experiments.
        CellError: the store cannot be read, or the scores are of a newer version.
    """
    if folder := _SCORES_FOLDER.fullmatch(where):
        artefact = open_store(folder[1]).artefact(STAGE, folder[2], folder[3])
        if artefact.is_complete:
            return _read(artefact)
        raise UsageError(f"'{where}': there are no complete scores in this folder")
    runs = latest_runs(open_store(where))
    if len(runs) > 1:
        names = ", ".join(join(where, f"{STAGE}/{run.label}") for run in runs[:MOST_NAMED])
        more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
        raise UsageError(
            f"'{where}' holds the scores of {len(runs)} experiments; give one of them: "
            f"{names}{more}"
        )
    return runs[0]


def _read(artefact: Artefact) -> FinishedRun:
    manifest = artefact.manifest()
    version = dict(manifest.get("inputs") or {}).get("version")
    if isinstance(version, int) and version > CODE_VERSIONS[STAGE]:
        raise CellError(
            f"{artefact.uri}: its scores have version {version}, which is newer than this "
            f"program's {CODE_VERSIONS[STAGE]}; install the version that wrote them"
        )
    return FinishedRun(artefact, manifest)
