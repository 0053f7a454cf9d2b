"""The measurements of modes on a device, kept in the user's cache for the next run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import torch

from benchmark.errors import one_line
from benchmark.networks.devices import DevicePlan, device_name
from benchmark.store.cache import cache_folder

if TYPE_CHECKING:
    from benchmark.specs import Backbone

logger = logging.getLogger("benchmark")

GPU_MEASURE = 2
"""Number of the way to measure on a GPU; rates of another way are not compared."""


@dataclass(frozen=True)
class Trial:
    """The measurement of one mode."""

    plan: DevicePlan
    patches_per_s: float = 0.0
    setup_s: float = 0.0
    """Time before the first batch: to compile, or to load from the compiler's cache."""
    distance: float | None = None
    """Largest cosine distance from float32, if the mode may change more than the last bits."""
    problem: str = ""
    """Reason why the mode cannot be used."""

    def seconds(self, num_patches: int) -> float:
        """Return the time for a number of patches in this mode, setup included."""
        if self.problem or not self.patches_per_s:
            return float("inf")
        return self.setup_s + num_patches / self.patches_per_s


class Memory:
    """Trials of one backbone on one device, kept in a file of the user's cache."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; start empty if it is None or unreadable."""
        self._path = path
        self._trials: dict[DevicePlan, Trial] = {}
        if path is not None and path.is_file():
            try:
                for row in json.loads(path.read_text()):
                    trial = Trial(**{**row, "plan": DevicePlan(**row["plan"])})
                    self._trials[trial.plan] = trial
            except (OSError, ValueError, TypeError, KeyError) as error:
                logger.warning("calibration cache %s is ignored: %s", path, one_line(error))

    def find(self, plan: DevicePlan) -> Trial | None:
        """Return the trial of a mode, or None."""
        return self._trials.get(plan.mode)

    def add(self, trial: Trial) -> None:
        """Store a trial; it replaces an earlier one of the same mode."""
        trial = replace(trial, plan=trial.plan.mode)
        self._trials[trial.plan] = trial
        if self._path is None:
            return
        target = self._path.with_suffix(f".{os.getpid()}.tmp")
        with suppress(OSError):  # a full disk must not end a run
            target.write_text(json.dumps(self.to_json(), indent=1))
            target.replace(self._path)

    @property
    def trials(self) -> list[Trial]:
        """All stored trials."""
        return list(self._trials.values())

    def to_json(self) -> list[dict[str, Any]]:
        """Return all trials as plain values."""
        return [asdict(trial) for trial in self.trials]


@contextmanager
def recall(
    backbone: Backbone, plan: DevicePlan, shape: Sequence[int]
) -> Iterator[tuple[Memory, float]]:
    """Open the memory of a backbone under a lock that other processes of this machine wait for.

    One process measures, and the others read its result. If the cache cannot be written, each
    process measures for itself.

    Args:
        backbone: the backbone to run.
        plan: names the device and the threads.
        shape: (C, H, W) of a patch.

    Yields: the memory, and the time spent waiting for the lock (s).
    """
    facts = [
        device_name(plan.device),
        torch.__version__,
        plan.num_threads,
        backbone.model,
        backbone.revision(),
        backbone.version,
        [list(option) for option in backbone.options],
        [*shape, backbone.image_size],
        *([GPU_MEASURE] if plan.device != "cpu" else []),
    ]
    key = hashlib.blake2b(json.dumps(facts, default=str).encode(), digest_size=12).hexdigest()
    began = time.perf_counter()
    try:
        path = cache_folder("calibration") / f"{backbone.slug}-{key}.json"
        lock = filelock.FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        logger.warning("the calibration is not cached: %s", one_line(error))
        yield Memory(None), 0.0
        return
    try:
        yield Memory(path), time.perf_counter() - began
    finally:
        lock.release()
