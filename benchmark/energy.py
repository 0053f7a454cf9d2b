"""The energy that a process uses, where its device tells it: NVML of a GPU, RAPL of processors.

A meter counts joules from any start: differences of two readings are what counts. NaN stands for
what no device tells, and stays NaN in every sum; a manifest then says so (``describe``).

NVML (``nvmlDeviceGetTotalEnergyConsumption``, if the package nvidia-ml-py is installed) counts a
whole GPU. RAPL (https://docs.kernel.org/power/powercap/powercap.html) counts whole sockets and
their memory, whoever uses them. So a process is charged the part that its CPU time has in the CPU
time of the whole machine meanwhile: no joule is counted twice, however many processes share it.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
STAT = Path("/proc/stat")
SAMPLE_S = 30.0
"""The smallest counters wrap after some minutes at full load; twice between two readings would not
be noticed."""
NOT_TOLD = "not told by this device"

_IDLE = (3, 4)
"""Fields of /proc/stat without work: idle, and waiting for disks."""
_NUM_FIELDS = 8
"""Further fields, of guests, are part of the first two."""


class Meter(Protocol):
    """Counts joules."""

    def read(self) -> float:
        """Return the joules so far; NaN: the device does not tell them."""
        ...


class ProcessorMeter:
    """Counts the joules of the processors that this process is charged."""

    def __init__(
        self,
        powercap: Path = POWERCAP,
        stat: Path = STAT,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """Find the counters of packages and of their memory.

        Args:
            powercap: folder of the counters.
            stat: file with the CPU time of the machine.
            cpu_s: returns the CPU time of this process (s).
        """
        self._stat, self._cpu_s = stat, cpu_s
        self._lock = threading.Lock()
        self._joules = 0.0
        self._ranges_uj: dict[Path, int] = {}
        try:
            for folder in sorted(powercap.glob("intel-rapl:*")):
                # The others, such as core and psys, count parts of packages or more than these.
                if (folder / "name").read_text().strip().startswith(("package-", "dram")):
                    most = int((folder / "max_energy_range_uj").read_text())
                    self._ranges_uj[folder / "energy_uj"] = most
            self._last = self._sample()
        except (OSError, ValueError):
            # Most systems let only root read the counters.
            self._ranges_uj = {}
        if self._ranges_uj:
            _keep_sampling(self)

    def read(self) -> float:
        """Return the joules so far; NaN: no counter, or none that this user may read."""
        if not self._ranges_uj:
            return math.nan
        with self._lock:
            try:
                now = self._sample()
            except (OSError, ValueError):
                self._joules = math.nan
                return math.nan
            energy, mine, busy = now
            last_energy, last_mine, last_busy = self._last
            if busy > last_busy:
                used_uj = 0
                for path, most in self._ranges_uj.items():
                    step = energy[path] - last_energy[path]
                    # A counter that has become smaller began again at zero.
                    used_uj += step if step >= 0 else step + most
                share = min(1.0, (mine - last_mine) / (busy - last_busy))
                self._joules += used_uj / 1e6 * share
                self._last = now
            return self._joules

    def _sample(self) -> tuple[dict[Path, int], float, float]:
        """Return the counters (µJ), and the CPU time of this process and of the machine (s)."""
        energy = {path: int(path.read_text()) for path in self._ranges_uj}
        fields = self._stat.read_text().partition("\n")[0].split()[1 : 1 + _NUM_FIELDS]
        ticks = sum(int(item) for number, item in enumerate(fields) if number not in _IDLE)
        return energy, self._cpu_s(), ticks / os.sysconf("SC_CLK_TCK")


def _keep_sampling(meter: ProcessorMeter) -> None:
    """Read a meter again and again as long as it is there."""
    there = weakref.ref(meter)

    def sample() -> None:
        while True:
            time.sleep(SAMPLE_S)
            found = there()
            if found is None:
                return
            found.read()
            del found

    threading.Thread(target=sample, name="energy", daemon=True).start()


class GpuMeter:
    """Counts the joules of a GPU, or the share of them that a process has booked."""

    def __init__(self, uuid: str, share: float = 1.0) -> None:
        """Find the GPU with an identity, as ``nvidia-smi -L`` shows it (``GPU-...``)."""
        self._share = share
        self._handle: Any = None
        nvml = _load_nvml()
        if nvml is not None:
            try:
                self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            except nvml.NVMLError:
                # E.g. a part of a GPU (MIG) has no counter of its own.
                self._handle = None

    def read(self) -> float:
        """Return the joules so far; NaN: no NVML, or no counter (before Volta)."""
        nvml = _load_nvml()
        if nvml is None or self._handle is None:
            return math.nan
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3 * self._share
        except nvml.NVMLError:
            return math.nan


@cache
def _load_nvml() -> Any:
    """Return the library NVML, ready for use; None: it is not here."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


@cache
def processor_meter() -> ProcessorMeter:
    """Return the meter of the processors, one for the whole process."""
    return ProcessorMeter()


def known(joules: float) -> float | None:
    """Return joules for JSON, which has no NaN; None: not told."""
    return None if math.isnan(joules) else joules


def describe(joules: float, *, on_gpu: bool) -> dict[str, Any]:
    """Return the entry ``energy`` of a manifest: joules and who told them, or null and why."""
    if known(joules) is None:
        return {"joules": None, "reason": NOT_TOLD}
    return {"joules": round(joules, 3), "told_by": "NVML" if on_gpu else "RAPL"}


def joules_of(manifest: Mapping[str, Any]) -> float:
    """Return the joules in a manifest; NaN: they are not known."""
    found = (manifest.get("energy") or {}).get("joules")
    return math.nan if found is None else float(found)
