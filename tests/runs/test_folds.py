"""A whole cross-validation of heads and of fine-tuning, on synthetic states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import benchmark as bm
from benchmark.config import build


@pytest.mark.slow
def test_every_patch_is_predicted_once_by_methods_that_never_saw_its_fold(
    ray_session: None, experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    content = {
        **experiment_content,
        "backbones": ["random"],
        "backbone": {"random": {"image_size": 32}},
        "finetune": {"backbones": ["random"], "num_epochs": 1, "batch_size": 32},
        "tune": {"num_trials": 1},
        "evaluate": {"num_resamples": 20},
        "store": str(tmp_path / "runs"),
        "protocol": {"cross_validation": 2},
    }
    experiment = build(content)
    result = bm.run(experiment)
    assert [item.reason for item in result.failed] == []
    assert len(result.cells) == 3 * 2
    assert len(list((tmp_path / "runs/embed").iterdir())) == 1
    scores = bm.scores(experiment).reset_index()
    accuracy = scores[(scores["metric"] == "accuracy") & (scores["split"] == "test")]
    sizes = accuracy.groupby("train_set", sort=False)["num_patches"].unique().map(list)
    ((whole,), (first,), (second,)) = sizes
    assert list(sizes.index) == ["2 folds", "fold 1 of 2", "fold 2 of 2"]
    assert whole == first + second
    assert accuracy.groupby("method").size().to_dict() == {
        "finetune": 3, "logistic_regression": 3, "majority": 3,
    }  # fmt: skip
    page = Path(result.report or "").read_text()
    assert '<section id="folds"' in page and "trained on 2 folds" in page
    assert "replaces the splits of the data" in page
    # Two folds are another experiment than three: nothing but the embeddings is shared.
    content["protocol"] = {"cross_validation": 3}
    found = {(item.cell.stage, item.status == "complete") for item in bm.status(build(content))}
    assert found == {
        *(("patches", True), ("embed", True)),
        *((stage, False) for stage in ("tune", "finetune", "evaluate", "report")),
    }
    content["heads"] = ["majority"]
    del content["finetune"]
    again = bm.run(build(content))
    assert "embed" not in {usage.stage for usage in again.usages}
    assert [item.reason for item in again.failed] == []
