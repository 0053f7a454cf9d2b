"""The experiment file of a run: copy it into the store, and report later changes.

A file is read once, when a command begins; edits during a run affect the next run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmark.config import Experiment
from benchmark.store.artefacts import Store

FOLDER = "experiments"


def keep(experiment: Experiment, store: Store) -> None:
    """Copy the file, as it was read, to ``experiments/NAME-DIGEST.toml`` in the store.

    Settings of the command line follow as comments. An existing copy is kept; experiments that
    were not loaded from a file are skipped.

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
    """Return a sentence if the file is no longer as it was read, otherwise an empty string."""
    if not experiment.text:
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
