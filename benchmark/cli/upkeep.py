"""The commands ``du`` and ``clean``: what a store holds, and delete what nothing uses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.app import JsonOption, app
from benchmark.cli.printing import note, print_json, print_tables, say
from benchmark.errors import CellError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.experiment.cells import TextTable
    from benchmark.experiment.upkeep import Kept, Stock, Waste
    from benchmark.store.artefacts import Store
    from benchmark.store.heartbeat import Owner
    from benchmark.store.inventory import Entry

NUM_SHOWN = 20
"""Rows of a table of artefacts; --all and --json have every one."""
NUM_USERS = 2
"""Experiments named as users of one artefact; more are counted."""

StoreArg = Annotated[
    str, typer.Argument(metavar="STORE", help="Store of the artefacts: a folder or s3://...")
]
AllOption = Annotated[bool, typer.Option("--all", help=f"Show all, not the {NUM_SHOWN} largest.")]


@app.command()
def du(store: StoreArg, show_all: AllOption = False, as_json: JsonOption = False) -> None:
    """Show the size of a store by stage, experiment and artefact, and what nothing uses."""
    opened, stock = _look(store)
    if as_json:
        print_json(_document(opened, stock))
        return
    print_tables([_stages(stock), _experiments(stock), _artefacts(stock, show_all)])
    total = sum(item.num_bytes for item in stock.entries)
    unused = sum(item.num_bytes for item in stock.counted if not stock.users(item))
    others = sum(item.num_bytes for item in stock.entries if item.kind == "foreign")
    say(f"{size_text(total)} in {store}, {size_text(unused)} of it used by no experiment")
    if others:
        say(f"{size_text(others)} of it are files of others, or behind links")
    say(f"benchmark clean {store}")


@app.command()
def clean(
    store: StoreArg,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; otherwise it is only shown.")] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME-DIGEST", help="Also delete this experiment, as du calls it."),
    ] = None,
    latest: Annotated[
        bool,
        typer.Option("--latest", help="Of experiments of one name, keep what ran last only."),
    ] = False,
    show_all: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what no experiment in a store uses, and old reports; delete it with --yes."""
    from benchmark.experiment.upkeep import check_labels, find_waste, older
    from benchmark.store.inventory import delete_entries

    opened, stock = _look(store)
    running = _running(opened, waits=yes)
    if yes and running:
        raise UsageError(
            f"clean: {_names(running)} uses the store '{store}'; nothing was deleted: wait until "
            "it ends"
        )
    forgotten = check_labels(stock, forget or ()) | (older(stock) if latest else set())
    waste = find_waste(opened, stock, forgotten=forgotten, now_s=time.time())
    deleted: set[str] = set()
    if yes and waste:
        _check_unchanged(opened, stock)
        deleted = {item.path for item in delete_entries(opened, [item.entry for item in waste])}
    num_bytes = _sum([item.entry for item in waste])
    unknown = [item for item in stock.without(forgotten).experiments if item.problem]
    if as_json:
        print_json(
            {
                "store": store,
                "bytes": num_bytes,
                "items": [
                    {
                        "path": item.entry.path,
                        "bytes": item.entry.num_bytes,
                        "reason": item.reason,
                        "deleted": item.entry.path in deleted,
                    }
                    for item in waste
                ],
                "unknown": {item.label: item.problem for item in unknown},
                "running": [str(item) for item in running],
            }
        )
        return
    if waste:
        print_tables([_waste_table(waste, show_all)])
    for item in unknown:
        say(f"kept: all that may be of {item.label}, which cannot be resolved: {item.problem}")
    if running:
        say(f"{_names(running)} uses the store: nothing is deleted until it ends")
    if deleted:
        gone = [item.entry for item in waste if item.entry.path in deleted]
        say(f"deleted {size_text(_sum(gone))} in {store}")
    elif waste:
        say(f"{size_text(num_bytes)} could be deleted in {store}; nothing was: add --yes")
    else:
        say(f"nothing to delete in {store}")


def size_text(num_bytes: int) -> str:
    """Return a size in decimal units, e.g. ``3.4 MB``."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        del units[0]
    is_short = units[0] == "B" or size >= 99.95
    return f"{size:.0f} {units[0]}" if is_short else f"{size:.1f} {units[0]}"


def _look(uri: str) -> tuple[Store, Stock]:
    from benchmark import api
    from benchmark.experiment.upkeep import look_through
    from benchmark.store.artefacts import Store

    store = Store(uri)
    return store, look_through(store, lambda item: api.open_readable(item, store=uri))


def _running(store: Store, *, waits: bool) -> list[Owner]:
    """Return the runs that use a store; those that may, if it must not wait for heartbeats."""
    from benchmark.store.heartbeat import Watch

    watch = Watch(store, time.monotonic)
    found = list(watch.living().values())
    if not waits or not found:
        return found
    note(f"waiting to see whether {_names(found)} still runs")
    return watch.active(time.sleep)


def _check_unchanged(store: Store, stock: Stock) -> None:
    """Refuse to delete if an experiment has begun, or was deleted, since the stock was taken.

    Raises:
        UsageError: one has.
        CellError: the store cannot be read.
    """
    from benchmark.experiment.file import FOLDER
    from benchmark.store.inventory import list_files

    known = {item.path: item.changed_s for kept in stock.experiments for item in kept.files}
    now = {
        item.path: item.changed_s
        for item in list_files(store, FOLDER)
        if item.path in known or item.path.endswith(".toml")
    }
    if now != known:
        raise CellError(
            f"clean: a run has begun in '{store.uri}' meanwhile; nothing was deleted: try again"
        )


def _names(running: Sequence[Owner]) -> str:
    return " and ".join(sorted({str(item) for item in running})[:3])


def _stages(stock: Stock) -> TextTable:
    from benchmark.experiment.cells import TextTable
    from benchmark.experiment.upkeep import STAGES
    from benchmark.store.inventory import ARRAYS

    rows = []
    for stage in (*STAGES, ARRAYS):
        mine = [item for item in stock.counted if item.stage == stage]
        unused = [item for item in mine if not stock.users(item)]
        if mine:
            sizes = (_sum(mine), _sum(unused))
            rows.append((stage, str(len(mine)), *map(size_text, sizes)))
    return TextTable("By stage", ("stage", "artefacts", "size", "used by none"), rows)


def _experiments(stock: Stock) -> TextTable:
    from benchmark.experiment.cells import TextTable

    rows = []
    for item in sorted(stock.experiments, key=lambda item: item.last_run):
        mine, alone = _shares(stock, item)
        rows.append(
            (
                item.label,
                item.last_run.partition("+")[0].replace("T", " "),
                size_text(mine),
                size_text(alone),
            )
        )
    notes = tuple(
        f"{item.label} cannot be resolved ({item.problem}): all that may be its is counted"
        for item in stock.experiments
        if item.problem
    )
    columns = ("experiment", "last run (UTC)", "uses", "used by it alone")
    return TextTable("By experiment", columns, rows, notes)


def _artefacts(stock: Stock, show_all: bool) -> TextTable:
    from benchmark.experiment.cells import TextTable

    found = sorted(stock.counted, key=lambda item: (-item.num_bytes, item.path))
    shown = found if show_all else found[:NUM_SHOWN]
    rows = [
        (
            item.path,
            size_text(item.num_bytes),
            _users(stock, item),
        )
        for item in shown
    ]
    return TextTable("By artefact", ("artefact", "size", "used by"), rows, _rest(found, shown))


def _users(stock: Stock, entry: Entry) -> str:
    labels = [user.label for user in stock.users(entry)] or ["none"]
    return ", ".join(labels) if len(labels) <= NUM_USERS else f"{len(labels)} experiments"


def _waste_table(waste: Sequence[Waste], show_all: bool) -> TextTable:
    from benchmark.experiment.cells import TextTable

    found = sorted(waste, key=lambda item: (-item.entry.num_bytes, item.entry.path))
    shown = found if show_all else found[:NUM_SHOWN]
    rows = [(item.entry.path, size_text(item.entry.num_bytes), item.reason) for item in shown]
    return TextTable("To delete", ("what", "size", "why"), rows, _rest(found, shown))


def _rest(found: Sequence[Any], shown: Sequence[Any]) -> tuple[str, ...]:
    left = len(found) - len(shown)
    return (f"and {left} smaller: --all shows them",) if left else ()


def _shares(stock: Stock, kept: Kept) -> tuple[int, int]:
    """Return the size of what an experiment uses, and of what no other uses (bytes)."""
    mine = [item for item in stock.counted if kept.uses(item)]
    return _sum(mine), _sum([item for item in mine if len(stock.users(item)) == 1])


def _sum(entries: Sequence[Any]) -> int:
    return sum(item.num_bytes for item in entries)


def _document(store: Store, stock: Stock) -> dict[str, Any]:
    artefacts = [
        {
            "path": item.path,
            "stage": item.stage,
            "bytes": item.num_bytes,
            "experiments": [user.label for user in stock.users(item)],
        }
        for item in stock.counted
    ]
    experiments = []
    for item in stock.experiments:
        mine, alone = _shares(stock, item)
        experiments.append(
            {
                "experiment": item.label,
                "last_run": item.last_run,
                "bytes": mine,
                "bytes_alone": alone,
                "problem": item.problem,
            }
        )
    stages: dict[str, int] = {}
    for entry in stock.counted:
        stages[entry.stage] = stages.get(entry.stage, 0) + entry.num_bytes
    return {
        "store": store.uri,
        "bytes": _sum(stock.entries),
        "unused_bytes": sum(row["bytes"] for row in artefacts if not row["experiments"]),
        "stages": stages,
        "experiments": experiments,
        "artefacts": artefacts,
        "others": [
            {"path": item.path, "kind": item.kind, "bytes": item.num_bytes}
            for item in stock.entries
            if item.kind in ("temporary", "foreign")
        ],
    }
