"""The commands that compute: ``run``, and one for each stage."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmark.cli.app import (
    AddressOption,
    DryRunOption,
    ExperimentsArg,
    JsonOption,
    LogFormatOption,
    SetOption,
    StoreOption,
    app,
)
from benchmark.cli.printing import (
    LogFormat,
    complain,
    open_stderr_progress,
    print_documents,
    print_tables,
    say,
    say_heading,
)
from benchmark.cli.status import Asked, show_plan
from benchmark.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmark.cluster.connection import Cluster
    from benchmark.config import Experiment
    from benchmark.experiment.cells import CellResult


def _add_computing_command(name: str, summary: str, *, stage: str | None = None) -> None:
    """Add the command that runs one stage, or all stages if ``stage`` is None."""

    @app.command(name, help=summary)
    def command(
        experiments: ExperimentsArg,
        settings: SetOption = None,
        store: StoreOption = None,
        address: AddressOption = None,
        dry_run: DryRunOption = False,
        as_json: JsonOption = False,
        _log_format: LogFormatOption = LogFormat.text,
    ) -> int:
        from benchmark import api

        loaded = [api.load(path, settings or ()) for path in experiments]
        if dry_run:
            return show_plan(
                [
                    Asked(item, store, as_json, "dry run: ", stage, address=address)
                    for item in loaded
                ]
            )
        if stage is None:
            return _run(loaded, store, address, as_json)
        return _run_stage(stage, loaded, store, address, as_json)


_add_computing_command("run", "Run all stages in order; complete artefacts are skipped.")
for _entry in STAGES:
    _add_computing_command(_entry.name, _entry.help, stage=_entry.name)


def _run(
    loaded: Sequence[Experiment], store: str | None, address: str | None, as_json: bool
) -> int:
    from benchmark import api
    from benchmark.experiment.usage import usage_table
    from benchmark.results import count_left_out

    documents: list[dict[str, Any]] = []
    failed: list[CellResult] = []
    with _open_checked(loaded, store, address) as cluster:
        for number, experiment in enumerate(loaded):
            began = time.monotonic()
            with open_stderr_progress() as progress:
                result = api.run(experiment, store=store, address=cluster, progress=progress)
            failed += result.failed
            if as_json:
                documents.append(result.to_json())
                continue
            say_heading([item.path for item in loaded], number)
            print_tables(result.tables)
            if result.usages:
                print_tables([usage_table(result.usages)])
            num_done = sum(item.status == "complete" for item in result.cells)
            say(
                f"{num_done} of {len(result.cells)} cells complete"
                f"{count_left_out(result.cells)} in {result.store}, "
                f"{time.monotonic() - began:.1f} s"
            )
            say(result.report or result.store)
    return _end(documents, failed)


def _run_stage(
    stage: str,
    loaded: Sequence[Experiment],
    store: str | None,
    address: str | None,
    as_json: bool,
) -> int:
    from benchmark import api

    documents: list[dict[str, Any]] = []
    failed: list[CellResult] = []
    with _open_checked(loaded, store, address) as cluster:
        for number, experiment in enumerate(loaded):
            with open_stderr_progress() as progress:
                result, path = api.run_stage(
                    stage, experiment, store=store, address=cluster, progress=progress
                )
            failed += [item for item in result.cells if item.status == "failed"]
            if as_json:
                cells = [item.to_json() for item in result.cells]
                documents.append({"store": store or experiment.store, "path": path, "cells": cells})
                continue
            say_heading([item.path for item in loaded], number)
            print_tables(result.tables)
            say(path)
    return _end(documents, failed)


@contextmanager
def _open_checked(
    loaded: Sequence[Experiment], store: str | None, address: str | None
) -> Iterator[Cluster]:
    """Open one cluster for all experiments; of several, check every one before the first starts.

    Raises:
        UsageError: the data, the store or a band of an experiment is wrong.
    """
    from benchmark import api
    from benchmark.cluster.connection import Cluster

    if len(loaded) > 1:
        for experiment in loaded:
            with open_stderr_progress():
                api.check(experiment, store=store)
    with Cluster(address) as cluster:
        yield cluster


def _end(documents: Sequence[dict[str, Any]], failed: Sequence[CellResult]) -> int:
    """Print the documents, if there are any, and return the exit code: 1 if a cell failed."""
    if documents:
        print_documents(documents)
    if not failed:
        return 0
    first, *others = dict.fromkeys(item.reason for item in failed)
    more = f" (and {len(others)} other reasons: see status)" if others else ""
    cells = "1 cell" if len(failed) == 1 else f"{len(failed)} cells"
    return complain(f"{cells} failed: {first}{more}", 1)
