"""Build an experiment in Python, whose data set may be arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.catalog.arrays.data import WHERE, Arrays
from benchmark.catalog.arrays.writing import FOLDER, write
from benchmark.catalog.names import check_names
from benchmark.config import DatasetConfig, Experiment
from benchmark.config import build as build_from
from benchmark.errors import UsageError


def build(settings: Mapping[str, Any]) -> Experiment:
    """Return an experiment of settings; write its arrays if their folder does not hold them yet.

    Raises:
        UsageError: a setting or a name is wrong, the arrays cannot be written, or the store is not
            a folder of this machine and the arrays have none.
    """
    content = _texts(settings)
    arrays = content.get("dataset", {})
    if not isinstance(arrays, (Arrays, Mapping, DatasetConfig)):
        raise UsageError(
            f"build: dataset is a {type(arrays).__name__}; give from_arrays(images, labels), or "
            "the settings of a data set as a dict"
        )
    if isinstance(arrays, Arrays):
        content = {"name": arrays.name, **content}
        content["dataset"] = {"name": "arrays", "root": FOLDER, **arrays.settings}
    experiment = build_from(content, where="build")
    check_names(experiment)
    if not isinstance(arrays, Arrays):
        return experiment
    if arrays.folder is None and "://" in experiment.store:
        raise UsageError(
            f"{WHERE}: the store '{experiment.store}' is not a folder of this machine; say where "
            "to write the arrays: from_arrays(..., folder='/a/folder/that/every/machine/reads')"
        )
    root = write(arrays, Path(arrays.folder or Path(experiment.store) / FOLDER))
    return build_from(
        {**content, "dataset": {**content["dataset"], "root": str(root)}}, where="build"
    )


def _texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with paths as texts, as a TOML file would give them."""
    return {
        key: _texts(value)
        if isinstance(value, Mapping)
        else str(value)
        if isinstance(value, Path)
        else value
        for key, value in settings.items()
    }
