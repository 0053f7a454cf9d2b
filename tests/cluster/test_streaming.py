"""A pipeline of Ray Data without progress ends with an error."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from benchmark.cluster.streaming import Items, read_items, status_rows
from benchmark.errors import CellError


def read(item: Any) -> pa.Table:
    return pa.table({"item": [item]})


def test_every_item_is_one_row(ray_session):
    rows = status_rows(read_items(Items("all", [1, 2, 3], read), num_items=3))
    assert sorted(row["item"] for row in rows) == [1, 2, 3]


def test_a_pipeline_for_which_no_cpu_is_free_ends_in_one_line(ray_session, monkeypatch):
    monkeypatch.setenv("BENCHMARK_PROGRESS_TIMEOUT_S", "2")
    stuck = read_items(Items("stuck", [1], read), num_items=1, num_cpus=1000)
    with pytest.raises(CellError, match="no progress for 2 s: no machine has a free CPU"):
        list(status_rows(stuck))
