"""A folder of 30,000 images is read, and what travels with a task does not grow with the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark import api
from benchmark.cluster.streaming import Items
from benchmark.config import build

NUM_IMAGES = 30_000
NUM_CLASSES = 10
MAX_TASK_BYTES = 65_536
"""Above 1 MiB Ray would refuse a task's function; a part of 256 candidates takes most."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write hard links to 40 images of 8 px, four contents per class."""
    rng = np.random.default_rng(0)
    originals = []
    for number in range(4 * NUM_CLASSES):
        originals.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(originals[-1])
    for number in range(NUM_IMAGES):
        place = tmp_path / "images" / f"class-{number % NUM_CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % len(originals)], place / f"a-rather-long-name-{number:06d}.png")
    return tmp_path / "images"


@pytest.mark.slow
def test_a_folder_of_30_000_images_becomes_patches_and_embeddings(
    ray_session: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.cloudpickle

    sizes: dict[str, int] = {}
    tasks_of = Items.get_read_tasks

    def weigh(self: Items, *args: Any, **kwargs: Any) -> Any:
        tasks = tasks_of(self, *args, **kwargs)
        largest = max(len(ray.cloudpickle.dumps(task)) for task in (tasks[0], tasks[-1]))
        sizes[self.get_name()] = max(largest, sizes.get(self.get_name(), 0))
        return tasks

    monkeypatch.setattr(Items, "get_read_tasks", weigh)
    content = {
        "name": "large",
        "backbones": ["mean_color"],
        "heads": ["majority"],
        "dataset": {"name": "folder", "root": str(folder), "patch_size": 8},
        "embed": {"num_actors": 1},
    }
    experiment, store = build(content), str(tmp_path / "runs")
    for stage in ("patches", "embed"):
        result, _ = api.run_stage(stage, experiment, store=store)
        assert {cell.status for cell in result.cells} == {"complete"}, result.cells[0].reason
    assert max(sizes.values()) < MAX_TASK_BYTES, sizes
    assert sizes.keys() == {"find", "read", "patches"}
    with api.open_context(experiment, store=store) as context:
        embeddings = context.embeddings(context.backbones[0]).read_table()
        patches = context.patches.read_table(columns=["patch_id", "label"])
    assert embeddings.num_rows == patches.num_rows == NUM_IMAGES
    assert embeddings["patch_id"].equals(patches["patch_id"])
    # Label and pixels belong to the image of that name: its number says both.
    ids = patches["patch_id"].to_pylist()
    numbers = np.array([int(name[-10:-4]) for name in ids])
    assert (np.array(patches["label"]) == numbers % NUM_CLASSES).all()
    vectors = np.stack(embeddings["embedding"].to_numpy())
    for content_number in range(4 * NUM_CLASSES):
        same = vectors[numbers % (4 * NUM_CLASSES) == content_number]
        assert (same == same[0]).all()
    assert len(np.unique(vectors, axis=0)) == 4 * NUM_CLASSES
