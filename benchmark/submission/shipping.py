"""Collect the files of a job: the package, its entry points, one experiment file and own code.

Nothing else is sent: no data, no store, no history, no environment. The files are copied into a
new folder, so that a checkout and an installed package ship the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.catalog.datasets import is_public
from benchmark.catalog.own.lookup import own_targets
from benchmark.catalog.own.source import files_to_ship, search_folders
from benchmark.config import Experiment
from benchmark.errors import UsageError

MAX_BYTES = 512 * 2**20
"""Ray refuses larger packages: its largest gRPC message (``GCS_STORAGE_MAX_SIZE``)."""

EXCLUDED = frozenset(
    {"__pycache__", "build", "data", "dist", "node_modules", "runs", "tests", "venv"}
)
"""Folders left out at any depth, besides those whose name begins with a dot."""
EXCLUDED_SUFFIXES = (".pyc", ".pyo")
BESIDE = ("pyproject.toml", "constraints.txt")
"""Files of a checkout that say what to install; an installed package has none."""

EXPERIMENT_DIR = "experiments"
SOURCES = ("hf:", "timm:", "torchgeo:", "embeddings:")
"""Prefixes of backbones of other sources."""
NUM_NAMED = 3


@dataclass(frozen=True)
class Shipment:
    """A folder ready to be sent."""

    folder: Path
    sizes: dict[str, int]
    """Bytes of each file, by its path below the folder."""
    experiment: str
    """Path of the experiment file below the folder."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all files, before they are compressed."""
        return sum(self.sizes.values())

    def __str__(self) -> str:
        tops = dict.fromkeys(
            name if name == self.experiment else name.split("/")[0] + "/" * ("/" in name)
            for name in self.sizes
        )
        return f"{len(self.sizes)} files, {megabytes(self.num_bytes)}: {', '.join(tops)}"


def stage(
    experiment: Experiment,
    folder: Path,
    *,
    source: Path | None = None,
    leave_out: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
) -> Shipment:
    """Copy what a job needs into a folder.

    Args:
        experiment: from ``config.load``; the text read then is sent.
        folder: an empty folder.
        source: folder of ``benchmark`` and ``jobs``; None: that of the imported package.
        leave_out: further folders, e.g. a store inside the source.
        max_bytes: upper limit of the total.

    Raises:
        UsageError: the total exceeds ``max_bytes``; names the largest files. Or own code of the
            experiment is not found.
    """
    source = source or Path(__file__).resolve().parents[2]
    left_out = {os.path.realpath(path) for path in leave_out}
    found = {
        path.relative_to(source).as_posix(): path
        for name in ("benchmark", "jobs")
        for path in _files(source / name, left_out)
    }
    # A pyproject.toml in site-packages would be another package's.
    if source.name != "site-packages":
        found |= {name: source / name for name in BESIDE if (source / name).is_file()}
    # Beside the experiment, where a run looks for it.
    found |= {f"{EXPERIMENT_DIR}/{name}": path for name, path in _own_code(experiment).items()}
    target = f"{EXPERIMENT_DIR}/{Path(experiment.path).name}"
    text = experiment.text.encode()
    sizes = {name: path.stat().st_size for name, path in found.items()} | {target: len(text)}
    _check_size(sizes, {**found, target: Path(experiment.path)}, max_bytes)
    for name, path in found.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (folder / EXPERIMENT_DIR).mkdir(parents=True, exist_ok=True)
    (folder / target).write_bytes(text)
    return Shipment(folder=folder, sizes=sizes, experiment=target)


def _own_code(experiment: Experiment) -> dict[str, Path]:
    """Return the files of the own code that an experiment names, except of installed packages."""
    names = [
        *(("backbone", name) for name in experiment.backbones if not name.startswith(SOURCES)),
        *(("head", name) for name in experiment.heads),
        *(("metric", name) for name in experiment.evaluate.metrics),
        *(("dataset", name) for name in [experiment.dataset.name] if not is_public(name)),
    ]
    return files_to_ship(own_targets(names, search_folders(experiment.path)))


def megabytes(num_bytes: int) -> str:
    """Return a size as readable text, e.g. ``0.8 MiB``."""
    return f"{num_bytes / 2**20:.1f} MiB"


def _files(top: Path, left_out: set[str]) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name not in EXCLUDED
            and not name.startswith(".")
            and os.path.realpath(here / name) not in left_out
        )
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(EXCLUDED_SUFFIXES):
                yield here / name


def _check_size(sizes: dict[str, int], found: dict[str, Path], max_bytes: int) -> None:
    total = sum(sizes.values())
    if total <= max_bytes:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:NUM_NAMED]
    named = ", ".join(f"{found[name]} ({megabytes(sizes[name])})" for name in largest)
    raise UsageError(
        f"submit: {megabytes(total)} would be shipped, but Ray takes {megabytes(max_bytes)}; "
        f"the largest files are {named}: move them out of the package"
    )
