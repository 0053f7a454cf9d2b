"""Runs are found in stores; those of other versions are read as far as they go, or named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import benchmark as bm
from benchmark.comparing.runs import is_scores_folder
from benchmark.errors import CellError
from tests.runs.test_old_store import ARCHIVE


def test_scores_of_version_0_1_are_queried_and_otherwise_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    store = tmp_path / "store"
    advice = r"was written by another version: it lacks the column '\w+'; run `benchmark evaluate`"
    with pytest.raises(CellError, match=advice):
        bm.compare(store, store)
    with pytest.raises(CellError, match=advice):
        bm.leaderboard(store)
    pytest.importorskip("duckdb")
    found = bm.query("SELECT count(*) AS num FROM scores WHERE metric = 'balanced_accuracy'", store)
    assert found["num"].iloc[0] == 2 * 7
    with pytest.raises(CellError, match=advice):
        bm.query("SELECT * FROM predictions", store)


def test_folders_of_scores_are_told_from_stores() -> None:
    assert is_scores_folder("runs/evaluate/a-b-0123456789abcdef/")
    assert is_scores_folder("s3://bucket/x/evaluate/a-0123456789abcdef")
    assert not is_scores_folder("runs/evaluate")
    assert not is_scores_folder("evaluate-0123456789abcdef")
