"""Memory that is freed again and again is not cleared again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from benchmark.networks.freed import keep_freed_memory

torch.set_num_threads(1)
{}
def use():
    tensors = [torch.zeros(2_000_000) for _ in range(8)]

for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how often Linux gave a page to 30 passes that hold 64 MB."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_later_passes_take_the_memory_of_the_first() -> None:
    # Where nothing is said, glibc learns a threshold, which is now enough and now too low.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
    counts = []
    for line in ("", "keep_freed_memory()"):
        command = [sys.executable, "-c", FAULTS.format(line)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        counts.append(int(done.stdout))
    assert counts[0] > 10_000 > 100 * counts[1], counts
