"""The command ``status``: the status of every cell, once or repeatedly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmark.cli.printing import (
    note,
    open_stderr,
    open_stderr_progress,
    open_stdout,
    print_documents,
    print_json,
    print_tables,
    say,
    say_heading,
)
from benchmark.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions

    from benchmark.config import Experiment
    from benchmark.experiment.cells import CellResult, TextTable
    from benchmark.stages.watching import StageCount, View

WATCH_EVERY_S = 2.0


@dataclass(frozen=True)
class Asked:
    """Which cells of which store, and how to show them."""

    experiment: Experiment
    store: str | None = None
    as_json: bool = False
    prefix: str = ""
    stage: str | None = None
    verify: bool = False
    address: str | None = None
    """Of the cluster that would compute, for an estimate."""


def show_status(asked: Sequence[Asked]) -> int:
    """Print the status of every cell of each experiment.

    Returns: the exit code: 1 if a verified cell is damaged.
    """
    from benchmark import api

    documents, is_damaged = [], False
    for number, item in enumerate(asked):
        results = api.status(item.experiment, store=item.store, verify=item.verify)
        is_damaged |= any(result.is_verified is False for result in results)
        if item.as_json:
            documents.append(_document(results, item))
            continue
        say_heading([each.experiment.path for each in asked], number)
        _print(results, item)
    if documents:
        print_documents(documents)
    return int(is_damaged)


def show_plan(asked: Sequence[Asked]) -> int:
    """Print the status of every cell and what is left to compute; return the exit code 0."""
    from benchmark import api

    documents = []
    for number, item in enumerate(asked):
        with open_stderr_progress():
            results, left = api.plan(
                item.experiment, store=item.store, address=item.address, stage=item.stage
            )
        if item.as_json:
            documents.append({**_document(results, item), "estimate": left.to_json()})
            continue
        say_heading([each.experiment.path for each in asked], number)
        _print(results, item, left.table() if left.stages else None)
    if documents:
        print_documents(documents)
    return 0


def watch_status(asked: Asked, *, every_s: float) -> int:
    """Poll until every cell is complete or failed; then print as ``show_status``.

    Meanwhile stderr shows the table, or lines of counts if it is not a terminal. Returns the exit
    code: 1 if a cell failed.

    Raises:
        Interrupted: at Ctrl-C.
    """
    from benchmark import api
    from benchmark.stages.watching import Watcher

    try:
        with api.open_readable(asked.experiment, store=asked.store) as context:
            watcher = Watcher(context)
            view = _watch(watcher.look, every_s)
    except KeyboardInterrupt:
        raise Interrupted("stopped watching; the run goes on") from None
    if asked.as_json:
        print_json(_document(view.results, asked))
    else:
        _print(view.results, asked)
    return 1 if view.failed else 0


def _watch(look: Callable[[], View], every_s: float) -> View:
    console = open_stderr()
    if console is None or not console.is_terminal:
        shown: dict[str, StageCount] = {}

        def show_changes(view: View) -> None:
            for count in view.counts():
                if shown.get(count.stage) != count:
                    shown[count.stage] = count
                    note(str(count), stage=count.stage, numbers=count.numbers())

        return _poll(look, show_changes, every_s)
    from rich.live import Live

    with Live(console=console, transient=True, auto_refresh=False) as live:
        return _poll(
            look, lambda view: live.update(_build_page(view, console.size), refresh=True), every_s
        )


def _poll(look: Callable[[], View], show: Callable[[View], None], every_s: float) -> View:
    while True:
        view = look()
        show(view)
        if view.is_over:
            return view
        time.sleep(every_s)


def _build_page(view: View, size: ConsoleDimensions) -> Any:
    """Return the counts and the table; a low terminal shows only unfinished cells."""
    from rich.console import Group
    from rich.text import Text

    counts = ", ".join(count.short() for count in view.counts())
    # Three more lines: the table's head, the number of hidden cells, the cursor.
    max_rows = max(1, size.height - math.ceil(len(counts) / size.width) - 3)
    rows = view.results
    if len(rows) > max_rows:
        rows = [item for item in rows if item.status != "complete"]
    rows = rows[:max_rows]
    hidden = len(view.results) - len(rows)
    below = [Text(f"and {hidden} more cells")] if hidden else []
    return Group(Text(counts), _build_table(rows, view.running, with_artefacts=False), *below)


def _build_table(
    results: Sequence[CellResult], running: Mapping[str, str], *, with_artefacts: bool = True
) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    # The live table, limited in height, has one line per cell; the final one shows all text.
    overflow: Literal["fold", "ellipsis"] = "fold" if with_artefacts else "ellipsis"
    for column in ("stage", "cell", "status", *(["artefact"] if with_artefacts else [])):
        table.add_column(column, overflow=overflow, no_wrap=column != "artefact")
    for item in results:
        artefact = item.cell.artefact
        state = f"{item.status}: {item.reason}" if item.reason else item.status
        if item.status != "complete" and artefact.path in running:
            state = f"running: {running[artefact.path]}"
        row: list[str | Text] = [item.cell.stage, Text(item.cell.label), Text(state)]
        table.add_row(*row, *([Text(artefact.uri)] if with_artefacts else []))
    return table


def _print(results: Sequence[CellResult], asked: Asked, left: TextTable | None = None) -> None:
    from benchmark.results import count_left_out

    shown = _shown(results, asked)
    open_stdout().print(_build_table(shown, {}))
    if left is not None:
        say("")
        print_tables([left])
    complete = sum(item.status == "complete" for item in shown)
    verified = sum(item.is_verified is True for item in shown)
    checked = f", {verified} verified" if asked.verify else ""
    left_out = count_left_out(shown)
    say(f"{asked.prefix}{complete} of {len(shown)} cells complete{checked}{left_out}")
    say(asked.store or asked.experiment.store)


def _document(results: Sequence[CellResult], asked: Asked) -> dict[str, Any]:
    """Return the document of ``--json``."""
    return {
        "store": asked.store or asked.experiment.store,
        "cells": [item.to_json() for item in _shown(results, asked)],
    }


def _shown(results: Sequence[CellResult], asked: Asked) -> list[CellResult]:
    return [item for item in results if asked.stage is None or item.cell.stage == asked.stage]
