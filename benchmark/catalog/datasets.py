"""The available data sets: a new one needs an entry here and a module with its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark.catalog.arrays.source import open_arrays
from benchmark.catalog.chesapeake.preparing import prepare_chesapeake
from benchmark.catalog.chesapeake.scenes import open_split_scenes
from benchmark.catalog.folder.source import open_folder
from benchmark.catalog.own.lookup import find_entry
from benchmark.catalog.parquet.named import PREFIX as PARQUET_PREFIX
from benchmark.catalog.parquet.named import resolve_parquet
from benchmark.catalog.rasters.opening import open_rasters
from benchmark.catalog.synthetic.scenes import write_scenes
from benchmark.catalog.torchgeo.named import resolve_set
from benchmark.catalog.torchgeo.sets import FORMS
from benchmark.catalog.torchgeo.sets import PREFIX as TORCHGEO_PREFIX
from benchmark.errors import UsageError
from benchmark.registry import Registry
from benchmark.specs import Dataset

SCENE_SETTINGS = frozenset({"purity", "val_regions", "test_regions"})

DATASETS: Registry[Dataset] = Registry(
    "dataset",
    [
        Dataset(
            name="chesapeake",
            description="Chesapeake land cover over NAIP, 5 classes, split by state",
            open=open_split_scenes,
            prepare=prepare_chesapeake,
            prepare_options=frozenset({"regions", "scenes", "source"}),
            settings=SCENE_SETTINGS,
            reads_remote=True,
            unit="windows",
            license="CDLA-Permissive-1.0",
            label_years="2013 or 2014",
        ),
        Dataset(
            name="synthetic",
            description="synthetic scenes in the layout of chesapeake, for trials and tests",
            open=open_split_scenes,
            prepare=write_scenes,
            prepare_options=frozenset({"scenes", "size", "seed"}),
            settings=SCENE_SETTINGS,
            reads_remote=True,
            unit="windows",
            license="Apache-2.0",
        ),
        Dataset(
            name="folder",
            description="your own labelled images, one sub-folder per class, or a table of labels",
            open=open_folder,
            settings=frozenset({"val_fraction", "test_fraction", "bands", "value_range"}),
            digested=frozenset({"labels", "class_level"}),
            beside_labels=frozenset({"val_regions", "test_regions"}),
        ),
        Dataset(
            name="rasters",
            description="your own scenes with label rasters or polygons (docs/RASTERS.md)",
            open=open_rasters,
            settings=frozenset({"purity", "val_fraction", "test_fraction", "bands", "value_range"}),
            digested=frozenset({"rasters", "val_regions", "test_regions"}),
            reads_remote=True,
            unit="windows",
        ),
        Dataset(
            name="arrays",
            description="your own arrays of pixels and labels, from Python (benchmark.from_arrays)",
            open=open_arrays,
            settings=frozenset({"val_fraction", "test_fraction"}),
            digested=frozenset({"val_regions", "test_regions"}),
        ),
    ],
)

SOURCES: Mapping[str, str] = {
    "torchgeo:NAME": f"public data sets of torchgeo: {', '.join(FORMS)}",
    "hf-datasets:ORG/NAME": "labelled images in Parquet files of the Hugging Face hub",
}
"""Names of public data sets that are not entries: their form, and their meaning."""

_RESOLVERS: Mapping[str, Callable[..., Dataset]] = {
    TORCHGEO_PREFIX: resolve_set,
    PARQUET_PREFIX: resolve_parquet,
}


def is_public(name: str) -> bool:
    """Return whether a name is one of the ``SOURCES``."""
    return name.startswith(tuple(_RESOLVERS))


def find_dataset(
    name: str,
    *,
    where: str = "",
    folders: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Dataset:
    """Return a data set by name: an entry, one of the ``SOURCES``, or own code.

    Args:
        name: what the user wrote.
        where: start of each message.
        folders: searched for own code after installed packages; None: the current folder.
        settings: keyword arguments of own code.

    Raises:
        UsageError: the name is unknown, or the code or a setting is wrong.
    """
    for prefix, resolve in _RESOLVERS.items():
        if name.startswith(prefix):
            if settings:
                what = f"{where}: dataset '{name}'".lstrip(": ")
                raise UsageError(f"{what} takes no settings; they are for own code")
            return resolve(name, where=where)
    return find_entry(DATASETS, name, where=where, folders=folders, settings=settings)
