"""A store that version 0.1.0 wrote, before its modules moved, is read and not computed again.

``resources/store_of_0_1_0.zip`` has the photographs (synthetic: noise around one colour per
class), a tiny random ViT, the experiment and the store of `benchmark run old.toml`, which commit
8f0e65b wrote. Its report is left out, and made from the rest.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import benchmark as bm
from benchmark import api
from benchmark.frames import index_scores
from benchmark.stages.tune import TuneStage

ARCHIVE = Path(__file__).resolve().parents[1] / "resources/store_of_0_1_0.zip"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bm.Experiment:
    """Unpack the store; return its experiment, whose paths are relative to the folder."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return bm.load("old.toml")


CHANGED = "logistic_regression"
"""The only head whose version has been raised since: it is fitted otherwise."""


def test_every_artefact_of_the_old_store_is_complete(old: bm.Experiment) -> None:
    cells = bm.status(old)
    kept = [item for item in cells if item.cell.method != CHANGED]
    assert {item.cell.stage: item.status for item in kept} == {
        **dict.fromkeys(("patches", "embed", "tune", "finetune"), "complete"),
        # Intervals and tests have changed since: the scores are computed again, in a second.
        "evaluate": "stale",
        "report": "missing",
    }
    assert sum(item.status == "complete" for item in kept) == 1 + 2 + 4 + 1
    changed = [item.status for item in cells if item.cell.method == CHANGED]
    assert changed == ["stale", "stale"]


def test_a_run_on_the_old_store_writes_what_has_changed_and_nothing_else(
    old: bm.Experiment,
) -> None:
    def contents() -> dict[str, bytes]:
        stages = ("patches", "embed", "tune", "finetune")
        files = (file for stage in stages for file in Path("store", stage).rglob("*"))
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    before = contents()
    result = bm.run(old)
    after = contents()
    assert {path: after[path] for path in before} == before
    new = {Path(path).parts[2] for path in after.keys() - before.keys()}
    assert len(new) == 2
    assert all(CHANGED in name for name in new)
    assert not result.failed
    assert [usage.stage for usage in result.usages] == ["tune", "evaluate", "report"]
    assert result.report
    assert "tiny-vit" in Path(result.report).read_text(encoding="utf-8")


def test_scores_made_anew_from_the_old_predictions_are_the_old_scores(old: bm.Experiment) -> None:
    with api.open_context(old) as context:
        folder = context.scores().path
        shutil.rmtree(folder, ignore_errors=True)
        (path,) = Path("store/evaluate").glob("*/scores.parquet")
        before = index_scores(pq.read_table(path).to_pandas())
        assert not context.scores().is_complete
    api.run_stage("evaluate", old)
    after = bm.scores(old)
    # It is without its bias now.
    same = after.index.get_level_values("metric") != "expected_calibration_error"
    np.testing.assert_array_equal(after["value"][same], before["value"][same])
    assert after.index.equals(before.index)


def test_an_old_head_is_loaded_and_gives_its_predictions(old: bm.Experiment) -> None:
    with api.open_context(old) as context:
        backbone, head = context.backbones[0], context.heads[1]
        artefact = context.predictions(backbone, head, 0)
        embeddings = context.embeddings(backbone).read_table()
        predictions = artefact.read_table()
        assert len(TuneStage().cells(context)) == 6
    loaded = bm.load_head(artefact.path)
    known = dict(
        zip(embeddings["patch_id"].to_pylist(), embeddings["embedding"].to_pylist(), strict=True)
    )
    rows = np.array([known[name] for name in predictions["patch_id"].to_pylist()], np.float32)
    np.testing.assert_array_equal(loaded.predict(rows), predictions["y_pred"].to_numpy())


@pytest.mark.slow
def test_what_the_old_version_only_began_goes_on_with_its_plan(old: bm.Experiment) -> None:
    with api.open_context(old) as context:
        patches, embeddings = context.patches, context.embeddings(context.backbones[1])
        before = {item.folder: item.read_table() for item in (patches, embeddings)}
        plans = {item.folder: Path(item.file("plan.json")) for item in (patches, embeddings)}
        begun = {folder: path.read_bytes() for folder, path in plans.items()}
        for item in (patches, embeddings):
            item.delete("manifest.json")
            item.delete("part-000001.parquet")
        kept = {
            path: (path.read_bytes(), path.stat().st_mtime_ns)
            for item in (patches, embeddings)
            for path in Path(item.path).glob("part-*")
        }
        assert len(kept) == 2
    result = bm.run(old)
    assert not result.failed
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == kept
    for item in (patches, embeddings):
        assert Path(item.file("_plan.json")).read_bytes() == begun[item.folder]
        assert all(name.startswith(("_", "part-")) for name in item.files())
        found = item.read_table()
        assert found.replace_schema_metadata(None).equals(
            before[item.folder].replace_schema_metadata(None)
        )
        # Readers of Parquet now read its folder.
        assert len(pd.read_parquet(item.path)) == found.num_rows
    assert {item.status for item in bm.status(old)} == {"complete"}
