"""Public data sets by name, from their files to scores, on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmark import api
from benchmark.config import build
from benchmark.tables import images_array
from tests.parquet_sets import pixels_of, write_set
from tests.torchgeo_layouts import write_eurosat


def experiment_on(name: str, root: Path, **settings: Any) -> Any:
    return build(
        {
            "name": "named",
            "backbones": ["mean_color"],
            "heads": ["majority"],
            "dataset": {"name": name, "root": str(root), "patch_size": 32, **settings},
            "embed": {"num_actors": 1},
            "evaluate": {"num_resamples": 20},
        }
    )


@pytest.mark.slow
def test_named_sets_run_and_change_their_artefacts_with_their_content(
    ray_session: None, tmp_path: Path
) -> None:
    store = str(tmp_path / "runs")
    write_eurosat(tmp_path / "eurosat", classes=("Forest", "River"))
    experiment = experiment_on("torchgeo:EuroSAT", tmp_path / "eurosat", bands=["nir", "red"])
    result = api.run(experiment, store=store)
    assert {cell.status for cell in result.cells} == {"complete"}
    scores = pq.read_table(str(result.scores)).to_pylist()
    assert {row["dataset"] for row in scores} == {"torchgeo:EuroSAT"}
    assert {row["num_patches"] for row in scores} == {4}

    write_set(tmp_path / "parquet")
    experiment = experiment_on("hf-datasets:org/name", tmp_path / "parquet")
    done, _ = api.run_stage("patches", experiment, store=store)
    assert {cell.status for cell in done.cells} == {"complete"}
    with api.open_context(experiment, store=store) as context:
        first = context.patches
        rows = first.read_table()
    images = images_array(rows["image"], (3, 32, 32))
    ids = rows["patch_id"].to_pylist()
    numbers = {"train-00000": 0, "train-00001": 6, "validation": 12, "test": 18}
    for name, image in zip(ids, images, strict=True):
        start = next(at for word, at in numbers.items() if f"data/{word}" in name)
        expected = pixels_of(start + int(name.rpartition(":")[2]))
        assert np.array_equal(image, expected.transpose(2, 0, 1)), name
    write_set(tmp_path / "parquet", per_split={"train": 12, "validation": 6, "test": 9})
    with api.open_context(experiment, store=store) as context:
        assert context.patches.fingerprint != first.fingerprint
