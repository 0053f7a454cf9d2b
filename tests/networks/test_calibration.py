"""Which mode is chosen, on a clock of our own: a device whose speeds are given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.catalog.backbones import BACKBONES
from benchmark.networks import calibration, trials
from benchmark.networks.calibration import (
    MAX_DISTANCE,
    Calibration,
    cosine_distance,
)
from benchmark.networks.devices import Asked, DevicePlan, plan_device
from benchmark.networks.embedder import Embedder
from benchmark.networks.trials import Memory, Trial, recall

PIXELS = np.zeros((64, 3, 8, 8), np.uint8)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Device:
    """Stands for an embedder: its batches take the seconds that ``cost`` says."""

    def __init__(self, plan: DevicePlan, clock: Clock, cost: Callable[[DevicePlan], float]) -> None:
        self.name = "toy"
        self.dims: tuple[int, ...] = ()
        self.plan = plan
        self.compile_s = 25.0
        self.error: Callable[[DevicePlan], str] = lambda plan: ""
        self.noise: Callable[[DevicePlan], float] = lambda plan: 0.0
        self.adopted: list[DevicePlan] = []
        self._clock, self._cost = clock, cost
        self._mode: DevicePlan | None = None
        self._is_cold = True

    def adopt(self, plan: DevicePlan) -> bool:
        self.plan = plan
        mode = replace(plan, reason="")
        if mode == self._mode:
            return False
        self._mode, self._is_cold = mode, True
        self.adopted.append(mode)
        return True

    def run_batch(self, pixels: np.ndarray) -> np.ndarray:
        if self.error(self.plan):
            raise RuntimeError(self.error(self.plan))
        if self._is_cold and self.plan.is_compiled:
            self._clock.now += self.compile_s
        self._is_cold = False
        self._clock.now += self._cost(self.plan)
        rng = np.random.default_rng(0)
        right = rng.normal(size=(len(pixels), 32))
        wrong = rng.normal(size=(len(pixels), 32))
        return (right + self.noise(self.plan) * wrong).astype(np.float32)

    def ready(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        return partial(self.run_batch, pixels)

    def warm_up(self, pixels: np.ndarray) -> None:
        self.run_batch(pixels[: self.plan.batch_size])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(calibration, "time", clock)
    return clock


def per_patch(plan: DevicePlan) -> float:
    """Seconds of a batch: 30 patches/s, 45 in batches of two, 80 compiled in fours."""
    if plan.is_compiled:
        return plan.batch_size / (80 if plan.batch_size == 4 else 50)
    return plan.batch_size / (45 if plan.batch_size == 2 else 30)


def plan_on_cpu(**settings: Any) -> DevicePlan:
    return plan_device(device="cpu", **settings)


def choose(
    device: Device, num_patches: int, memory: Memory | None = None, **asked: Any
) -> DevicePlan:
    measured = Calibration(device, PIXELS, memory or Memory(None))  # type: ignore[arg-type]
    return measured.plan(Asked(**asked), num_patches, num_in_all=2 * num_patches, is_network=True)


def test_little_work_is_done_in_the_default_mode_at_once(clock: Clock) -> None:
    device = Device(plan_on_cpu(), clock, per_patch)
    plan = choose(device, 200)
    assert replace(plan, reason="") == replace(plan_on_cpu(), reason="")
    assert "400 patches are too few for a calibration" in plan.reason
    assert clock.now < 1.0


def test_small_results_do_not_depend_on_how_busy_the_machine_is(clock: Clock) -> None:
    busy = Device(plan_on_cpu(), clock, lambda plan: 50 * per_patch(plan))
    assert choose(busy, 400).batch_size == plan_on_cpu().batch_size


def test_the_fastest_batch_is_found_within_its_share_of_the_time(clock: Clock) -> None:
    device = Device(plan_on_cpu(), clock, per_patch)
    plan = choose(device, 2_000)
    assert (plan.batch_size, plan.is_compiled) == (2, False)
    assert "45.0 patches/s" in plan.reason
    assert "does not pay for 2,000 patches" in plan.reason
    total_s = clock.now + 2_000 / 45
    assert total_s <= (2_000 / 45) / 0.9


def test_the_first_rate_is_told_before_the_search_for_a_faster_mode(clock: Clock) -> None:
    told: list[tuple[str, float]] = []
    device = Device(plan_on_cpu(), clock, per_patch)
    measured = Calibration(
        device,  # type: ignore[arg-type]
        PIXELS,
        Memory(None),
        lambda text: told.append((text, clock.now)),
    )
    measured.plan(Asked(), 20_000, num_in_all=20_000, is_network=False)
    ((text, told_at),) = told
    assert text == "toy: 30 patches/s in one process; looking for a faster mode, for 20 s at most"
    assert told_at < 1.0 < clock.now


def test_many_patches_pay_for_the_compiler(clock: Clock) -> None:
    device = Device(plan_on_cpu(), clock, per_patch)
    plan = choose(device, 50_000)
    assert (plan.batch_size, plan.is_compiled) == (4, True)
    assert "compiling (25 s) pays for 50,000 patches" in plan.reason
    assert sum(mode.is_compiled for mode in device.adopted) == 1, "compiled once, and kept"
    assert clock.now + 50_000 / 80 <= (25 + 50_000 / 80) / 0.9


def test_a_compiler_that_brings_nothing_is_not_used(clock: Clock) -> None:
    device = Device(plan_on_cpu(), clock, lambda plan: plan.batch_size / 30)
    plan = choose(device, 50_000)
    assert not plan.is_compiled
    assert "30.0 patches/s compiled, 30.0 not: compiling does not pay" in plan.reason


def test_what_was_measured_is_remembered(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    choose(Device(plan_on_cpu(), clock, per_patch), 50_000, Memory(path))
    began = clock.now
    again = Device(plan_on_cpu(), clock, per_patch)
    again.compile_s = 4.0
    plan = choose(again, 2_000, Memory(path))
    assert plan.is_compiled, "what the compiler kept costs 6 s at most, and saves 19"
    assert clock.now - began < 5.0, "no mode is measured again"
    known = Memory(path).find(plan)
    assert known is not None and known.setup_s == pytest.approx(4.05)


def test_a_damaged_memory_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    for text in ("{", '[{"plan": {"device": "cpu"}}]', "[1]"):
        path.write_text(text)
        assert Memory(path).to_json() == []


def test_what_the_user_asks_for_is_kept(clock: Clock) -> None:
    asked = {"batch_size": 8, "channels_last": False, "is_compiled": False}
    device = Device(plan_on_cpu(**asked), clock, per_patch)
    plan = choose(device, 100_000, **asked)
    assert (plan.batch_size, plan.channels_last, plan.is_compiled) == (8, False, False)
    compiled = Device(plan_on_cpu(is_compiled=True), clock, per_patch)
    assert choose(compiled, 10, is_compiled=True).is_compiled


def test_a_mode_that_changes_embeddings_is_refused_and_named(clock: Clock) -> None:
    device = Device(plan_on_cpu(), clock, per_patch)
    device.noise = lambda plan: 0.2 if plan.is_compiled else 0.0
    plan = choose(device, 50_000)
    assert not plan.is_compiled
    assert "from float32 in cosine distance, more than 1e-03" in plan.reason


@pytest.mark.parametrize(("dims", "is_compiled"), [((), True), ((28, 4), False)])
def test_of_embeddings_side_by_side_each_stays_what_it_is(
    clock: Clock, dims: tuple[int, ...], is_compiled: bool
) -> None:
    device = Device(plan_on_cpu(), clock, per_patch)
    device.dims = dims
    # The last columns are small: in the whole, what happens to them would not be seen.
    scale = np.array([100.0] * 28 + [1.0] * 4)
    whole = device.run_batch

    def run_batch(pixels: np.ndarray) -> np.ndarray:
        found = whole(pixels) * scale
        found[:, 28:] += 1.0 * device.plan.is_compiled
        return found.astype(np.float32)

    device.run_batch = run_batch  # type: ignore[method-assign]
    assert choose(device, 50_000).is_compiled == is_compiled


ON_GPU = DevicePlan(
    device="cuda", precision="bfloat16", channels_last=True, batch_size=128, num_threads=1
)


def gpu_cost(plan: DevicePlan) -> float:
    rate = 2000 if plan.precision == "bfloat16" else 700
    return plan.batch_size / (rate * (1.5 if plan.is_cast else 1.0))


def test_weights_are_cast_once_where_the_network_takes_it(clock: Clock) -> None:
    device = Device(ON_GPU, clock, gpu_cost)
    plan = choose(device, 100_000)
    assert (plan.precision, plan.is_cast) == ("bfloat16", True)
    device = Device(ON_GPU, clock, gpu_cost)
    device.error = lambda plan: "expected BFloat16, found Float" if plan.is_cast else ""
    plan = choose(device, 100_000)
    assert (plan.precision, plan.is_cast) == ("bfloat16", False)
    assert "bfloat16 weights, not compiled" in plan.reason
    assert "expected BFloat16, found Float" in plan.reason


def test_what_is_no_network_is_not_cast(clock: Clock) -> None:
    device = Device(ON_GPU, clock, gpu_cost)
    measured = Calibration(device, PIXELS, Memory(None))  # type: ignore[arg-type]
    plan = measured.plan(Asked(), 100_000, num_in_all=100_000, is_network=False)
    assert (plan.precision, plan.is_cast, plan.attention) == ("bfloat16", False, "auto")


@pytest.mark.parametrize("kernel", ["auto", "cudnn", "efficient"])
def test_the_fastest_attention_and_batches_of_512_are_found_on_a_gpu(
    clock: Clock, kernel: str
) -> None:
    def cost(plan: DevicePlan) -> float:
        gain = 1.0 + 0.03 * plan.batch_size / 256 + 0.1 * (plan.attention == kernel)
        return gpu_cost(plan) / gain

    plan = choose(Device(ON_GPU, clock, cost), 1_000_000, is_compiled=False)
    assert (plan.batch_size, plan.attention) == (512, kernel)


@pytest.mark.parametrize(("num_patches", "is_compiled"), [(150_000, False), (350_000, True)])
def test_compiling_pays_sooner_on_a_gpu(clock: Clock, num_patches: int, is_compiled: bool) -> None:
    device = Device(ON_GPU, clock, lambda plan: gpu_cost(plan) / (1.5 if plan.is_compiled else 1))
    device.compile_s = 12.0
    plan = choose(device, num_patches)
    assert plan.is_compiled == is_compiled
    if not is_compiled:
        assert "compiling (about 15 s) does not pay for 150,000 patches" in plan.reason


@pytest.mark.parametrize("num_patches", [100, 100_000])
def test_a_gpu_too_small_for_a_batch_takes_a_smaller_one_in_the_same_precision(
    clock: Clock, num_patches: int
) -> None:
    device = Device(ON_GPU, clock, gpu_cost)
    device.error = lambda plan: "CUDA out of memory" if plan.batch_size > 100 else ""
    plan = choose(device, num_patches)
    assert (plan.precision, plan.is_cast, plan.batch_size) == ("bfloat16", True, 64)
    assert "CUDA out of memory" in plan.reason


@pytest.mark.parametrize(("noise", "precision"), [(0.005, "bfloat16"), (0.2, "float32")])
def test_bfloat16_is_used_where_embeddings_stay_what_they_are(
    clock: Clock, noise: float, precision: str
) -> None:
    device = Device(ON_GPU, clock, gpu_cost)
    device.noise = lambda plan: noise if plan.precision == "bfloat16" else 0.0
    for num_patches in (100, 100_000):
        plan = choose(device, num_patches)
        assert plan.precision == precision
        assert ("bfloat16" in plan.reason) == (precision == "float32")
        device.adopt(ON_GPU)
    kept = choose(device, 100, precision="bfloat16")
    assert kept.precision == "bfloat16"


def test_a_batch_that_does_not_fit_gives_way_to_a_smaller_one(clock: Clock) -> None:
    device = Device(plan_on_cpu(), clock, per_patch)
    device.error = lambda plan: "out of memory" if plan.batch_size > 3 else ""
    plan = choose(device, 10_000)
    assert plan.batch_size <= 2
    assert "out of memory" in plan.reason


def test_cosine_distance() -> None:
    a = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], np.float32)
    assert cosine_distance(a, a) == pytest.approx(0.0, abs=1e-12)
    assert cosine_distance(a, 3 * a) == pytest.approx(0.0, abs=1e-12)
    assert cosine_distance(a[:1], np.array([[0.0, 2.0]], np.float32)) == pytest.approx(1.0)
    assert cosine_distance(a[:1], np.array([[np.nan, 2.0]], np.float32)) == np.inf


def test_each_device_backbone_and_size_has_its_own_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "cache_folder", lambda name: tmp_path)
    backbone, plan = BACKBONES.get("random"), plan_on_cpu()
    cases = [
        (backbone, plan, (3, 64, 64)),
        (backbone, plan, (3, 128, 128)),
        (backbone, plan_on_cpu(num_threads=2), (3, 64, 64)),
        (replace(backbone, image_size=96), plan, (3, 64, 64)),
    ]
    for number, case in enumerate(cases):
        with recall(*case) as (memory, waited_s):
            assert memory.to_json() == [] and waited_s < 5
            memory.add(Trial(plan=plan, patches_per_s=number + 1.0))
    for number, case in enumerate(cases):
        with recall(*case) as (memory, _):
            found = memory.find(plan)
            assert found is not None and found.patches_per_s == number + 1.0
    assert len(list(tmp_path.glob("random-*.json"))) == 4


def test_a_cache_that_cannot_be_written_costs_only_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> Path:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(trials, "cache_folder", refuse)
    with recall(BACKBONES.get("random"), plan_on_cpu(), (3, 8, 8)) as (memory, _):
        assert memory.to_json() == []


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the CPU")
def test_a_compiled_network_gives_the_same_embeddings() -> None:
    backbone = replace(BACKBONES.get("random"), image_size=32)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    embedder = Embedder(backbone, ("red", "green", "blue"), plan_on_cpu())
    plain, _ = embedder(pixels)
    embedder.adopt(replace(embedder.plan, is_compiled=True))
    embedder.warm_up(pixels)
    assert embedder.plan.is_compiled, embedder.plan.reason
    compiled, stats = embedder(pixels)
    assert compiled.shape == plain.shape, "the last batch is padded, and cut again"
    assert cosine_distance(plain, compiled) < MAX_DISTANCE
    assert stats.summary()["count"] == 7 * 3 * 32 * 32


def test_a_network_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        def run(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler on this machine")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    backbone = replace(BACKBONES.get("random"), image_size=32)
    embedder = Embedder(backbone, ("red", "green", "blue"), plan_on_cpu(is_compiled=True))
    embedder.warm_up(np.zeros((4, 3, 32, 32), np.uint8))
    assert not embedder.plan.is_compiled
    assert "not compiled here: RuntimeError: no compiler on this machine" in embedder.plan.reason
    assert json.dumps(embedder.plan.to_json())


def test_the_plan_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_on_cpu().precision == "float32"
    has_it = SimpleNamespace(is_available=lambda: True, is_bf16_supported=lambda **_: True)
    monkeypatch.setattr(torch, "cuda", has_it)
    assert (plan_device().device, plan_device().precision) == ("cuda", "bfloat16")
    assert plan_device(precision="float32").precision == "float32"
