"""A whole run with a file of embeddings beside a packaged backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmark as bm
from benchmark.cli.commands import main
from benchmark.config import build
from benchmark.experiment.toml import to_toml


@pytest.mark.slow
def test_a_product_is_ranked_beside_a_backbone_that_is_not_computed_again(
    ray_session: None,
    experiment_content: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = {**experiment_content, "store": str(tmp_path / "runs")}
    first = bm.run(build(content))
    (patches,) = (tmp_path / "runs/patches").iterdir()
    table = pq.read_table(patches, columns=["patch_id", "label"])
    labels = table["label"].to_numpy()
    vectors = np.random.default_rng(0).normal(size=(len(labels), 32))
    vectors[np.arange(len(labels)), labels] += 8
    path = tmp_path / "mine.parquet"
    names = [f"{name}.tif" for name in table["patch_id"].to_pylist()]
    pq.write_table(pa.table({"file": names, "vector": list(vectors.astype(np.float16))}), path)

    content["backbones"] = ["mean_color", "mine"]
    content["backbone"] = {"mine": {"model": f"embeddings:{path}", "id_column": "file"}}
    again = bm.run(build(content))
    assert [item.reason for item in again.failed] == []
    assert len(again.cells) == len(first.cells) + 2
    assert {usage.num_cells for usage in again.usages if usage.stage == "embed"} == {1}
    scores = bm.scores(build(content)).reset_index()
    chosen = scores[(scores["split"] == "test") & (scores["metric"] == "balanced_accuracy")]
    found = chosen.set_index(["backbone", "method"])["value"]
    assert found["mine", "logistic_regression"] > 0.95
    page = Path(again.report or "").read_text()
    assert "rows of the product are found by the file name without extension" in page
    assert "Embeddings read from files, not computed here: mine." in page

    toml = tmp_path / "small.toml"
    toml.write_text(to_toml({key: value for key, value in content.items() if key != "path"}))
    with pytest.raises(bm.UsageError, match="read from files: no network"):
        bm.export(
            build(content), backbone="mine", method="logistic_regression", out=tmp_path / "out"
        )
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SystemExit) as caught:
        main(["run", str(toml), "--dry-run"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'mine.parquet' is damaged or cannot be read" in line
