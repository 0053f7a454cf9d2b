"""Measure the fastest mode of a backbone on a device, and cache the result.

Measuring and compiling cost time. Both are weighed against the number of patches to embed, so
that neither a thousand nor a million patches take much longer than in the best mode. Results are
kept in the user's cache for the next run on a device of the same kind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import torch

from benchmark.errors import one_line
from benchmark.networks.devices import Asked, DevicePlan, device_name, has_fast_bfloat16
from benchmark.store.cache import cache_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.networks.embedder import Embedder
    from benchmark.specs import Backbone

logger = logging.getLogger("benchmark")

MAX_DISTANCE = 1e-3
"""Largest accepted cosine distance of an embedding from that of uncompiled float32."""
MIN_PATCHES = 1000
"""Smallest number of patches to calibrate for. For fewer, the gain is small, and noise in the
timing must not decide the last bits of a result."""
WORTH_S = 10.0
"""Shortest expected time that is worth a calibration."""
SHARE = 0.03
"""Share of the expected time to spend on measuring uncompiled modes."""
TRIAL_S = 0.3
"""Longest time to measure one mode, unless two batches take longer."""
TRIAL_SHARE = 0.01
"""Share of the expected time to measure one mode."""
BETTER, BETTER_ON_GPU = 1.05, 1.02
"""Speed-up over the default from which a mode is preferred; less is noise."""
WORTH_CHANGING = 1.02
"""Speed-up in total time from which a compiled model is used."""
EXPECTED_GAIN = 1.3
"""Speed-up expected of compiling before it is measured."""
COMPILE_S = 40.0
"""Time expected for compiling before it is measured."""
RELOAD_SHARE = 0.25
"""Share of the compile time that is expected if the compiler's cache holds the model."""

CPU_SIZES = ((2, 1), (8, 16))
"""Batch sizes to try, in two directions from the default. A direction ends at the first size that
is not faster; the second is tried only if the first gave no gain."""
GPU_SIZES = ((256, 512), (64, 16))


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


class Calibration:
    """The measurements of one backbone on one device."""

    def __init__(
        self,
        embedder: Embedder,
        pixels: NDArray[np.uint8],
        memory: Memory,
        tell: Callable[[str], None] = logger.debug,
    ) -> None:
        """Measure ``embedder`` on patches, uint8 (N, C, H, W); ``tell`` gets its first rate."""
        self._embedder = embedder
        self._pixels = pixels
        self._memory = memory
        self._tell = tell
        self._trial_s = 0.0

    def plan(
        self, asked: Asked, num_patches: int, *, num_in_all: int, is_network: bool
    ) -> DevicePlan:
        """Return the best mode for ``num_patches`` more patches, and switch the embedder to it.

        Args:
            asked: the user's settings, which are never changed.
            num_patches: number of patches that this process will embed.
            num_in_all: number of patches that all processes will embed.
            is_network: whether the backbone is a network, which can be compiled and cast.
        """
        default = self._embedder.plan
        smallest = 1 if default.device != "cpu" else default.batch_size
        if default.is_compiled:
            return self._end(default, "compiled, as requested")
        few = f"{default.reason}; {num_in_all:,} patches are too few for a calibration"
        if num_in_all < MIN_PATCHES and default.precision == "float32":
            return self._end(default, few)
        first = self._first(default, asked, is_network=is_network)
        default = first.plan
        expected_s = first.seconds(num_patches)
        if num_in_all < MIN_PATCHES or expected_s < WORTH_S:
            return self._end(default, few)
        if math.isfinite(expected_s):
            self._tell(
                f"{self._embedder.name}: {first.patches_per_s:.3g} patches/s in one process; "
                f"looking for a faster mode, for {math.ceil(SHARE * expected_s)} s at most"
            )
        self._trial_s = min(TRIAL_S, TRIAL_SHARE * expected_s)
        best = self._sweep(first, asked, num_patches)
        num_usable = sum(not trial.problem for trial in self._memory.trials)
        reason = f"the best of {num_usable} modes at {best.patches_per_s:.1f} patches/s"
        if is_network and asked.is_compiled is None:
            best, verdict = self._weigh(best, num_patches, smallest)
            reason = f"{reason if not best.plan.is_compiled else _name(best.plan)}; {verdict}"
        return self._end(best.plan, reason)

    def _end(self, plan: DevicePlan, reason: str) -> DevicePlan:
        problems = [trial.problem for trial in self._memory.trials if trial.problem]
        plan = replace(plan, reason="; ".join([reason, *problems]))
        began = time.perf_counter()
        is_new = self._embedder.adopt(plan)
        self._embedder.warm_up(self._pixels)
        known = self._memory.find(plan)
        if is_new and self._embedder.plan.is_compiled and known is not None:
            # The model came from the compiler's cache; the next run takes about as long.
            self._memory.add(replace(known, setup_s=time.perf_counter() - began))
        return self._embedder.plan

    def _first(self, default: DevicePlan, asked: Asked, *, is_network: bool) -> Trial:
        """Return the first usable precision: cast weights on a GPU, autocast, then float32."""
        plans = [default]
        if default.precision == "bfloat16" and default.device != "cpu" and is_network:
            plans.insert(0, replace(default, is_cast=True))
        if default.precision == "bfloat16" and asked.precision is None:
            plans.append(replace(default, precision="float32"))
        for plan in plans:
            trial = self._try(plan)
            if not trial.problem:
                return trial
        if trial.patches_per_s and asked.precision is not None:
            logger.warning("%s: %s, but was requested", self._embedder.name, trial.problem)
            trial = replace(trial, problem="")
        return trial

    def _sweep(self, first: Trial, asked: Asked, num_patches: int) -> Trial:
        """Return the fastest of the uncompiled modes that can be measured in time."""
        best = first
        better = BETTER if first.plan.device == "cpu" else BETTER_ON_GPU
        end = time.perf_counter() + SHARE * first.seconds(num_patches)

        def look(plan: DevicePlan) -> bool:
            nonlocal best
            known = self._memory.find(plan)
            if known is None and time.perf_counter() < end:
                known = self._try(plan)
            margin = better if best is first else 1.0
            if known is None or known.problem:
                return False
            is_faster = known.patches_per_s > margin * best.patches_per_s
            best = known if is_faster else best
            return is_faster

        plan = first.plan
        on_gpu = plan.device != "cpu"
        may_lower = asked.precision is None and plan.precision == "float32" and not on_gpu
        if may_lower and has_fast_bfloat16():
            look(replace(best.plan, precision="bfloat16"))
        if asked.batch_size is None:
            plan = replace(plan, precision=best.plan.precision)
            before = best
            for sizes in GPU_SIZES if on_gpu else CPU_SIZES:
                for size in sizes:
                    if not look(replace(plan, batch_size=size)):
                        break
                if best is not before:
                    break
        if asked.channels_last is None:
            look(replace(best.plan, channels_last=not plan.channels_last))
        if asked.num_threads is None and plan.num_threads > 1 and not on_gpu:
            look(replace(best.plan, num_threads=plan.num_threads // 2))
        return best

    def _weigh(self, best: Trial, num_patches: int, smallest: int) -> tuple[Trial, str]:
        """Return the compiled mode if compiling saves time for ``num_patches``, and the reason.

        Fused layers leave more of the cache free, so a compiled model needs batches of at least
        ``smallest`` patches even if other modes are faster with smaller ones.
        """
        size = max(best.plan.batch_size, smallest)
        plan = replace(best.plan, is_compiled=True, batch_size=size)
        known = self._memory.find(plan)
        eager_s = best.seconds(num_patches)
        if known is None:
            if eager_s * (1 - 1 / EXPECTED_GAIN) < COMPILE_S:
                return best, (
                    f"compiling (about {COMPILE_S:.0f} s) does not pay for {num_patches:,} patches"
                )
            compiled = self._try(plan)
            spent_s = compiled.setup_s
            self._memory.add(replace(compiled, setup_s=RELOAD_SHARE * spent_s))
            compiled = replace(compiled, setup_s=0.0)
        else:
            compiled, spent_s = known, known.setup_s
        if compiled.problem:
            return best, "not compiled"
        pair = f"{compiled.patches_per_s:.1f} patches/s compiled, {best.patches_per_s:.1f} not"
        if compiled.seconds(num_patches) < eager_s / WORTH_CHANGING:
            return compiled, f"{pair}: compiling ({spent_s:.0f} s) pays for {num_patches:,} patches"
        return best, f"{pair}: compiling does not pay for {num_patches:,} patches"

    def _try(self, plan: DevicePlan) -> Trial:
        """Return the stored trial of a mode, or measure it."""
        known = self._memory.find(plan)
        if known is not None:
            return known
        reference = None
        try:
            if plan.precision != "float32" or plan.is_compiled:
                self._embedder.adopt(_float32(plan))
                reference = self._embed_few()
            trial = self._measure(plan.mode)
            if reference is not None:
                distance = cosine_distance(self._embed_few(), reference)
                trial = replace(trial, distance=distance)
                if not distance <= MAX_DISTANCE:
                    trial = replace(
                        trial,
                        problem=f"{_name(plan)} is {distance:.1e} from float32 in cosine distance, "
                        f"more than {MAX_DISTANCE:.0e}",
                    )
        except Exception as error:  # out of memory, or one of the compiler's many error types
            trial = Trial(plan=plan.mode, problem=f"{_name(plan)}: {one_line(error)}")
            if plan.device != "cpu":
                torch.cuda.empty_cache()
        logger.debug("%s", trial)
        self._memory.add(trial)
        return trial

    def _measure(self, plan: DevicePlan) -> Trial:
        size = plan.batch_size
        batch = self._pixels[np.arange(size) % len(self._pixels)]
        self._embedder.adopt(plan)
        began = time.perf_counter()
        self._embedder.run_batch(batch)
        setup_s = time.perf_counter() - began
        times: list[float] = []
        while len(times) < 2 or sum(times) < self._trial_s:
            began = time.perf_counter()
            self._embedder.run_batch(batch)
            times.append(time.perf_counter() - began)
        batch_s = min(times)
        setup_s = max(0.0, setup_s - batch_s) if plan.is_compiled else 0.0
        return Trial(plan=plan, patches_per_s=size / batch_s, setup_s=setup_s)

    def _embed_few(self) -> NDArray[np.float32]:
        few = self._pixels[: self._embedder.plan.batch_size]
        return self._embedder.run_batch(few)


def cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the largest cosine distance 1 - cos(a_i, b_i) between rows; NaN counts as infinite.

    The distance of two rows of zeros is 0.

    Args:
        a: float32 (N, D).
        b: float32 (N, D).
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    both_zero = ~x.any(axis=1) & ~y.any(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = np.where(both_zero, 0.0, 1.0 - (x * y).sum(axis=1) / norms)
    return float(np.nan_to_num(distances, nan=np.inf).max(initial=0.0))


def _float32(plan: DevicePlan) -> DevicePlan:
    return replace(plan, precision="float32", is_compiled=False, is_cast=False)


def _name(plan: DevicePlan) -> str:
    layout = "channels-last" if plan.channels_last else "channels-first"
    kind = "compiled" if plan.is_compiled else "not compiled"
    precision = f"{plan.precision} weights" if plan.is_cast else plan.precision
    return f"{precision}, {kind}, {layout}, batches of {plan.batch_size}"
