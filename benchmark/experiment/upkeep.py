"""Which experiments of a store use which of its artefacts, and what none uses.

What an experiment uses follows from its kept file and from the data and weights of its last run,
which are not read again. Where that is not known, whatever may be its is taken for its.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from benchmark.config import Experiment
from benchmark.errors import BenchmarkError, UsageError, did_you_mean, one_line
from benchmark.experiment import file, usage
from benchmark.experiment.context import CODE_VERSIONS, Context
from benchmark.store import heartbeat
from benchmark.store.artefacts import Store
from benchmark.store.inventory import ARRAYS, Entry, Listed, list_files, take_stock

STAGES = tuple(CODE_VERSIONS)
OF_EXPERIMENT = ("evaluate", "report")
"""The stages whose artefacts have the experiment's name."""
RECENT_S = 3600.0
"""Temporary files and arrays that are younger may belong to a run that is about to begin."""

Opener = Callable[[Experiment], AbstractContextManager[Context]]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An experiment that is kept in a store, and what it uses."""

    label: str
    """NAME-DIGEST: the name of its file."""
    name: str
    files: tuple[Listed, ...]
    last_run: str
    """When it ran last (UTC, ISO 8601)."""
    folders: frozenset[str] = frozenset()
    """The artefacts and arrays that it uses, whether they exist or not."""
    dataset: str = ""
    problem: str = ""
    """Why it cannot be known what it uses; empty: it is known."""

    def uses(self, entry: Entry) -> bool:
        """Return whether it uses an artefact or arrays, or may use them."""
        if not self.problem:
            return entry.path in self.folders
        if entry.stage in OF_EXPERIMENT:
            return entry.name == self.name
        return not self.dataset or entry.stage == ARRAYS or entry.name.startswith(self.dataset)


@dataclass(frozen=True)
class Stock:
    """A store's artefacts, arrays and temporary files, and the experiments that it keeps."""

    entries: tuple[Entry, ...]
    experiments: tuple[Kept, ...]

    @property
    def counted(self) -> list[Entry]:
        """The artefacts and arrays."""
        return [item for item in self.entries if item.kind in ("artefact", "arrays")]

    def users(self, entry: Entry) -> list[Kept]:
        """Return the experiments that use an artefact or arrays."""
        return [item for item in self.experiments if item.uses(entry)]

    def without(self, labels: Collection[str]) -> Stock:
        """Return the stock as it is without some experiments."""
        left = [item for item in self.experiments if item.label not in labels]
        return replace(self, experiments=tuple(left))


@dataclass(frozen=True)
class Waste:
    """What can be deleted, and why."""

    entry: Entry
    reason: str


def look_through(store: Store, open_context: Opener) -> Stock:
    """Return what lies in a store; write nothing.

    Args:
        store: to look through.
        open_context: opens the context of an experiment on that store.

    Raises:
        UsageError: it is no store.
        CellError: it cannot be read.
    """
    store.check_readable()
    kept = list_files(store, file.FOLDER)
    entries = take_stock(store, STAGES, (file.FOLDER, usage.FOLDER, heartbeat.FOLDER))
    if not kept and not any(item.kind == "artefact" for item in entries):
        raise UsageError(
            f"'{store.uri}' is no store: it holds neither artefacts nor experiments; name the "
            "folder or URI that `benchmark run` printed"
        )
    paths = [item.path for item in kept if item.path.endswith(".toml")]
    found = (_read(store, path, kept, open_context) for path in paths)
    return Stock(tuple(entries), tuple(item for item in found if item is not None))


def _read(store: Store, path: str, kept: Sequence[Listed], open_context: Opener) -> Kept | None:
    stem = path.removesuffix(".toml")
    label = stem.rpartition("/")[2]
    files = tuple(item for item in kept if item.path in (path, stem + file.RECORD))
    changed_s = max(item.changed_s for item in files)
    last_run = datetime.fromtimestamp(changed_s, UTC).isoformat(timespec="seconds")
    run: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        run = (file.read_runs(store, stem + file.RECORD) or [{}])[-1]
    about = Kept(
        label=label,
        name=label.rpartition("-")[0] or label,
        files=files,
        last_run=str(run.get("written", last_run)),
    )
    try:
        experiment = file.read_kept(store, path)
        about = replace(about, name=experiment.name, dataset=experiment.dataset.name)
        with open_context(experiment) as context:
            return replace(about, folders=frozenset(_folders(context, run)))
    except FileNotFoundError:
        # Another process has just deleted it.
        return None
    except (BenchmarkError, OSError) as error:
        return replace(about, problem=one_line(error))


def _folders(context: Context, run: dict[str, Any]) -> set[str]:
    """Return what an experiment uses, with the data and weights of a run instead of today's."""
    if digest := run.get("dataset_digest"):
        vars(context)["dataset_digest"] = digest
    weights = {name: value for name, value in dict(run.get("weights") or {}).items() if value}
    context.backbones = tuple(
        replace(item, revision=partial(str, weights[item.name])) if item.name in weights else item
        for item in context.backbones
    )
    found = {context.patches.folder, context.scores().folder, context.report().folder}
    found |= {context.embeddings(item).folder for item in context.backbones}
    found |= {
        artefact.folder for item in context.backbones for artefact in context.flipped(item).values()
    }
    found |= {cell.artefact.folder for cell in context.prediction_cells()}
    root = PurePosixPath(context.experiment.dataset.root)
    return found | ({f"{ARRAYS}/{root.name}"} if root.parent.name == ARRAYS else set())


def older(stock: Stock) -> set[str]:
    """Return the experiments of whose name another one ran later."""
    last: dict[str, Kept] = {}
    for item in sorted(stock.experiments, key=lambda item: item.last_run):
        last[item.name] = item
    return {item.label for item in stock.experiments} - {item.label for item in last.values()}


def check_labels(stock: Stock, labels: Collection[str]) -> set[str]:
    """Return the experiments to forget, as they are called in the store.

    Raises:
        UsageError: there is no such experiment.
    """
    known = [item.label for item in stock.experiments]
    found = {PurePosixPath(item).name.removesuffix(".toml") for item in labels}
    for label in sorted(found - set(known)):
        raise UsageError(
            f"clean: --forget {label}: there is no such experiment in the store."
            f"{did_you_mean(label, known)}"
        )
    return found


def find_waste(
    store: Store, stock: Stock, *, forgotten: Collection[str], now_s: float
) -> list[Waste]:
    """Return what can be deleted, with the reason of each.

    Args:
        store: of the stock.
        stock: from ``look_through``.
        forgotten: labels of experiments that are deleted, too.
        now_s: the time (s since the epoch).

    Raises:
        UsageError: the store keeps no experiment, so that nothing in it would be used.
        CellError: the store cannot be read.
    """
    if not stock.experiments:
        raise UsageError(
            f"clean: there is no experiment in '{store.uri}/{file.FOLDER}': nothing tells what is "
            "used. Run an experiment again, which computes nothing anew, or delete the folder"
        )
    left = stock.without(forgotten)
    names = {item.name for item in left.experiments}
    found = []
    for entry in stock.entries:
        reason = _why_unused(entry, left, names, now_s)
        if reason:
            found.append(Waste(entry, reason))
    for item in stock.experiments:
        if item.label in forgotten:
            entry = Entry(f"{file.FOLDER}/{item.label}", "temporary", item.files)
            found.append(Waste(entry, "the experiment itself"))
    for listed in list_files(store, usage.FOLDER):
        name = listed.path.removeprefix(f"{usage.FOLDER}/").removesuffix(".json")
        if listed.path.endswith(".json") and name not in names:
            entry = Entry(listed.path, "temporary", (listed,))
            found.append(Waste(entry, "times of an experiment that is not in the store"))
    return sorted(found, key=lambda item: item.entry.path)


def _why_unused(entry: Entry, left: Stock, names: Collection[str], now_s: float) -> str:
    if entry.kind == "temporary":
        return "temporary file" if now_s - entry.changed_s > RECENT_S else ""
    if entry.kind == "foreign" or left.users(entry):
        return ""
    if entry.kind == "arrays":
        return "no experiment uses these arrays" if now_s - entry.changed_s > RECENT_S else ""
    if entry.stage in OF_EXPERIMENT and entry.name in names:
        what = "scores" if entry.stage == "evaluate" else "report"
        return f"older {what} of '{entry.name}'"
    return "no experiment uses it"
