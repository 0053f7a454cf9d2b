"""What every command costs before it works: python -m perf.startup [EXPERIMENT.toml]

`benchmark list`, `--help`, and a run with nothing to do (of an experiment that is complete).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(*arguments: str) -> str:
    found = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "benchmark", *arguments], check=True, capture_output=True
        )
        found.append(time.perf_counter() - began)
    return f"median {statistics.median(found):.2f} s (min {min(found):.2f}, max {max(found):.2f})"


def main() -> None:
    for catalog in ("datasets", "backbones", "heads", "metrics"):
        print(f"benchmark list {catalog}: {seconds('list', catalog)}", flush=True)
    print(f"benchmark --help: {seconds('--help')}", flush=True)
    for experiment in sys.argv[1:]:
        print(f"benchmark run {experiment}, complete: {seconds('run', experiment)}", flush=True)


if __name__ == "__main__":
    main()
