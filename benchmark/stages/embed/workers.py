"""The Ray tasks and actors: read a part of ``patches``, embed it, write its embeddings."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.cluster.incidents import Toll, add_tolls, is_restarted
from benchmark.cluster.metering import ForwardMeter
from benchmark.cluster.ticks import Ticks
from benchmark.errors import BenchmarkError, blame
from benchmark.networks.devices import Asked, plan_device
from benchmark.networks.fitted import read_fitted
from benchmark.stages.embed.counting import item_of
from benchmark.stages.embed.learning import Lesson
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact
from benchmark.tables import embeddings_column, embeddings_schema, images_array

if TYPE_CHECKING:
    from benchmark.networks.embedder import Embedder

KEPT = ("batch_size", "channels_last", "precision", "num_threads", "is_compiled", "reason")
"""Settings that an artefact keeps: other values would change the last bits of later parts."""


@dataclass(frozen=True, kw_only=True)
class Job(Lesson):
    """The embeddings of one backbone; ``asked.num_threads`` overrides ``num_threads``."""

    asked: Asked
    num_patches: int
    """Expected number of patches per actor."""
    num_in_all: int
    """Number of patches of all actors."""
    uses_gpu: bool
    """Whether an actor has booked (a share of) a GPU; its process also sees other GPUs."""


@dataclass(frozen=True)
class Task:
    """One part of one backbone: job number, file name and number of patches."""

    job: int
    part: str
    num_rows: int


class ReadPart:
    """Reads one part of ``patches`` into one block of one row (a Ray Data read task).

    Ray Data splits and merges blocks into batches of rows for actors on GPUs. A part is one row,
    so that it is neither split nor merged.
    """

    def __init__(self, patches: Artefact) -> None:
        self._patches = patches

    def __call__(self, task: Task) -> pa.Table:
        """Return one row: the task, and lists of the ids and images of its part."""
        toll = Toll()
        table = self._patches.read_table(names=[task.part], columns=["patch_id", "image"])
        metadata = {"job": str(task.job), "part": task.part, "toll": toll.to_json()}
        return pa.table(
            {
                "task": [json.dumps(metadata)],
                "patch_id": _as_one(table["patch_id"]),
                "image": _as_one(table["image"]),
            }
        )


def _as_one(column: pa.ChunkedArray) -> pa.ListArray:
    """Return a list column whose only row holds a column."""
    return pa.ListArray.from_arrays([0, len(column)], column.combine_chunks())


def _from_one(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in the only row of a list column, without a copy."""
    return pa.chunked_array([column.chunk(0).flatten()])


class EmbedActor:
    """Holds one backbone at a time and embeds parts (a Ray Data actor)."""

    def __init__(self, jobs: list[Job], channel: str = "") -> None:
        self._jobs = jobs
        self._ticks = Ticks(channel)
        self._number: int | None = None
        self._embedder: Embedder | None = None
        self._setup_s = 0.0
        self._reasons: dict[int, str] = {}
        self._meter = ForwardMeter()
        self._restarts = {"process_restarted": 1} if is_restarted() else {}

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return one row: the embeddings of a block's part, their summary, or why it failed."""
        task = json.loads(block["task"][0].as_py())
        number = int(task["job"])
        toll = Toll()
        row: dict[str, Any] = {
            "job": number,
            "part": task["part"],
            "patch_id": _from_one(block["patch_id"]).to_pylist(),
            "reason": self._reasons.get(number, ""),
            "embedding": b"",
            "summary": "{}",
            "began": time.time(),
        }
        if not row["reason"]:
            try:
                summary = self._embed(number, block, row)
                summary["toll"] = add_tolls(task["toll"], toll.to_json(), self._restarts)
                row["summary"] = json.dumps(summary)
                self._restarts = {}
            except Exception as error:  # of any type: backbones are third-party code
                # Out of memory, a broken weights file, a wrong shape: other backbones may work.
                row["reason"] = self._reasons[number] = blame(error)
        row["ended"] = time.time()
        return pa.table({key: [value] for key, value in row.items()})

    def _embed(self, number: int, block: pa.Table, row: dict[str, Any]) -> dict[str, Any]:
        pixels = images_array(_from_one(block["image"]), self._jobs[number].shape)
        embedder = self._hold(number, pixels)
        count = partial(self._ticks.count, item_of(number, row["part"]))
        began = time.perf_counter()
        embeddings, stats = embedder(pixels, on_batch=count)
        seconds = time.perf_counter() - began
        self._meter.count(self._jobs[number].backbone.name, len(embeddings), seconds)
        row["embedding"] = embeddings.tobytes()
        row["began"] = time.time() - seconds
        setup_s, self._setup_s = self._setup_s, 0.0
        return {
            "num_rows": len(embeddings),
            "dim": embeddings.shape[1],
            "seconds": seconds,
            "setup_s": setup_s,
            "input": stats.summary(),
            "peak_memory_bytes": provenance.peak_memory_bytes(),
            "distinct": _distinct_rows(embeddings),
            "device": embedder.plan.to_json(),
        }

    def _hold(self, number: int, pixels: NDArray[np.uint8]) -> Any:
        if self._number != number:
            # A backbone that does not start leaves none, so that the last one starts anew.
            self._number = self._embedder = None
            job = self._jobs[number]
            self._embedder, self._setup_s = _start(job, pixels, self._tell)
            self._number = number
        return self._embedder

    def _tell(self, text: str) -> None:
        self._ticks.note(f"embed: {text}")


def _start(
    job: Job, pixels: NDArray[np.uint8], tell: Callable[[str], None]
) -> tuple[Embedder, float]:
    """Return the backbone in the mode of its artefact, and the seconds that its setup took.

    The first process of a new artefact measures the best mode and tells its first rate; all later
    processes, in this run and in the next, keep it.
    """
    from benchmark.networks.calibration import Calibration, recall
    from benchmark.networks.embedder import Embedder

    asked = asdict(job.asked)
    plan = plan_device(
        **{**asked, "num_threads": asked["num_threads"] or job.num_threads},
        device=None if job.uses_gpu else "cpu",
    )
    state = None if job.backbone.fit is None else read_fitted(job.artefact)
    embedder = Embedder(job.backbone, job.bands, plan, state)
    began = time.perf_counter()
    waited_s = 0.0
    is_warm = False
    begun = job.artefact.plan()
    if begun is None:
        with recall(job.backbone, plan, job.shape) as (memory, waited_s):
            begun = job.artefact.plan()
            if begun is None:
                calibration = Calibration(embedder, pixels, memory, tell)
                chosen = calibration.plan(
                    job.asked,
                    job.num_patches,
                    num_in_all=job.num_in_all,
                    may_compile=job.backbone.is_trainable,
                )
                is_warm = True
                begun = job.artefact.begin({**chosen.to_json(), "trials": memory.to_json()})
    kept = {key: begun[key] for key in KEPT if key in begun}
    if embedder.adopt(replace(embedder.plan, **kept)) or not is_warm:
        embedder.warm_up(pixels)
    return embedder, time.perf_counter() - began - waited_s


class WritePart:
    """Writes one part of ``embeddings`` and returns a status row (a Ray Data task)."""

    def __init__(self, artefacts: list[Artefact]) -> None:
        self._artefacts = artefacts

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write the embeddings of each row's part; return status rows."""
        rows = [self._write(row) for row in block.to_pylist()]
        return pa.Table.from_pylist(rows)

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        toll = Toll()
        summary = json.loads(row["summary"])
        reason, checksum = row["reason"], ""
        if not reason:
            shape = (summary["num_rows"], summary["dim"])
            embeddings = np.frombuffer(row["embedding"], np.float32).reshape(shape)
            schema = embeddings_schema(summary["dim"])
            table = pa.table(
                [pa.array(row["patch_id"], pa.string()), embeddings_column(embeddings)],
                schema=schema.with_metadata({"summary": row["summary"]}),
            )
            try:
                checksum = self._artefacts[row["job"]].write_table(row["part"], table)
            except BenchmarkError as error:
                reason = str(error)
        return {
            "job": row["job"],
            "part": row["part"],
            "checksum": checksum,
            "reason": reason,
            "num_rows": len(row["patch_id"]),
            "seconds": float(summary.get("seconds", 0.0)),
            "began": row["began"],
            "ended": row["ended"],
            "toll": json.dumps(toll.to_json()),
        }


def read_part_summary(artefact: Artefact, name: str) -> dict[str, Any]:
    """Return the summary in a part's metadata: rows, dim, seconds, input statistics."""
    return dict(json.loads(artefact.read_schema(name).metadata[b"summary"]))


def _distinct_rows(embeddings: np.ndarray[Any, np.dtype[np.float32]]) -> list[str]:
    """Return digests of at most two different rows, to detect constant embeddings."""
    first = embeddings[0]
    differs = np.flatnonzero((embeddings != first).any(axis=1))
    rows = [first] if not len(differs) else [first, embeddings[differs[0]]]
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in rows]
