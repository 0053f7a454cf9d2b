"""All measurements, one after another (about an hour on two cores): make perf"""

from __future__ import annotations

import subprocess
import sys

SCRIPTS = (
    "startup",
    "patches",
    "embed",
    "pca",
    "tune",
    "finetune",
    "evaluate",
    "report",
    "memory",
    "fixed_costs",
    "scaling",
    "overlap",
    "maps",
    "strips",
    "embed_scenes",
    "rasters",
    "remote",
    "peers --forward",
    "study --patches 300",
)


def main() -> None:
    for name in SCRIPTS:
        print(f"== perf.{name}", flush=True)
        subprocess.run([sys.executable, "-m", *f"perf.{name}".split()], check=True)


if __name__ == "__main__":
    main()
