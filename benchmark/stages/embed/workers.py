"""The Ray tasks and actors: read parts of ``patches``, embed them, write their embeddings."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.cluster.incidents import Toll, add_tolls, is_restarted
from benchmark.cluster.metering import ForwardMeter
from benchmark.cluster.ticks import Ticks
from benchmark.energy import Meter
from benchmark.errors import BenchmarkError, CellError, blame
from benchmark.flipping import flip_images
from benchmark.networks.devices import device_name, open_meter, peaks, reset_peaks
from benchmark.stages.embed.calls import Task
from benchmark.stages.embed.counting import item_of
from benchmark.stages.embed.preparing import Preparation
from benchmark.stages.embed.starting import Job, Output, build, go_on, start
from benchmark.store.artefacts import Artefact
from benchmark.tables import embeddings_column, embeddings_schema, images_array

if TYPE_CHECKING:
    from benchmark.networks.embedder import Embedder, Network, Pixels
    from benchmark.networks.transfers import Launched, Loaded


class ReadParts:
    """Reads the parts of a task into one block of one row (a Ray Data read task).

    Ray Data splits and merges blocks into batches of rows for actors on GPUs. A task is one row,
    so that it is neither split nor merged.
    """

    def __init__(
        self, patches: Artefact, preparations: Mapping[int, Preparation] | None = None
    ) -> None:
        """Read ``patches``; those of jobs in ``preparations`` are prepared here."""
        self._patches = patches
        self._preparations = preparations or {}

    def __call__(self, task: Task) -> pa.Table:
        """Return one row: the task, the list of its ids, and that of images or what is prepared."""
        toll = Toll()
        columns = ["patch_id", "image"]
        # One by one: together they would be sorted, and their rows mixed.
        read = partial(self._patches.read_table, columns=columns, splits=task.splits)
        tables = [read(names=[name]) for name, _ in task.parts]
        table = pa.concat_tables(tables)
        images, ready, reason = table["image"], np.empty(0, np.float32), ""
        if prepare := self._preparations.get(task.job):
            try:
                ready = prepare(images_array(images, prepare.shape))
            except Exception as error:  # of any type: processors are third-party code
                reason = blame(error)
            images = images.slice(0, 0)
        about = {"toll": toll.to_json(), "shape": ready.shape, "refused": reason}
        return pa.table(
            {
                "task": [json.dumps({**asdict(task), **about})],
                "patch_id": _as_one(table["patch_id"]),
                "image": _as_one(images),
                "prepared": _as_bytes(ready),
            }
        )


def _as_one(column: pa.ChunkedArray) -> pa.ListArray:
    """Return a list column whose only row holds a column."""
    return pa.ListArray.from_arrays([0, len(column)], column.combine_chunks())


def _from_one(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in the only row of a list column, without a copy."""
    return pa.chunked_array([column.chunk(0).flatten()])


def _as_bytes(array: NDArray[np.float32]) -> pa.LargeBinaryArray:
    """Return a column whose only row holds the bytes of an array, without a copy."""
    ends = pa.py_buffer(np.array([0, array.nbytes], np.int64))
    content = pa.py_buffer(np.ascontiguousarray(array))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, content])


def _from_bytes(column: pa.ChunkedArray, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the array in the only row of a column, without a copy."""
    return np.frombuffer(column[0].as_buffer(), np.float32).reshape(shape)


class EmbedActor:
    """Holds one backbone at a time and embeds the parts of tasks (a Ray Data actor).

    Several calls may run at once: while one thread, of the actor's own, has a device compute for
    one call, the next unpacks its patches, and the last checks and hands over its embeddings.
    """

    def __init__(self, jobs: list[Job], channel: str = "", order: Sequence[int] = ()) -> None:
        """Embed with ``jobs``, whose parts come in the ``order`` of their numbers."""
        self._jobs = jobs
        self._order = list(order)
        self._ticks = Ticks(channel)
        self._turn = threading.Condition()
        self._number: int | None = None
        self._embedder: Embedder | None = None
        self._num_active = 0
        self._setup_s = self._setup_j = 0.0
        self._ended = self._ended_j = 0.0
        self._reasons: dict[int, str] = {}
        self._device = ThreadPoolExecutor(1, "device")
        self._builder = ThreadPoolExecutor(1, "builder")
        self._built: tuple[int, Future[Network] | None] = 0, None
        self._meter = ForwardMeter()
        self._restarts = {"process_restarted": 1} if is_restarted() else {}
        self._build_ahead(self._order[:1])

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return one row: the embeddings of a task's parts, their summary, or why it failed."""
        task = json.loads(block["task"][0].as_py())
        row: dict[str, Any] = {
            "task": block["task"][0].as_py(),
            "reason": "",
            "embedding": b"",
            "summary": "{}",
            "began": time.time(),
        }
        try:
            self._embed(task, block, row)
        except Exception as error:  # of any type: backbones are third-party code
            # Out of memory, a broken weights file, a wrong shape: other backbones may work.
            row["reason"] = self._reasons[task["job"]] = blame(error)
        row["ended"] = time.time()
        columns = {key: [value] for key, value in row.items()}
        return pa.table({**columns, "patch_id": block["patch_id"]})

    def _embed(self, task: dict[str, Any], block: pa.Table, row: dict[str, Any]) -> None:
        """Add embeddings and summary to the row."""
        toll = Toll()
        number = task["job"]
        count = partial(self._ticks.count, item_of(number, task["parts"][0][0]))
        job = self._jobs[number]
        pixels = _pixels(task, block, job)
        with self._held(number, pixels) as embedder:
            loaded = embedder.load(pixels)
            meter = self._meter_of(job)
            begun = self._device.submit(_launch, embedder, loaded, count, meter).result()
            embeddings, stats = embedder.fetch(begun.launched)
            with self._turn:
                ended, ended_j = time.perf_counter(), meter.read()
                # A GPU begins a task when it has ended the last.
                seconds = ended - max(begun.at_s, self._ended)
                joules = ended_j - max(begun.at_j, self._ended_j)
                self._ended, self._ended_j = ended, ended_j
                setup_s, self._setup_s = self._setup_s, 0.0
                setup_j, self._setup_j = self._setup_j, 0.0
                restarts, self._restarts = self._restarts, {}
        self._meter.count(job.backbone.name, len(embeddings), seconds)
        row["embedding"] = embeddings.tobytes()
        row["began"] = time.time() - seconds
        row["summary"] = json.dumps(
            {
                "num_rows": len(embeddings),
                "dim": embeddings.shape[1],
                "seconds": seconds,
                "setup_s": setup_s,
                "joules": joules,
                "setup_j": setup_j,
                "input": stats.summary(),
                **peaks(embedder.plan.device),
                "device": {**embedder.plan.to_json(), **_model_of(embedder.plan.device)},
                "toll": add_tolls(toll.to_json(), restarts),
            }
        )

    @contextmanager
    def _held(self, number: int, pixels: Pixels) -> Iterator[Embedder]:
        """Hold a backbone; calls for another one wait until all that use it have ended."""
        with self._turn:
            self._turn.wait_for(lambda: self._number == number or not self._num_active)
            if number in self._reasons:
                raise CellError(self._reasons[number])
            embedder = self._embedder
            if self._number != number or embedder is None:
                embedder = self._change(number, pixels)
            self._num_active += 1
        try:
            yield embedder
        finally:
            with self._turn:
                self._num_active -= 1
                self._turn.notify_all()

    def _change(self, number: int, pixels: Pixels) -> Embedder:
        last, held = self._number, self._embedder
        # A backbone that does not start leaves none, so that the last one starts anew.
        self._number = self._embedder = None
        job, (ahead, network) = self._jobs[number], self._built
        meter = self._meter_of(job)
        reset_peaks(_device_of(job))
        try:
            if last is not None and held is not None and self._is_same(last, number):
                begun_j = meter.read()
                begun = self._device.submit(go_on, job, held, pixels)
                self._embedder, self._setup_s = begun.result()
                self._setup_j = meter.read() - begun_j
                self._number = number
                return self._embedder
            if network is None or ahead != number:
                network = self._builder.submit(build, job)
            self._built = number, None
            built, begun_j = network.result(), meter.read()
            begun = self._device.submit(start, job, built, pixels, self._tell)
            embedder, self._setup_s = begun.result()
            self._setup_j = meter.read() - begun_j
        except Exception as error:
            self._reasons[number] = blame(error)
            raise
        self._number, self._embedder = number, embedder
        if number in self._order:
            later = self._order[self._order.index(number) + 1 :]
            self._build_ahead([item for item in later if not self._is_same(number, item)])
        return embedder

    def _meter_of(self, job: Job) -> Meter:
        return open_meter(_device_of(job), job.num_gpus)

    def _is_same(self, one: int, other: int) -> bool:
        """Return whether two jobs are of the same network: those of plain and flipped patches.

        With other variants it is another one, which gives other columns.
        """
        return self._jobs[one].origins == self._jobs[other].origins

    def _build_ahead(self, order: Sequence[int]) -> None:
        """Build the next network beside what a GPU computes; a CPU needs its cores itself."""
        if order and self._jobs[order[0]].uses_gpu:
            self._built = order[0], self._builder.submit(build, self._jobs[order[0]])

    def _tell(self, text: str) -> None:
        self._ticks.note(f"embed: {text}")


def _pixels(task: dict[str, Any], block: pa.Table, job: Job) -> Pixels:
    """Return the patches of a task, flipped if asked for; as float32 if they are prepared."""
    if task["refused"]:
        raise CellError(task["refused"])
    if len(task["shape"]) == 4:
        return _from_bytes(block["prepared"], task["shape"])
    pixels = images_array(_from_one(block["image"]), job.shape)
    return pixels if job.flipped is None else flip_images(pixels, job.flipped.flip)


class _Begun(NamedTuple):
    """When a launch began (s, of ``perf_counter``), the meter then, and what was launched."""

    at_s: float
    at_j: float
    launched: Launched


def _launch(
    embedder: Embedder, loaded: Loaded, count: Callable[[int], None], meter: Meter
) -> _Begun:
    return _Begun(time.perf_counter(), meter.read(), embedder.launch(loaded, count))


def _device_of(job: Job) -> str:
    import torch

    return "cuda" if job.uses_gpu and torch.cuda.is_available() else "cpu"


def _model_of(device: str) -> dict[str, str]:
    """Return the model of a GPU as an entry of its plan; empty: the processor."""
    return {} if device == "cpu" else {"model": device_name(device)}


class WriteParts:
    """Writes the missing parts of tasks and returns a status row of each (a Ray Data task)."""

    def __init__(self, outputs: list[tuple[Output, ...]]) -> None:
        """Write the ``outputs`` of each job."""
        self._outputs = outputs

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write the embeddings of each row's parts; return status rows."""
        rows = [self._write(row) for row in block.to_pylist()]
        return pa.Table.from_pylist(rows)

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        toll = Toll()
        task, summary = json.loads(row["task"]), json.loads(row["summary"])
        reason = row["reason"]
        checksums: dict[str, list[str]] = {}
        if not reason:
            try:
                start = 0
                for output in self._outputs[task["job"]]:
                    end = summary["dim"] if output.dim is None else start + output.dim
                    for name, table in _tables(task, summary, row, start, end):
                        found = output.artefact.write_table(name, table)
                        checksums.setdefault(name, []).append(found)
                    start = end
                if start != summary["dim"]:
                    raise CellError(f"a pass gave {summary['dim']} columns, not {start}")
            except BenchmarkError as error:
                reason = str(error)
        return {
            "job": task["job"],
            "part": task["parts"][0][0],
            "checksums": json.dumps(checksums),
            "reason": reason,
            "num_rows": len(row["patch_id"]),
            "seconds": float(summary.get("seconds", 0.0)),
            "began": row["began"],
            "ended": row["ended"],
            "toll": json.dumps(toll.to_json()),
        }


def _tables(
    task: dict[str, Any], summary: dict[str, Any], row: dict[str, Any], first: int, last: int
) -> Iterator[tuple[str, pa.Table]]:
    """Yield name and table of each missing part; what the task cost goes to the first.

    Args:
        task: from ``Task``.
        summary: of the task's embeddings.
        row: holds them.
        first: of the columns to write.
        last: the column after these.
    """
    count, dim = summary["num_rows"], last - first
    every = np.frombuffer(row["embedding"], np.float32).reshape(count, summary["dim"])
    embeddings = np.ascontiguousarray(every[:, first:last])
    tolls = add_tolls(task["toll"], summary["toll"])
    once = {"setup_s": summary["setup_s"], "setup_j": summary["setup_j"], "toll": tolls}
    end = 0
    for name, rows in task["parts"]:
        start, end = end, end + rows
        if name not in task["missing"]:
            continue
        mine = embeddings[start:end]
        fed = summary["input"]
        share = {
            **summary,
            "num_rows": rows,
            "dim": dim,
            "seconds": summary["seconds"] * rows / count,
            "joules": summary["joules"] * rows / count,
            # Batches cross parts: minimum, mean and maximum are those of all.
            "input": {**fed, "count": fed["count"] * rows / count},
            "distinct": _distinct_rows(mine),
            **once,
        }
        once = {"setup_s": 0.0, "setup_j": 0.0, "toll": {}}
        yield (
            name,
            pa.table(
                [pa.array(row["patch_id"][start:end], pa.string()), embeddings_column(mine)],
                schema=embeddings_schema(dim).with_metadata({"summary": json.dumps(share)}),
            ),
        )


def read_part_summary(artefact: Artefact, name: str) -> dict[str, Any]:
    """Return the summary in a part's metadata: rows, dim, seconds, input statistics."""
    return dict(json.loads(artefact.read_schema(name).metadata[b"summary"]))


def _distinct_rows(embeddings: np.ndarray[Any, np.dtype[np.float32]]) -> list[str]:
    """Return digests of at most two different rows, to detect constant embeddings."""
    first = embeddings[0]
    differs = np.flatnonzero((embeddings != first).any(axis=1))
    rows = [first] if not len(differs) else [first, embeddings[differs[0]]]
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in rows]
