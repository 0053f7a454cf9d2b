"""A whole run with rasters in AlphaEarth's and TESSERA's layouts, one of which lacks patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmark as bm
from benchmark.config import build
from tests.product_rasters import run_and_place, write_alphaearth, write_tessera


@pytest.mark.slow
def test_rasters_are_ranked_on_the_patches_that_all_rows_have(
    ray_session: None, experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    content = {**experiment_content, "store": str(tmp_path / "runs"), "heads": ["majority"]}
    content["tune"] = {"num_trials": 1}
    content["evaluate"] = {"num_resamples": 20}
    table, placed = run_and_place(content)
    splits = np.array(table["split"].to_pylist())
    hidden = [int(np.flatnonzero(splits == split)[1]) for split in ("train", "val", "test", "test")]
    hidden[-1] += 1
    placed.write(tmp_path / "aef", write_alphaearth)
    placed.write(tmp_path / "tessera", write_tessera, dim=128, hidden=hidden)

    content["heads"] = ["logistic_regression"]
    content["backbones"] = ["mean_color", "alphaearth", "tessera"]
    content["backbone"] = {
        "alphaearth": {"model": f"embeddings:{tmp_path / 'aef'}"},
        "tessera": {"model": f"embeddings:{tmp_path / 'tessera'}", "missing": "drop"},
    }
    again = bm.run(build(content))
    assert [item.reason for item in again.failed] == []
    scores = bm.scores(build(content)).reset_index()
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == "balanced_accuracy")]
    found = chosen.set_index("backbone")
    assert found["value"]["alphaearth"] > 0.95
    assert found["value"]["tessera"] > 0.95
    assert (found["ci_low"] <= found["value"]).all()
    # All rows are scored on the patches that TESSERA has.
    num_test = int((splits == "test").sum())
    assert set(found["num_patches"]) == {num_test - 2}
    page = " ".join(Path(again.report or "").read_text().split())
    num_train = int((splits == "train").sum())
    assert f"tessera lacks 4 patches (1 of {num_train:,} of train, 1 of" in page
    assert f"scored without 2 of {num_test:,} patches of test and 1 of" in page
    assert "alphaearth: rasters of 2021; the labels are of 2013 or 2014." in page
    assert "sampled by place: 64 bands in AlphaEarth" in page

    # Without the product that lacks patches, all are scored again.
    content["backbones"] = ["mean_color", "alphaearth"]
    del content["backbone"]["tessera"]
    bm.run(build(content))
    assert set(bm.scores(build(content)).query("split == 'test'")["num_patches"]) == {num_test}
    content["backbones"] = ["mean_color", "tessera"]
    content["backbone"] = {
        "tessera": {"model": f"embeddings:{tmp_path / 'tessera'}", "missing": "drop"}
    }
    folds = {**content, "protocol": {"cross_validation": 3}}
    with pytest.raises(bm.UsageError, match=r"'tessera': missing = \"drop\" cannot be used with"):
        bm.run(build(folds))
