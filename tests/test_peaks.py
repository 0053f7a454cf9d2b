"""The largest memory of a process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from benchmark.peaks import peak_memory_bytes


def test_the_peak_of_memory_is_that_of_this_program_and_not_of_the_one_that_started_it() -> None:
    held = np.ones(500_000_000, np.uint8)
    code = "from benchmark.peaks import peak_memory_bytes; print(peak_memory_bytes())"
    command = [sys.executable, "-c", code]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 < peak < held.nbytes < peak_memory_bytes()
