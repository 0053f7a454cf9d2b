"""The experiment of a run: keep it in the store, whole, and report later changes of its file.

``experiments/NAME-DIGEST.toml`` holds every setting in effect, with absolute paths, so that it
runs from any folder and after a change of defaults. ``NAME-DIGEST.json`` beside it says what each
run of it was computed with: versions, code, data and weights. A file is read once, when a command
begins; edits during a run affect the next run.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark import config
from benchmark.config import Experiment, build
from benchmark.errors import BenchmarkError, UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.toml import to_toml
from benchmark.fields import MAX_FILE_BYTES, apply_override, decode_experiment, parse_toml
from benchmark.store.artefacts import Store
from benchmark.store.digest import fingerprint
from benchmark.store.filesystems import join
from benchmark.store.inventory import list_files
from benchmark.store.provenance import record
from benchmark.tracking_settings import absolute_address

FOLDER = "experiments"
MARK = "# Kept by benchmark"
"""How a kept experiment begins."""
HEADER = f"""{MARK}: all settings of a run. `benchmark run` takes this file from any folder.
# What it ran with (versions, code, data, weights) is in the .json file beside it.
"""
RECORD = ".json"
"""Ending of the record beside it."""
ORIGINAL = "# The file as it was given:"
OLDER_OVERRIDE = "# --set "
MAX_ORIGINAL = 40_000
"""Characters of a given file that are repeated as comments; its lines are fewer."""
_URI = re.compile(r"(?i)\b([a-z][a-z0-9]+):/{1,2}(?=[^/])")
MAX_RUNS = 20
"""Runs with other versions, code, data or weights that are remembered; the last ones."""


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Load an experiment file of this machine, or of a store on another file system.

    Args:
        path: the TOML file, or its URI, e.g. ``s3://bucket/prefix/experiments/NAME.toml``.
        overrides: ``KEY=VALUE`` settings.

    Raises:
        UsageError: the file or a setting is wrong, or the file's store cannot be read.
    """
    uri = _uri_of(str(path))
    if uri is None:
        return relocated(config.load(path, overrides))
    return config.load(uri, overrides, text=_fetch(uri))


def _uri_of(path: str) -> str | None:
    """Return the URI of a file that is not on this machine; None: a path.

    ``Path`` has made one slash of two.
    """
    found = _URI.match(path)
    if not found or Path(path).exists():
        return None
    return _URI.sub(r"\1://", path)


def _fetch(uri: str) -> str:
    """Return the text of an experiment file on another file system."""
    address, mark, query = uri.partition("?")
    folder, _, name = address.rpartition("/")
    store = Store(folder + mark + query)
    store.check_readable()
    try:
        size = store.size(name)
        if size > MAX_FILE_BYTES:
            raise UsageError(
                f"{uri}: cannot be read: it has {size:,} bytes; an experiment file has at most "
                f"{MAX_FILE_BYTES:,}"
            )
        return decode_experiment(store.read(name), uri)
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such experiment file") from None


def keep(context: Context) -> str:
    """Keep the experiment of a run in its store, and return the kept file's path in the store.

    The file is written once; what the run is computed with is added to the record beside it.

    Raises:
        UsageError: the data are missing or wrong.
        CellError: the store cannot be read or written.
    """
    experiment, store = context.experiment, context.store
    settings = settings_of(context)
    # A store may move: the file is the same there.
    digest = fingerprint({key: value for key, value in settings.items() if key != "store"})
    path = f"{FOLDER}/{experiment.name}-{digest}.toml"
    if not store.has(path):
        store.write(path, (HEADER + to_toml(settings) + _original(experiment)).encode())
    _remember(context, path.removesuffix(".toml") + RECORD)
    return path


def settings_of(context: Context) -> dict[str, Any]:
    """Return all settings in effect, as JSON, with absolute paths, without empty ones.

    Of ``[dataset]`` only those that apply, and of ``[backbone]`` only those that were set: some
    mean something else if they are set to their default.
    """
    experiment = context.experiment
    found: dict[str, Any] = experiment.model_dump(mode="json", exclude_none=True)
    chosen = experiment.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    applied = context.patches_inputs["settings"].keys() | chosen["dataset"].keys()
    dataset = {key: value for key, value in found["dataset"].items() if key in applied}
    for key in ("root", "labels"):
        if key in dataset:
            dataset[key] = _absolute(dataset[key])
    found["dataset"] = dataset
    found["backbone"] = _options(context, chosen.get("backbone", {}))
    if (tracking := experiment.tracking) and tracking.mlflow:
        found["tracking"]["mlflow"] = absolute_address(tracking.mlflow)
    if tracking and tracking.exports:
        found["tracking"]["exports"] = _absolute(tracking.exports)
    if experiment.report.prices:
        found["report"]["prices"] = _absolute(experiment.report.prices)
    found["store"] = _store_of(context.store)
    return found


def _options(context: Context, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of backbones, with the absolute path of each folder or product."""
    options = {name: dict(table) for name, table in chosen.items()}
    for backbone in context.backbones:
        if backbone.folder is None and backbone.product is None:
            continue
        source, _, path = backbone.model.partition(":")
        place = f"{source}:{_absolute(os.path.expanduser(path))}"  # noqa: PTH111
        if place != backbone.name:
            options.setdefault(backbone.name, {})["model"] = place
    return options


def _absolute(path: str) -> str:
    # Links stay: what they lead to may change, and is noticed by its content.
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100


def _store_of(store: Store) -> str:
    return store.root if store.is_local else store.uri


def _original(experiment: Experiment) -> str:
    """Return the text of the experiment's file as comments."""
    text, overrides = experiment.text.strip("\n"), experiment.overrides
    if is_kept(text):
        # Its settings are above; what was given is at its end.
        text = text.partition(f"\n{ORIGINAL}\n")[2]
        text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())
    if len(text) > MAX_ORIGINAL:
        text = f"... of {len(text):,} characters, left out"
    lines = [*text.splitlines(), *(f"--set {' '.join(item.splitlines())}" for item in overrides)]
    if not lines:
        return ""
    return "\n".join(["", ORIGINAL, *(f"# {line}".rstrip() for line in lines), ""])


def is_kept(text: str) -> bool:
    """Return whether the text of an experiment file was written by ``keep``."""
    return text.startswith(MARK)


def relocated(experiment: Experiment) -> Experiment:
    """Return an experiment whose kept file lies in another store than it was written in.

    Its store is the one it lies in, and paths into the former store lead into that. Any other
    experiment is returned unchanged, and so is one whose kept file was copied without its record.
    """
    path = Path(experiment.path).absolute()
    folder = path.parent
    is_in_store = folder.name == FOLDER and path.with_suffix(RECORD).is_file()
    if not is_in_store or not is_kept(experiment.text):
        return experiment
    was = str(parse_toml(experiment.text, where=experiment.path).get("store", ""))
    return moved(experiment, was, str(folder.parent))


def moved(experiment: Experiment, was: str, now: str) -> Experiment:
    """Return an experiment whose store has moved; one with another store is returned unchanged."""
    if experiment.store != was or not was or "://" in was or was == now:
        return experiment
    # What was not set must stay so: it may mean something else than its default.
    content = experiment.model_dump(exclude_unset=True)
    for key in ("root", "labels"):
        text = content["dataset"].get(key)
        if text is not None and text.startswith(f"{was}/"):
            content["dataset"][key] = now + text[len(was) :]
    update = {"store": now, "dataset": type(experiment.dataset)(**content["dataset"])}
    return experiment.model_copy(update=update)


def inputs_of(context: Context) -> dict[str, Any]:
    """Return the digests of the data and of the weights of an experiment (None: not here)."""
    return {
        "dataset_digest": context.dataset_digest,
        "weights": {item.name: _revision(item) for item in context.backbones},
    }


def _remember(context: Context, path: str) -> None:
    run = {**inputs_of(context), **record()}
    try:
        runs = read_runs(context.store, path)
    except FileNotFoundError:
        runs = []
    others = [item for item in runs if _what(item) != _what(run)]
    is_known = bool(runs) and _what(runs[-1]) == _what(run)
    if is_known and _is_last(context, path):
        # A run that changes nothing writes nothing.
        return
    content = {"runs": [*others, run][-MAX_RUNS:]}
    context.store.write(path, (json.dumps(content, indent=2) + "\n").encode())


def _is_last(context: Context, path: str) -> bool:
    """Return whether no other experiment of the name has run since this record was written."""
    start = f"{FOLDER}/{context.experiment.name}-"
    changed_s = {
        item.path: item.changed_s
        for item in list_files(context.store, FOLDER)
        if item.path.startswith(start) and item.path.endswith(RECORD)
    }
    return changed_s.get(path, 0.0) == max(changed_s.values(), default=0.0)


def read_runs(store: Store, path: str) -> list[dict[str, Any]]:
    """Return what the runs of a kept experiment were computed with, the last run last.

    Raises:
        FileNotFoundError: there is no such file.
        CellError: the store cannot be read.
    """
    try:
        found = json.loads(store.read(path))
        return [dict(item) for item in found["runs"]]
    except (ValueError, TypeError, KeyError):
        # Another version's, or damaged: it is written anew.
        return []


def _what(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: run.get(key) for key in ("dataset_digest", "weights", "versions", "code")}


def _revision(backbone: Any) -> str | None:
    """Return the digest of a backbone's weights, or None if they are not here (yet)."""
    try:
        return str(backbone.revision())
    except BenchmarkError:
        return None


def read_kept(store: Store, path: str) -> Experiment:
    """Return a kept experiment of a store, with the store's present place; also of older versions.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: it is no experiment.
        CellError: the store cannot be read.
    """
    where = join(store.uri, path)
    try:
        text = store.read(path).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not UTF-8: {error}") from None
    content = parse_toml(text, where=where)
    if not is_kept(text):
        # Older versions kept the given file, followed by overrides as comments.
        lines = reversed(text.rstrip("\n").splitlines())
        given = itertools.takewhile(lambda line: line.startswith(OLDER_OVERRIDE), lines)
        for line in reversed(list(given)):
            apply_override(content, line.removeprefix(OLDER_OVERRIDE))
    experiment = build(content, where=where)
    return moved(experiment, experiment.store, _store_of(store)) if is_kept(text) else experiment


def describe_change(experiment: Experiment) -> str:
    """Return a sentence if the file is no longer as it was read, otherwise an empty string.

    Only files of this machine are looked at.
    """
    if not experiment.text or "://" in experiment.path:
        return ""
    try:
        if Path(experiment.path).read_text(encoding="utf-8") == experiment.text:
            return ""
        what = "has changed"
    except FileNotFoundError:
        what = "is gone"
    except (OSError, UnicodeDecodeError):
        what = "cannot be read any more"
    return f"{experiment.path} {what} since this run began: its results are of the earlier content"
