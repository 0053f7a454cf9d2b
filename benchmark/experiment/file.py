"""The experiment file of a run: a copy goes into the store, and later changes are told.

A file is read once, when a command begins; whoever edits it meanwhile changes the next run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmark.config import Experiment
from benchmark.store.artefacts import Store

FOLDER = "experiments"


def keep(experiment: Experiment, store: Store) -> None:
    """Write the file as it was read into the store, where it is not there yet.

    It is ``experiments/NAME-DIGEST.toml``; settings of the command line follow as comments.
    Experiments that were not loaded from a file are left out.

    Raises:
        CellError: the store cannot be read or written.
    """
    if not experiment.text:
        return
    given = [f"# --set {' '.join(item.splitlines())}" for item in experiment.overrides]
    content = "\n".join([experiment.text.rstrip("\n"), *given, ""]).encode()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = f"{FOLDER}/{experiment.name}-{digest}.toml"
    if not store.has(path):
        store.write(path, content)


def describe_change(experiment: Experiment) -> str:
    """Return what to say of a file that is not as it was read any more; empty where it is."""
    if not experiment.text:
        return ""
    try:
        is_same = Path(experiment.path).read_text(encoding="utf-8") == experiment.text
        what = "has changed"
    except FileNotFoundError:
        is_same, what = False, "is gone"
    except (OSError, UnicodeDecodeError):
        is_same, what = False, "cannot be read any more"
    if is_same:
        return ""
    return f"{experiment.path} {what} since this run began: its results are of the earlier content"
