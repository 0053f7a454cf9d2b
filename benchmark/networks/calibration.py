"""Measure the fastest mode of a backbone on a device.

Measuring and compiling cost time. Both are weighed against the number of patches to embed, so
that neither a thousand nor a million patches take much longer than in the best mode. Results are
kept in the user's cache for the next run on a device of the same kind.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmark.errors import one_line
from benchmark.networks.devices import (
    Asked,
    Attention,
    DevicePlan,
    has_fast_bfloat16,
)
from benchmark.networks.trials import Memory, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.networks.embedder import Embedder

logger = logging.getLogger("benchmark")

MAX_DISTANCE = 1e-3
"""Largest accepted cosine distance of an embedding from that of uncompiled float32."""
NUM_COMPARED = 64
"""Largest number of embeddings to compare with those of float32."""
MIN_PATCHES = 1000
"""Smallest number of patches to calibrate for. For fewer, the gain is small, and noise in the
timing must not decide the last bits of a result."""
WORTH_S, WORTH_S_ON_GPU = 10.0, 5.0
"""Shortest expected time that is worth a calibration; a GPU measures a mode in a moment."""
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
COMPILE_S, COMPILE_S_ON_GPU = 40.0, 15.0
"""Time expected for compiling before it is measured."""
RELOAD_SHARE = 0.25
"""Share of the compile time that is expected if the compiler's cache holds the model."""

SMALLER_ON_GPU = (64, 16)
CPU_SIZES, GPU_SIZES = ((2, 1), (8, 16)), ((512,), (256,), SMALLER_ON_GPU)
"""Batch sizes to try, in several directions from the default. A direction ends at the first size
that is not faster; the next is tried only if the ones before gave no gain."""
ATTENTIONS: tuple[Attention, ...] = ("cudnn", "efficient")
"""Kernels to try on a GPU beside torch's own choice, which is not the fastest on every card."""


class Calibration:
    """The measurements of one backbone on one device."""

    def __init__(
        self,
        embedder: Embedder,
        pixels: NDArray[np.uint8 | np.float32],
        memory: Memory,
        tell: Callable[[str], None] = logger.debug,
    ) -> None:
        """Measure ``embedder`` on patches (N, C, H, W); ``tell`` gets its first rate."""
        self._embedder = embedder
        self._pixels = pixels
        self._memory = memory
        self._tell = tell
        self._trial_s = 0.0
        self._exact = np.empty((0, 0), np.float32)

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
        worth_s = WORTH_S if default.device == "cpu" else WORTH_S_ON_GPU
        if num_in_all < MIN_PATCHES or expected_s < worth_s:
            return self._end(default, few)
        if math.isfinite(expected_s):
            self._tell(
                f"{self._embedder.name}: {first.patches_per_s:.3g} patches/s in one process; "
                f"looking for a faster mode, for {math.ceil(SHARE * expected_s)} s at most"
            )
        self._trial_s = min(TRIAL_S, TRIAL_SHARE * expected_s)
        best = self._sweep(first, asked, num_patches, is_network=is_network)
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
        """Return the first usable precision: cast weights on a GPU, autocast, then float32.

        If none is, the default batch does not fit into a GPU: smaller ones are tried.
        """
        on_gpu = default.device != "cpu"
        plans = [default]
        if default.precision == "bfloat16" and on_gpu and is_network:
            plans.insert(0, replace(default, is_cast=True))
        if default.precision == "bfloat16" and asked.precision is None:
            plans.append(replace(default, precision="float32"))
        sizes = [default.batch_size]
        if on_gpu and asked.batch_size is None:
            sizes += SMALLER_ON_GPU
        for size in sizes:
            for plan in plans:
                trial = self._try(replace(plan, batch_size=size))
                if not trial.problem:
                    return trial
            if trial.patches_per_s and asked.precision is not None:
                logger.warning("%s: %s, but was requested", self._embedder.name, trial.problem)
                return replace(trial, problem="")
        return trial

    def _sweep(self, first: Trial, asked: Asked, num_patches: int, *, is_network: bool) -> Trial:
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
        if on_gpu and is_network:
            for kernel in ATTENTIONS:
                look(replace(best.plan, attention=kernel))
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
        expected_s = COMPILE_S if plan.device == "cpu" else COMPILE_S_ON_GPU
        if known is None:
            if eager_s * (1 - 1 / EXPECTED_GAIN) < expected_s:
                return best, (
                    f"compiling (about {expected_s:.0f} s) does not pay for {num_patches:,} patches"
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
        try:
            is_exact = plan.precision == "float32" and not plan.is_compiled
            reference = None if is_exact else self._embed_in_float32(plan)
            trial = self._measure(plan.mode)
            if reference is not None:
                found = self._embedder.run_batch(self._pixels[: len(reference)])
                # Each of several embeddings: a long one would hide what happens to a short one.
                ends = np.cumsum(self._embedder.dims)[:-1]
                distance = max(
                    cosine_distance(one, exact)
                    for one, exact in zip(
                        np.split(found, ends, axis=1),
                        np.split(reference, ends, axis=1),
                        strict=True,
                    )
                )
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
        run = self._embedder.ready(batch)
        run()
        setup_s = time.perf_counter() - began
        times: list[float] = []
        while len(times) < 2 or sum(times) < self._trial_s:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        batch_s = min(times)
        setup_s = max(0.0, setup_s - batch_s) if plan.is_compiled else 0.0
        return Trial(plan=plan, patches_per_s=size / batch_s, setup_s=setup_s)

    def _embed_in_float32(self, plan: DevicePlan) -> NDArray[np.float32]:
        """Return the first embeddings, at most a batch of the plan, computed once for all modes."""
        few = self._pixels[: min(NUM_COMPARED, plan.batch_size)]
        if len(self._exact) < len(few):
            self._embedder.adopt(_float32(plan))
            self._exact = self._embedder.run_batch(few)
        return self._exact[: len(few)]


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
    return replace(plan, precision="float32", is_compiled=False, is_cast=False, attention="auto")


def _name(plan: DevicePlan) -> str:
    layout = "channels-last" if plan.channels_last else "channels-first"
    kind = "compiled" if plan.is_compiled else "not compiled"
    precision = f"{plan.precision} weights" if plan.is_cast else plan.precision
    kernel = "" if plan.attention == "auto" else f", {plan.attention} attention"
    return f"{precision}, {kind}, {layout}{kernel}, batches of {plan.batch_size}"
