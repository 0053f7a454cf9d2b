"""The versions that are recorded are those of whatever can change a result."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from benchmark.store.provenance import LIBRARIES, NEUTRAL, library_versions

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
