"""The available data sets: a new one needs an entry here and a module with its reader."""

from __future__ import annotations

from benchmark.catalog.arrays.source import open_arrays
from benchmark.catalog.chesapeake.preparing import prepare_chesapeake
from benchmark.catalog.chesapeake.scenes import open_split_scenes
from benchmark.catalog.folder.source import open_folder
from benchmark.catalog.synthetic.scenes import write_scenes
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
            name="arrays",
            description="your own arrays of pixels and labels, from Python (benchmark.from_arrays)",
            open=open_arrays,
            settings=frozenset({"val_fraction", "test_fraction"}),
            digested=frozenset({"val_regions", "test_regions"}),
        ),
    ],
)
