"""The actor that all trials share: it holds embeddings and trial states, and saves heads.

This module does not import Ray Tune, so that the actor starts as early as the trials' processes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from benchmark.cluster.incidents import Toll
from benchmark.errors import CellError
from benchmark.experiment.train_sets import ChosenPatches
from benchmark.search.fitting import Picks, Rows, State
from benchmark.search.lean import torch_kept_away
from benchmark.stages.tune.flipped import FlippedRows, load_flipped
from benchmark.stages.tune.job import Job
from benchmark.stages.tune.vectors import read_vectors
from benchmark.store.artefacts import Artefact
from benchmark.store.names import HEAD
from benchmark.tables import SPLITS

if TYPE_CHECKING:
    pass

BACKBONES_HELD = 3
"""Most backbones whose embeddings are in the object store at once."""


@ray.remote
class Shelf:
    """Holds embeddings in the object store, and the states of unfinished trials."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs
        # The import takes seconds: do it once, while the first trials run.
        threading.Thread(target=_load_skops, daemon=True).start()
        self._toll = Toll()
        self._rows: dict[str, Any] = {}
        self._picks: dict[tuple[str, int], Any] = {}
        self._flipped: dict[str, Any] = {}
        self._states: dict[tuple[int, int], State] = {}

    def rows(self, number: int) -> list[Any]:
        """Return references to the rows of a job, in a list so that Ray does not resolve them.

        The first is of all embeddings of the backbone, which its train sets share; for another
        train set than ``all``, the second is of its picks.
        """
        job = self._jobs[number]
        path = job.embeddings.path
        if path not in self._rows:
            while len(self._rows) >= BACKBONES_HELD:
                self._rows.pop(next(iter(self._rows)))
            rows = load_rows(job.patches.patches, job.embeddings)
            self._rows[path] = share_rows(rows, what=job.embeddings.uri)
        if job.patches.train_set.rule is None:
            return [self._rows[path]]
        key = (job.patches.train_set.name, job.patches.seed)
        if key not in self._picks:
            self._picks[key] = ray.put(find_picks(job.patches))
        return [self._rows[path], self._picks[key]]

    def flipped(self, number: int) -> list[Any]:
        """Return references to the flipped rows of a job; those of another backbone are dropped."""
        job = self._jobs[number]
        mine = {artefact.path for _, artefact in job.flips}
        self._flipped = {path: item for path, item in self._flipped.items() if path in mine}
        for flipped, artefact in job.flips:
            if artefact.path not in self._flipped:
                rows = load_flipped(job.patches.patches, flipped, artefact)
                self._flipped[artefact.path] = share_rows(rows, what=artefact.uri)
        return [self._flipped[artefact.path] for _, artefact in job.flips]

    def put_state(self, number: int, trial: int, state: State) -> None:
        """Keep the state of a trial until its next segment."""
        self._states[number, trial] = state

    def get_state(self, number: int, trial: int) -> State | None:
        """Return the state of a trial and keep it for a retry, as its process may die."""
        return self._states.get((number, trial))

    def save_head(self, number: int, model: Any) -> dict[str, int]:
        """Write the fitted head of a search with skops and drop the search's trial states.

        Returns: the toll of this actor's reads and writes since the last head.
        """
        head = _load_skops().dumps(model)
        self._jobs[number].predictions.write_bytes(HEAD, head)
        for key in [key for key in self._states if key[0] == number]:
            del self._states[key]
        spent, self._toll = self._toll.to_json(), Toll()
        return spent


def _load_skops() -> Any:
    with torch_kept_away():
        import skops.io
    return skops.io


def share_rows(rows: Rows | FlippedRows, *, what: str) -> Any:
    """Put rows into Ray's object store, and return the reference.

    What its memory does not hold, Ray writes to its folder on disk; processes map either.

    Raises:
        CellError: neither holds them; the message starts with ``what``.
    """
    try:
        return ray.put(rows)
    except (ObjectStoreFullError, OutOfDiskError):
        num_bytes = sum(item.nbytes for item in rows if isinstance(item, np.ndarray))
        raise CellError(
            f"{what}: its embeddings need {num_bytes / 1e9:.1f} GB in Ray's object store, which is "
            "full, and so is the disk of Ray's temporary folder: free space there (RAY_TMPDIR)"
        ) from None


def find_picks(patches: ChosenPatches) -> Picks:
    """Return where ``load_rows`` puts the rows of a train set; test has no labels.

    Raises:
        UsageError: the patches cannot be divided as the train set asks.
    """
    rows, roles = patches.rows, patches.roles
    place = np.empty(len(roles), np.int64)
    place[np.concatenate([np.flatnonzero(rows.splits == split) for split in SPLITS])] = np.arange(
        len(roles)
    )
    is_of = {role: roles == role for role in SPLITS}
    return Picks(
        **{role: place[is_of[role]] for role in SPLITS},
        **{f"y_{role}": rows.labels[is_of[role]] for role in ("train", "val")},
        **{f"ids_{role}": rows.ids[is_of[role]].astype(np.str_) for role in ("val", "test")},
    )


def load_rows(patches: Artefact, embeddings: Artefact) -> Rows:
    """Join embeddings with the labels of train and val; test has no labels.

    Parts are read one after another into the final arrays: besides these, only one is in memory.

    Raises:
        CellError: a patch has no embedding, or a table is damaged.
    """
    labelled = patches.read_table(columns=["patch_id", "split", "label"], splits=("train", "val"))
    test_ids = patches.read_table(columns=["patch_id", "split"], splits=("test",))["patch_id"]
    split = labelled["split"].to_numpy()
    parts: dict[str, Any] = {}
    wanted = {"test": test_ids.to_numpy()}
    for name in ("train", "val"):
        rows = labelled.filter(pa.array(split == name))
        wanted[name] = rows["patch_id"].to_numpy()
        parts[f"y_{name}"] = rows["label"].to_numpy()
    for name in ("val", "test"):
        parts[f"ids_{name}"] = wanted[name].astype(np.str_)
    for name, vectors in read_vectors(embeddings, wanted).items():
        parts[f"x_{name}"] = vectors
    return Rows(**parts)
