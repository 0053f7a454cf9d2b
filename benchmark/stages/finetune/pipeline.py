"""All fine-tunings of an experiment as one run of searches, each trial with its own trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray import tune

from benchmark.cluster.connection import Resources
from benchmark.cluster.incidents import Account
from benchmark.cluster.scheduling import Budget
from benchmark.cluster.teams import Team, plan_team
from benchmark.errors import BenchmarkError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.flipped import flips_inputs
from benchmark.experiment.label_sets import epoch_factor
from benchmark.finetune_settings import FinetuneConfig
from benchmark.methods import FINETUNE, finetunings
from benchmark.search.bookkeeping import Outcome, Search
from benchmark.search.recipe import RecipeSpace
from benchmark.stages.finetune.suiting import find_unsuited, note_unsuited
from benchmark.stages.finetune.workers import FinetuneTrial
from benchmark.stages.searching import CellSearch, CellSearcher, run_searches
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact
from benchmark.store.names import WEIGHTS, beside
from benchmark.tables import CURVES
from benchmark.training.segment import (
    LAST,
    SEGMENT,
    SMALLER,
    Job,
    forget_failures,
    read_log,
)

DRIVER_CPUS = 0.01
"""CPUs booked by a trial that only waits for the workers of its trainer."""


def check(context: Context) -> None:
    """Refuse more workers than fit; name the backbones that a mode does not suit.

    Raises:
        UsageError: the message states the resources.
    """
    _plan(context, 1)
    cells = context.finetune_cells()
    reasons = find_unsuited(context, cells)
    is_new = not context.left_out
    note_unsuited(context, cells, reasons)
    if is_new:
        for reason in reasons.values():
            context.progress.message(f"finetune: left out: {reason}")


def compute(context: Context, cells: Sequence[Cell]) -> None:
    """Fine-tune these cells; one that failed or is left out is recorded."""
    config = _config(context)
    note_unsuited(context, cells, find_unsuited(context, cells))
    for cell in cells:
        context.record_left_out(cell.artefact)
    cells = [cell for cell in cells if cell.artefact.path not in context.left_out]
    if not cells:
        return
    spaces = [RecipeSpace(_recipe(context, cell)) for cell in cells]
    searches = [
        Search(
            space,
            num_trials=config.num_trials,
            seed=cell.seed or 0,
            rungs=space.rungs() if config.pruning and space.is_searched else (),
            first=space.first,
        )
        for cell, space in zip(cells, spaces, strict=True)
    ]
    team = _plan(context, sum(search.num_trials for search in searches), waits=True)
    jobs = _jobs(context, cells, team)
    items = [
        CellSearch(
            cell=cell,
            search=search,
            commit=partial(commit, context, cell, job, team),
            is_iterative=True,
            begin=partial(begin, cell.artefact),
        )
        for cell, search, job in zip(cells, searches, jobs, strict=True)
    ]
    context.progress.message(f"finetune: {team.reason}")
    progress = context.progress.stage(
        FINETUNE,
        num_cells=len(cells),
        num_items=sum(search.num_trials for search in searches),
        unit="trials",
    )
    whole = context.cluster.connect()
    first = context.ledger.first_budget(FINETUNE, whole)
    limit = partial(limit_trials, context, whole, first, team)
    searcher = CellSearcher(context, items, progress, team.num_slots, limit)
    resources = {"cpu": team.num_cpus if team.is_alone else DRIVER_CPUS}
    if team.is_alone and team.num_gpus:
        resources["gpu"] = team.num_gpus
    try:
        run_searches(
            searcher,
            tune.with_parameters(FinetuneTrial, jobs=jobs, team=team),
            resources=resources,
            slots=team.num_slots,
            max_failures=config.max_failures,
        )
    finally:
        progress.close()
        context.usages.append(searcher.usage(FINETUNE))


def limit_trials(context: Context, whole: Resources, first: Budget, team: Team) -> float:
    """Return how many trainings may run at once: unlimited if the stage has the whole cluster.

    Teams are planned for the budget ``first``; more of them fit after other stages have ended.
    """
    now = context.ledger.budget(FINETUNE, whole)
    if now.covers(whole):
        return math.inf
    grown = now.num_gpus / first.num_gpus if first.num_gpus else now.num_cpus / first.num_cpus
    return max(1, int(team.num_slots * grown))


def begin(artefact: Artefact, account: Account) -> None:
    """Begin or resume a cell; its failed segments are tried again.

    Raises:
        CellError: the store cannot be read or written.
    """
    forget_failures(artefact)
    checkpoints = [name for name in artefact.files() if name.endswith(LAST)]
    account.add("part_found", len(checkpoints), "trainings with a checkpoint")


def commit(
    context: Context,
    cell: Cell,
    job: Job,
    team: Team,
    search: Search,
    refit: Outcome,
    account: Account,
) -> None:
    """Write the trials and curves of a finished search, delete its checkpoints, and commit.

    Raises:
        BenchmarkError: no trial won, or the store cannot be written.
    """
    best = search.best
    if best is None:
        raise BenchmarkError("the search has no best trial")
    artefact = job.artefact
    logs = {number: read_log(artefact, number) for number in range(search.num_trials)}
    rows = [
        {"trial": number, **row} for number, log in logs.items() for row in log.get("curve", ())
    ]
    log = logs[best.trial]
    artefact.write_table(beside("trials"), search.trials_table())
    artefact.write_table(beside("curve"), pa.Table.from_pylist(rows, schema=CURVES))
    # Keep only the best weights.
    for name in artefact.files():
        if name.startswith(("trial-", SEGMENT, "refit-", SMALLER)):
            artefact.delete(name)
    artefact.commit(
        {
            "inputs": context.finetuned_inputs(
                job.backbone, job.seed, context.rows_of(cell).train_set, cell.method or FINETUNE
            ),
            "method": FINETUNE,
            "mode": job.config.mode,
            "seed": job.seed,
            "params": {**RecipeSpace(job.config).first, **best.params},
            "num_epochs": log["best_epoch"],
            "val_score": best.val_score,
            "num_trials": search.num_trials,
            **search.failures(),
            "refit": job.refit,
            **flips_inputs(job.flips),
            "weights": WEIGHTS,
            "num_trained": log.get("num_trained"),
            "notes": _notes(_config(context), job, logs if all(logs.values()) else {0: log}),
            "plan": {**log.get("plan", {}), "team": team.reason},
            "seconds": {
                "trials": round(search.seconds, 3),
                "refit": round(refit.seconds, 3),
                "device": round(search.seconds + refit.seconds, 3),
            },
            **search.expenses(on_gpu=log.get("plan", {}).get("device", "cpu") != "cpu"),
            "incidents": account.to_json(),
            "provenance": provenance.record(),
        },
        needs=("part-000000.parquet", WEIGHTS),
    )


def _notes(asked: FinetuneConfig, job: Job, logs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return what the page says of a training, each sentence once."""
    found = [note for log in logs.values() for note in log.get("notes", [])]
    if job.config.batch_size != asked.batch_size:
        found.append(
            f"{job.backbone.name}: batch_size = {asked.batch_size} was lowered to "
            f"{job.config.batch_size}, the number of train patches"
        )
    return list(dict.fromkeys(found))


def _config(context: Context) -> FinetuneConfig:
    config = context.experiment.finetune
    if config is None:
        raise ValueError("the experiment does not fine-tune")
    return config


def _recipe(context: Context, cell: Cell) -> FinetuneConfig:
    """Return the settings of a cell: few labels may need more epochs, and smaller batches."""
    config = finetunings(context.experiment.finetune)[cell.method or FINETUNE]
    rows = context.rows_of(cell)
    factor = epoch_factor(rows)
    epochs = {name: factor * getattr(config, name) for name in ("num_epochs", "patience")}
    batch_size = min(config.batch_size, rows.num_train)
    return config.model_copy(update={**epochs, "batch_size": batch_size})


def _plan(context: Context, num_trials: int, *, waits: bool = False) -> Team:
    config = _config(context)
    asked = None if config.num_workers == "auto" else config.num_workers
    resources = context.first_resources(FINETUNE)
    if waits and asked is None:
        # CPUs that an earlier stage or another user still holds are not available to trials.
        free = min(context.cluster.wait_for_cpus(resources.num_cpus), resources.num_cpus)
        resources = resources._replace(num_cpus=max(1.0, free))
    return plan_team(resources, num_workers=asked, num_trials=num_trials)


def _jobs(context: Context, cells: Sequence[Cell], team: Team) -> list[Job]:
    manifest = context.patches.manifest()
    bands = tuple(manifest["bands"])
    backbones = {item.name: item for item in context.finetuned_backbones}
    refit = context.experiment.tune.refit
    jobs = []
    for cell in cells:
        rows = context.rows_of(cell)
        counts = rows.class_counts
        # An interrupted training resumes with its first number of threads: another number of
        # threads or workers sums in another order.
        begun: dict[str, Any] = cell.artefact.begin(
            {"num_workers": team.num_workers, "num_threads": team.num_threads}
        )
        jobs.append(
            Job(
                backbone=backbones[cell.backbone or ""],
                config=_recipe(context, cell),
                seed=cell.seed or 0,
                refit=refit,
                class_counts=counts["train"],
                refit_counts=tuple(map(sum, zip(counts["train"], counts["val"], strict=True)))
                if "val" in refit
                else counts["train"],
                bands=bands,
                shape=(len(bands), manifest["patch_size"], manifest["patch_size"]),
                patches=rows,
                artefact=cell.artefact,
                num_threads=begun["num_threads"],
                num_workers=team.num_workers,
                flips=context.flips_of(backbones[cell.backbone or ""]),
                uses_gpus=team.num_gpus > 0,
            )
        )
    return jobs
