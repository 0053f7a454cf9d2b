"""One pipeline and one pool of actors that embed with all backbones of an experiment.

An actor holds one backbone at a time and loads the next when its parts arrive, so that processes
start once per run. On CPUs a part of ``patches`` is one block; on GPUs neighbouring parts are
joined, the same ones in every run. Batches never cross blocks. So the results do not depend on the
number of actors, nor on where an earlier run was interrupted.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError

from benchmark.cluster.incidents import Account
from benchmark.cluster.pools import Pool, plan_pool
from benchmark.cluster.streaming import TASK_CPUS, Items, read_items, status_rows
from benchmark.cluster.ticks import watch
from benchmark.errors import BenchmarkError, UsageError, blame, one_line
from benchmark.experiment.context import Context
from benchmark.experiment.usage import StageUsage
from benchmark.stages.embed.calls import (
    Task,
    actor_strategy,
    group_parts,
    read_ahead_bytes,
)
from benchmark.stages.embed.counting import PartCounts, PartKey, Tally
from benchmark.stages.embed.flipped import PartRows, Pending, await_states
from benchmark.stages.embed.jobs import Pass, plan_jobs, plan_passes
from benchmark.stages.embed.learning import learn
from benchmark.stages.embed.manifests import manifest_of
from benchmark.stages.embed.preparing import Preparation, Readers, plan_readers, why_too_large
from benchmark.stages.embed.starting import Job, Output
from benchmark.stages.embed.workers import EmbedActor, ReadParts, WriteParts

if TYPE_CHECKING:
    from benchmark.progress import StageProgress

logger = logging.getLogger("benchmark")

RESTARTS: dict[str, Any] = {"max_restarts": 3, "max_task_retries": 3}
"""By default, Ray retries a batch that kills its process for ever."""

NO_CUDA = "a GPU was booked but torch found none: check torch's build and the driver"


def compute(context: Context, pending: Pending) -> None:
    """Embed the patches with these backbones; a failed one is recorded, not raised."""
    passes = plan_passes(context, pending)
    progress = context.progress.stage(
        "embed",
        num_cells=len(pending),
        num_items=sum(one.num_patches for one in passes),
        unit="patches",
    )
    try:
        failures = learn(context, [item for item in pending if item[1].flipped is None])
        await_states(context, pending, failures)
        # Planned after the fits, which hold every CPU.
        _embed(context, passes, failures, progress)
    finally:
        progress.close()


def _embed(
    context: Context,
    passes: Sequence[Pass],
    failures: dict[str, str],
    progress: StageProgress,
) -> None:
    pool = _plan_pool(context)
    jobs = plan_jobs(context, passes, pool)
    run = Run(context, jobs, [one.parts for one in passes], pool, progress)
    for number, job in enumerate(jobs):
        if job.backbone.name in failures:
            run.fail(number, failures[job.backbone.name])
    run.plan_processors()
    run.stream(run.unfinished())
    # A backbone that kills its process stops the pipeline: continue with one backbone at a time,
    # so that only the backbone at fault fails.
    for number in run.unfinished():
        run.pool = _plan_pool(context)
        run.stream([number])
    for number in run.unfinished():
        run.fail(number, run.why_broken)
    context.usages.append(run.usage())


def _plan_pool(context: Context) -> Pool:
    """Plan the pool for the CPUs that are free now, unless ``num_actors`` is set."""
    num_gpus = context.experiment.embed.gpus_of_actor
    resources = context.resources("embed")
    asked = context.experiment.embed.num_actors
    if asked != "auto":
        return plan_pool(resources, num_actors=asked, num_gpus=num_gpus)
    free = min(context.cluster.wait_for_cpus(resources.num_cpus), resources.num_cpus)
    resources = resources._replace(num_cpus=max(1.0, free))
    return plan_pool(resources, num_actors=None, num_gpus=num_gpus)


class Run:
    """The pipelines of one run of the stage, and the bookkeeping of their parts."""

    def __init__(
        self,
        context: Context,
        jobs: Sequence[Job],
        parts: Sequence[PartRows],
        pool: Pool,
        progress: StageProgress,
    ) -> None:
        self._context = context
        self._jobs = jobs
        self._parts = parts
        self.pool = pool
        self._progress = progress
        patch_bytes = self._bytes_per_patch() if pool.num_gpus else None
        self._groups = [group_parts(mine, patch_bytes) for mine in parts]
        self._counts = PartCounts(progress.advance)
        self._tallies: dict[int, Tally] = {}
        self._accounts: dict[int, Account] = {}
        self._ended: set[int] = set()
        self._error: Exception | None = None
        self._began_s = time.time()
        self._busy_s = 0.0
        self._num_patches = 0
        self._preparations: dict[int, Preparation] = {}
        self._patch_bytes: dict[int, int] = {}
        """Of the jobs whose patches are prepared where they are read."""

    def usage(self) -> StageUsage:
        """Return the duration of the run so far and the utilisation of its actors."""
        return StageUsage(
            stage="embed",
            began_s=self._began_s,
            ended_s=time.time(),
            busy_s=self._busy_s,
            num_slots=self.pool.num_actors,
            num_cells=sum(len(job.outputs) for job in self._jobs),
            num_items=self._num_patches,
            unit="patches",
        )

    @property
    def why_broken(self) -> str:
        """The reason why the last pipeline stopped early."""
        if isinstance(cause := getattr(self._error, "cause", None), BenchmarkError):
            return str(cause)
        if self._error is None or isinstance(self._error, RayError):
            return "its worker process died repeatedly (out of memory?)"
        return f"the pipeline stopped repeatedly: {one_line(self._error)}"

    def unfinished(self) -> list[int]:
        """Return the numbers of the jobs that are neither complete nor failed."""
        return [number for number in range(len(self._jobs)) if number not in self._ended]

    def plan_processors(self) -> None:
        """Decide for each backbone with an image processor where it runs, and say its price."""
        readers = self._plan_readers()
        said = set()
        for number in self.unfinished():
            job = self._jobs[number]
            if job.backbone.processor is None:
                continue
            preparation = Preparation.of(job)
            try:
                patch_bytes = preparation.bytes_per_patch()
            except Exception as error:  # of any type: processors are third-party code
                self.fail(number, blame(error))
                continue
            rows = [sum(count for _, count in group) for group in self._groups[number]]
            most = max(rows, default=0)
            why = readers.why_not or why_too_large(patch_bytes * most, self.pool.num_actors)
            if not why:
                self._preparations[number] = preparation
                self._patch_bytes[number] = patch_bytes
            where = f"in the actors that embed: {why}" if why else "in the tasks that read them"
            text = f"embed: {job.backbone.name}: {job.backbone.processor.price}, {where}"
            if text not in said:
                self._context.progress.message(text)
            said.add(text)

    def _plan_readers(self) -> Readers:
        return plan_readers(self.pool, self._context.resources("embed").num_cpus)

    def fail(self, number: int, reason: str) -> None:
        """Record that a backbone failed."""
        job = self._jobs[number]
        self._ended.add(number)
        for output in job.outputs:
            self._fail_one(job, output, reason)

    def _fail_one(self, job: Job, output: Output, reason: str) -> None:
        self._context.fail(output.artefact, reason)
        self._progress.failed(job.label_of(output), reason)

    def stream(self, numbers: Sequence[int]) -> None:
        """Embed the missing parts of these jobs in one pipeline."""
        tasks = []
        found: dict[PartKey, int] = {}
        for number in numbers:
            job = self._jobs[number]
            for output in job.outputs:
                self._progress.start(job.label_of(output))
            # A part that one variant lacks is computed for all, and equal files replaced.
            done = set.intersection(*(set(item.artefact.files("part-")) for item in job.outputs))
            wanted = {part["name"] for part in self._parts[number]} - done
            self._tallies[number] = Tally(wanted=set(wanted))
            self._open_account(number, len(done))
            splits = None if job.flipped is None else job.flipped.splits
            for group in self._groups[number]:
                missing = tuple(name for name, _ in group if name in wanted)
                task = Task(number, group, missing, splits)
                if missing:
                    tasks.append(task)
                else:
                    found[number, task.name] = task.num_rows
        # At once, because the rate begins with the first count.
        self._counts.reach(found)
        try:
            with watch(self._counts.reach_items, self._context.progress.message) as channel:
                for row in self._rows(tasks, channel) if tasks else ():
                    self._count(row)
        except UsageError:
            raise
        except Exception as error:  # Ray raises what the worker raised, of any type
            self._error = error
            logger.warning("embed: the pipeline stopped: %s", one_line(error))
            return
        for number in numbers:
            if number not in self._ended:
                self._finish(number)

    def _open_account(self, number: int, num_done: int) -> None:
        if number in self._accounts:
            detail = "" if self._error is None else one_line(self._error)
            self._accounts[number].add("pipeline_repeated", detail=detail)
        else:
            job = self._jobs[number]
            self._accounts[number] = Account(job.artefact, self._context.leases)
            self._accounts[number].add("part_found", num_done, "embeddings")

    def _rows(self, tasks: Sequence[Task], channel: str) -> Any:
        pool = self.pool
        order = list(dict.fromkeys(task.job for task in tasks))
        as_stored = self._bytes_per_patch()
        block_bytes = max(
            task.num_rows * self._patch_bytes.get(task.job, as_stored) for task in tasks
        )
        read = ReadParts(self._context.patches, self._preparations)
        source = Items("patches", tasks, read, item_bytes=block_bytes)
        is_preparing = any(task.job in self._preparations for task in tasks)
        with warnings.catch_warnings():
            # The only way to bound restarts; deprecated before it has a replacement.
            warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
            reading = read_items(
                source,
                num_items=len(tasks),
                num_cpus=self._plan_readers().num_cpus if is_preparing else TASK_CPUS,
                most_cpus=self._most_cpus(),
                read_ahead_bytes=read_ahead_bytes(pool.num_actors, block_bytes),
            )
            dataset = reading.map_batches(
                EmbedActor,
                fn_constructor_args=(list(self._jobs), channel, order),
                batch_size=1,  # a task is one row
                batch_format="pyarrow",
                compute=actor_strategy(pool, len(tasks)),
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus or None,
                udf_modifying_row_count=True,
                **RESTARTS,
            )
        return status_rows(
            dataset.map_batches(
                WriteParts([job.outputs for job in self._jobs]),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=TASK_CPUS,
            )
        )

    def _most_cpus(self) -> float | None:
        """Return the CPUs that the pipeline may book, or None if it has the cluster to itself."""
        whole = self._context.cluster.connect()
        now = self._context.ledger.budget("embed", whole)
        return None if now.covers(whole) else now.num_cpus

    def _bytes_per_patch(self) -> int:
        manifest = self._context.patches.manifest()
        return len(manifest["bands"]) * int(manifest["patch_size"]) ** 2

    def _count(self, row: dict[str, Any]) -> None:
        number = row["job"]
        tally = self._tallies[number]
        if number in self._ended:
            return
        if row["reason"]:
            self.fail(number, row["reason"])
            return
        self._accounts[number].add_toll(json.loads(row["toll"]))
        checksums = json.loads(row["checksums"])
        tally.wanted -= checksums.keys()
        tally.checksums |= checksums
        tally.num_patches += row["num_rows"]
        self._busy_s += row["seconds"]
        self._num_patches += row["num_rows"]
        tally.first = min(tally.first or row["began"], row["began"])
        tally.last = max(tally.last, row["ended"])
        self._counts.reach({(number, row["part"]): row["num_rows"]})
        if not tally.wanted:
            self._finish(number)

    def _finish(self, number: int) -> None:
        job, tally = self._jobs[number], self._tallies[number]
        if tally.wanted:
            self.fail(number, f"{len(tally.wanted)} parts were not embedded: run again")
            return
        self._ended.add(number)
        account, parts = self._accounts[number], self._parts[number]
        for at, output in enumerate(job.outputs):
            try:
                manifest = manifest_of(
                    self._context, job, output, parts, pool=self.pool, tally=tally, account=account
                )
                sums = {name: found[at] for name, found in tally.checksums.items()}
                output.artefact.commit(manifest, checksums=sums)
            except BenchmarkError as error:
                self._fail_one(job, output, str(error))
                continue
            if job.uses_gpu and manifest["device"]["device"] == "cpu":
                logger.warning("embed: %s: %s", job.label_of(output), NO_CUDA)
            self._progress.done(job.label_of(output))
        for other in self.unfinished():
            # Nodes lost before the other's first part count for this backbone.
            if other in self._accounts and not self._tallies[other].num_patches:
                self._accounts[other].forget_nodes()
