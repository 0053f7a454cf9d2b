"""The versions that are recorded are those of whatever can change a result."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from benchmark.store.provenance import LIBRARIES, NEUTRAL, library_versions, peak_memory_bytes

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())


def test_every_dependency_is_recorded_or_changes_nothing() -> None:
    project = PROJECT["project"]
    extra = project["optional-dependencies"]["efficientnet"]
    wanted = {Requirement(item).name for item in (*project["dependencies"], *extra)}
    assert not set(LIBRARIES) & set(NEUTRAL)
    # torchvision comes with torchgeo.
    assert {*LIBRARIES, *NEUTRAL} == {*wanted, "torchvision", "backbone-benchmark"}


def test_python_and_what_is_installed_have_versions() -> None:
    found = library_versions()
    assert {"python", "torch", "peft", "pillow", "scikit-image", "torchvision"} <= found.keys()
    assert all(version[0].isdigit() for version in found.values())


def test_the_peak_of_memory_is_that_of_this_program_and_not_of_the_one_that_started_it() -> None:
    held = np.ones(500_000_000, np.uint8)
    code = "from benchmark.store.provenance import peak_memory_bytes; print(peak_memory_bytes())"
    command = [sys.executable, "-c", code]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0 < peak < held.nbytes < peak_memory_bytes()
