"""A whole run that fine-tunes a small network in two modes, on synthetic states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmark as bm
from benchmark.config import build
from tests.tiny_models import write_tiny


@pytest.mark.slow
def test_two_modes_run_to_the_page_and_a_mode_of_its_own_finds_its_cell_done(
    ray_session: None, experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    name = f"hf:{write_tiny(tmp_path / 'tiny', 'vit')}"
    table = {"num_epochs": 1, "batch_size": 32}
    content = {
        **experiment_content,
        "backbones": [name],
        "heads": ["knn", "majority"],
        "finetune": {**table, "modes": ["lora", "full"]},
        "tune": {"num_trials": 1},
        "evaluate": {"num_resamples": 20},
        "store": str(tmp_path / "runs"),
    }
    experiment = build(content)
    first = bm.run(experiment)
    assert [item.reason for item in first.failed] == []
    tuned = {
        item.cell.method: item.cell.artefact.manifest()
        for item in first.cells
        if item.cell.stage == "finetune"
    }
    assert {method: item["mode"] for method, item in tuned.items()} == {
        "finetune-lora": "lora",
        "finetune-full": "full",
    }
    assert 0 < tuned["finetune-lora"]["num_trained"] < tuned["finetune-full"]["num_trained"]
    page = Path(first.report or "").read_text()
    assert "frozen, or which fine-tuning" in page
    assert {"finetune-lora", "finetune-full"} <= set(bm.scores(experiment).index.unique("method"))

    single = build({**content, "finetune": {**table, "mode": "lora"}})
    again = bm.run(single)
    assert {usage.stage for usage in again.usages} <= {"evaluate", "report"}

    out = bm.export(experiment, backbone=name, method="finetune-lora", out=tmp_path / "out")
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert len(bm.predict(out, pixels)) == 2
