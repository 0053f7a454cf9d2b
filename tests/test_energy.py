"""Joules of processors from files as RAPL's, and of GPUs through a stand-in for NVML."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark import energy
from benchmark.energy import GpuMeter, ProcessorMeter
from benchmark.peaks import peak_memory_bytes, reset_peak

RANGE_UJ = 262_143_328_850
TICKS = os.sysconf("SC_CLK_TCK")


def write(path: Path, text: str) -> None:
    """Write a file at once: no reader finds it empty."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


class Machine:
    """Two sockets whose counters and CPU times are files, as a kernel shows them."""

    def __init__(self, folder: Path) -> None:
        self.powercap, self.stat = folder / "powercap", folder / "stat"
        self.mine_s = 0.0
        names = {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "package-1", "2": "psys"}
        for number, name in names.items():
            zone = self.powercap / f"intel-rapl:{number}"
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self.tell(number, 1_000_000)
        self.work(0.0)

    def tell(self, zone: str, micro: int) -> None:
        write(self.powercap / f"intel-rapl:{zone}" / "energy_uj", f"{micro}\n")

    def work(self, busy_s: float, mine_s: float = 0.0) -> None:
        """Let the machine have worked so long, this process a part of it, and idled for hours."""
        # First: a reading in between finds that the machine has done nothing.
        self.mine_s = mine_s
        ticks = int(busy_s * TICKS)
        idle = 9000 * TICKS
        write(self.stat, f"cpu  {ticks} 0 0 {idle} 77 0 0 0 {ticks} 0\ncpu0 1 2 3\n")

    def meter(self) -> ProcessorMeter:
        return ProcessorMeter(self.powercap, self.stat, lambda: self.mine_s)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_and_memory_count_by_the_share_of_cpu_time(machine: Machine) -> None:
    meter = machine.meter()
    assert meter.read() == 0.0
    for zone, joules in (("0", 100), ("0:0", 90), ("0:1", 20), ("1", 80), ("2", 500)):
        machine.tell(zone, 1_000_000 + joules * 1_000_000)
    machine.work(10.0, mine_s=2.5)
    # 100 + 20 + 80 J of the whole machine, of which a quarter is this process's.
    assert meter.read() == pytest.approx(50.0)
    assert meter.read() == pytest.approx(50.0)


def test_processes_of_one_machine_never_share_a_joule(machine: Machine) -> None:
    one = machine.meter()
    other = ProcessorMeter(machine.powercap, machine.stat, lambda: 3 * machine.mine_s)
    machine.tell("0", 301_000_000)
    machine.work(20.0, mine_s=2.5)
    assert [one.read(), other.read()] == pytest.approx([37.5, 112.5])
    # CPU time comes in ticks: no process is charged more than the machine used.
    machine.tell("0", 401_000_000)
    machine.work(20.01, mine_s=2.6)
    assert one.read() == pytest.approx(37.5 + 100.0)


def test_a_counter_that_wraps_around_goes_on(machine: Machine) -> None:
    machine.tell("0", RANGE_UJ - 5_000_000)
    meter = machine.meter()
    machine.tell("0", 3_000_000)
    machine.work(1.0, mine_s=1.0)
    assert meter.read() == pytest.approx(8.0)
    machine.tell("0", 4_000_000)
    machine.work(2.0, mine_s=2.0)
    assert meter.read() == pytest.approx(9.0)


def test_a_counter_that_wraps_between_two_readings_is_read_meanwhile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "SAMPLE_S", 0.01)
    threads = set(threading.enumerate())
    meter = machine.meter()
    machine.tell("0", RANGE_UJ - 1)
    machine.work(1.0, mine_s=1.0)
    waited = threading.Event()
    for _ in range(500):
        if meter._last[0][machine.powercap / "intel-rapl:0/energy_uj"] == RANGE_UJ - 1:
            break
        waited.wait(0.01)
    machine.tell("0", RANGE_UJ - 2)
    machine.work(2.0, mine_s=2.0)
    assert meter.read() == pytest.approx((2 * RANGE_UJ - 1_000_002) / 1e6)
    del meter
    gc.collect()
    for _ in range(500):
        if not set(threading.enumerate()) - threads:
            break
        waited.wait(0.01)
    assert not set(threading.enumerate()) - threads


def test_without_a_counter_that_can_be_read_nothing_is_told(
    machine: Machine, tmp_path: Path
) -> None:
    assert math.isnan(ProcessorMeter(tmp_path / "none").read())
    (machine.powercap / "intel-rapl:1/energy_uj").unlink()
    assert math.isnan(machine.meter().read())
    machine.tell("1", 1)
    meter = machine.meter()
    (machine.powercap / "intel-rapl:1/energy_uj").write_text("")
    assert math.isnan(meter.read())
    machine.tell("1", 2)
    machine.work(1.0, mine_s=1.0)
    # What was used meanwhile is not known, so no later sum is.
    assert math.isnan(meter.read())
    told = energy.describe(math.nan, on_gpu=True)
    assert told == {"joules": None, "reason": "not told by this device"}
    assert energy.describe(0.5, on_gpu=False) == {"joules": 0.5, "told_by": "RAPL"}


class NvmlError(Exception):
    """As pynvml.NVMLError."""


def install(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NvmlError, **functions))
    energy._load_nvml.cache_clear()
    monkeypatch.setattr(energy, "_load_nvml", energy._load_nvml.__wrapped__)


def refuse(*given: Any) -> None:
    raise NvmlError(given)


def test_a_gpu_counts_by_the_share_that_is_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {"GPU-1": 2_000, "GPU-2": 0}
    install(
        monkeypatch,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetTotalEnergyConsumption=counters.__getitem__,
    )
    whole, half = GpuMeter("GPU-1"), GpuMeter("GPU-1", share=0.5)
    begun = whole.read(), half.read()
    counters["GPU-1"] += 7_000
    assert [whole.read() - begun[0], half.read() - begun[1]] == pytest.approx([7.0, 3.5])


@pytest.mark.parametrize("lacking", ["", "Init", "DeviceGetHandleByUUID"])
def test_a_gpu_that_tells_nothing_is_no_zero(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    functions: dict[str, Any] = {"nvmlInit": lambda: None, "nvmlDeviceGetHandleByUUID": str}
    install(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=refuse, **functions)
    if lacking:
        monkeypatch.setattr(sys.modules["pynvml"], f"nvml{lacking}", refuse)
    assert math.isnan(GpuMeter("GPU-1").read())
    # Without the library.
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert math.isnan(GpuMeter("GPU-1").read())


def test_a_peak_is_that_of_the_work_since_it_began_anew() -> None:
    held = bytearray(os.urandom(1)) * 200_000_000
    assert peak_memory_bytes() > len(held)
    before = peak_memory_bytes()
    del held
    reset_peak()
    assert peak_memory_bytes() < before - 100_000_000
