"""A whole run with fractions and shots, of heads and of fine-tuning, on synthetic states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import benchmark as bm
from benchmark.config import build

PROTOCOL = {"label_fractions": [0.2, 1.0], "shots": [1]}


@pytest.mark.slow
def test_embeddings_serve_every_train_set_and_what_is_complete_is_not_computed_again(
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
        "protocol": PROTOCOL,
    }
    experiment = build(content)
    first = bm.run(experiment)
    assert [item.reason for item in first.failed] == []
    assert len(first.cells) == 3 * 3
    assert len(list((tmp_path / "runs/embed").iterdir())) == 1
    ids: dict[str, set[tuple[str, ...]]] = {}
    for item in first.cells:
        found = item.cell.artefact.read_table(columns=["patch_id"])["patch_id"].to_pylist()
        ids.setdefault(item.cell.train_set, set()).add(tuple(found))
    # Heads and fine-tuning predict the same patches: all of test, and the val of their train set.
    assert {name: len(rows) for name, rows in ids.items()} == {"all": 1, "20%": 1, "1 shot": 1}
    scores = bm.scores(experiment).reset_index()
    assert set(scores["train_set"]) == set(ids)
    page = Path(first.report or "").read_text()
    assert '<section id="labels"' in page and "trained on all" in page

    without = build({**content, "protocol": {}})
    again = bm.run(without)
    assert {usage.stage for usage in again.usages} <= {"evaluate", "report"}
    assert len(again.cells) == 3
    assert '<section id="labels"' not in Path(again.report or "").read_text()
