"""All head searches of an experiment as one run of Ray Tune.

The object store holds the embeddings of a backbone once; trials map them without a copy. Test
labels are never read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmark.cluster.connection import Resources, count_of
from benchmark.cluster.incidents import Account
from benchmark.errors import BenchmarkError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.flipped import flips_inputs
from benchmark.search.bookkeeping import Outcome, Search, plan_rungs
from benchmark.stages.searching import CellSearch, CellSearcher, run_searches
from benchmark.stages.tune.job import Job
from benchmark.stages.tune.memory import Sizes, book_trial, estimate_trial, plan_memory
from benchmark.stages.tune.shelf import Shelf
from benchmark.stages.tune.workers import HeadTrial
from benchmark.store import provenance
from benchmark.store.names import HEAD, beside

MAX_FAILURES = 3
"""Retries of a trial whose process died: nodes may be lost."""


def search(context: Context, cells: Sequence[Cell], jobs: Sequence[Job]) -> float:
    """Search each cell when its embeddings are complete; record failed cells without raising.

    Returns: the busy share of the trial slots, from the first trial's start to the last one's end.
    """
    config = context.experiment.tune
    whole = context.cluster.connect()
    slots = count_slots(context, whole)
    counts_of = [job.patches.class_counts for job in jobs]
    items = [
        CellSearch(
            cell=cell,
            search=Search(
                job.head,
                num_trials=config.num_trials,
                seed=job.seed,
                rungs=plan_rungs(sum(counts["train"])) if config.pruning else (),
            ),
            commit=partial(commit, job),
            is_iterative=job.head.num_epochs is not None,
            needs=(job.embeddings, *(artefact for _, artefact in job.flips)),
            memory=partial(book_memory, context, cell, job, counts, whole),
        )
        for cell, job, counts in zip(cells, jobs, counts_of, strict=True)
    ]
    progress = context.progress.stage(
        "tune",
        num_cells=len(jobs),
        num_items=sum(item.search.num_trials for item in items),
        unit="trials",
    )
    searcher = CellSearcher(context, items, progress, slots, partial(limit_trials, context, whole))
    first = searcher.wait()
    if first is None:
        progress.close()
        return 0.0
    # On the driver's node: another node may be lost with its trials, which are retried, but not
    # with the actor that all trials share.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    shelf = Shelf.options(  # type: ignore[attr-defined]
        num_cpus=0, scheduling_strategy=here
    ).remote(list(jobs))
    # Load the first rows while Ray Tune starts.
    shelf.rows.remote(first)
    try:
        run_searches(
            searcher,
            tune.with_parameters(HeadTrial, jobs=list(jobs), shelf=shelf),
            resources=book_trial,
            slots=slots,
            max_failures=MAX_FAILURES,
        )
    finally:
        ray.kill(shelf)
        progress.close()
        context.usages.append(searcher.usage("tune"))
    return searcher.busy_share


def count_slots(context: Context, whole: Resources) -> int:
    """Return the number of trials, of one CPU each, that may run in parallel now."""
    slots = max(1, int(context.ledger.budget("tune", whole).num_cpus))
    asked = context.experiment.tune.max_concurrent
    return slots if asked == "auto" else min(slots, asked)


def limit_trials(context: Context, whole: Resources) -> float:
    """Return the most trials to run at once; no limit if tune may book the whole cluster."""
    slots = count_slots(context, whole)
    return math.inf if slots >= int(whole.num_cpus) else slots


def book_memory(
    context: Context, cell: Cell, job: Job, counts: Mapping[str, Sequence[int]], whole: Resources
) -> float:
    """Return the bytes that each trial of a cell books; 0 for small ones.

    Args:
        context: of the run.
        cell: to search.
        job: of the cell.
        counts: its patches of each class by role.
        whole: resources of the cluster.

    Raises:
        BenchmarkError: no machine has the memory for one trial.
    """
    sizes = Sizes(
        num_train=sum(counts["train"]),
        num_val=sum(counts["val"]),
        num_test=sum(counts["test"]),
        dim=job.embeddings.manifest()["dim"],
        num_classes=job.num_classes,
    )
    needed = estimate_trial(job.head.memory, sizes, refit=job.refit)
    if job.patches.train_set.rule is not None:
        # The rows of the cell are copied from those that all train sets share.
        needed += sizes.num_bytes
    if job.flips:
        needed += 4 * sizes.dim * max(sizes.num_val, sizes.num_test)
    what = f"head '{job.head.name}' on {sizes.num_rows:,} x {sizes.dim} embeddings"
    asked = context.experiment.tune.max_concurrent
    booking = plan_memory(
        needed,
        4 * sizes.dim * context.patches.manifest()["num_patches"],
        whole,
        most_trials=math.inf if asked == "auto" else asked,
        what=what,
    )
    if booking.is_scarce:
        context.progress.message(
            f"tune: {cell.label}: one trial needs about {needed / 1e9:.1f} GB: at most "
            f"{count_of(booking.most, 'trial')} at once on a machine"
        )
    return booking.num_bytes


def commit(job: Job, search: Search, refit: Outcome, account: Account) -> None:
    """Write the trials of a finished search and commit its artefact.

    Raises:
        BenchmarkError: no trial is best, or the store cannot be written.
    """
    best = search.best
    if best is None:
        raise BenchmarkError("the search has no best trial")
    job.predictions.write_table(beside("trials"), search.trials_table())
    job.predictions.commit(
        {
            "inputs": {"embeddings": job.embeddings.fingerprint},
            "head": job.head.name,
            "seed": job.seed,
            "params": best.params,
            "num_epochs": best.num_epochs,
            "val_score": best.val_score,
            "num_trials": search.num_trials,
            **search.failures(),
            "refit": job.refit,
            **flips_inputs(dict.fromkeys(item.flip for item, _ in job.flips)),
            "seconds": {
                "trials": round(search.seconds, 3),
                "refit": round(refit.seconds, 3),
                "device": round(search.seconds + refit.seconds, 3),
            },
            **search.expenses(on_gpu=False),
            "incidents": account.to_json(),
            "provenance": provenance.record(),
        },
        needs=("part-000000.parquet", HEAD),
    )
