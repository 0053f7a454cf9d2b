"""Everything that a row can be in one table: computed, fine-tuned, downloaded, combined, shrunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmark as bm
from benchmark.config import build
from tests.product_rasters import run_and_place, write_alphaearth
from tests.product_zarrs import write_tessera_zarr
from tests.tiny_models import write_tiny


def write_tessera_store(root: Path, vectors: Any, *, lon: float, **place: Any) -> Path:
    """Write the vectors of a scene as a store of its own."""
    return write_tessera_zarr(root / f"{lon}.zarr", {2024: vectors}, **place)


@pytest.mark.slow
def test_one_experiment_ranks_networks_products_and_what_is_made_from_them(
    ray_session: None, experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    content = {**experiment_content, "store": str(tmp_path / "runs"), "heads": ["majority"]}
    content["tune"] = {"num_trials": 1}
    content["evaluate"] = {"num_resamples": 50}
    table, placed = run_and_place(content)
    placed.write(tmp_path / "aef", write_alphaearth)
    placed.write(tmp_path / "tessera", write_tessera_store, dim=128)
    vectors = np.random.default_rng(0).normal(size=(table.num_rows, 8)).astype(np.float32)
    vectors += 3 * np.eye(8, dtype=np.float32)[table["label"].to_numpy()]
    own = {"patch_id": table["patch_id"], "embedding": pa.array(list(vectors))}
    pq.write_table(pa.table(own), tmp_path / "own.parquet")
    write_tiny(tmp_path / "vit", "vit")

    products = {name: f"embeddings:{tmp_path / name}" for name in ("aef", "tessera", "own.parquet")}
    content["heads"] = ["logistic_regression"]
    content["backbones"] = ["net", *products, "both", "small"]
    content["backbone"] = {
        "net": {"model": f"hf:{tmp_path / 'vit'}"},
        **{name: {"model": model} for name, model in products.items()},
        "both": {"concat": ["net", "aef"]},
        "small": {"of": "both", "random_projection": 64, "dtype": "int8", "name": "64 codes"},
    }
    content["finetune"] = {"num_epochs": 1, "batch_size": 32}
    result = bm.run(build(content))
    assert [item.reason for item in result.failed] == []
    scores = bm.scores(build(content)).reset_index()
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == "balanced_accuracy")]
    found = chosen.set_index(["backbone", "method"]).sort_index()
    heads = {(name, "logistic_regression") for name in content["backbones"]}
    assert set(found.index) == heads | {("net", "finetune")}
    assert ((found["ci_low"] <= found["value"]) & (found["value"] <= found["ci_high"])).all()
    assert (found["ci_high"] > found["ci_low"]).all()
    for name in ("aef", "tessera", "both", "small"):
        assert found["value"][name, "logistic_regression"] > 0.9
    assert found["value"]["own.parquet", "logistic_regression"] > 0.7
    page = " ".join(Path(result.report or "").read_text().split())
    documents = (tmp_path / "runs/evaluate").glob("*/_manifest.json")
    ((family,),) = filter(None, (json.loads(item.read_text())["sizes"] for item in documents))
    num_bytes = {row["backbone"]: row["bytes"] for row in family["rows"]}
    # Codes of one byte, in place of float32 of the network and of the 64 bands.
    assert num_bytes["small"] == 64
    assert num_bytes["both"] == 4 * (32 + 64)
    assert "64 codes" in page
    assert "They have no weights, so none is fine-tuned." in page
