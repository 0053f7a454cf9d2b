"""The smallest variant of an embedding that the paired test does not tell from the whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from benchmark.catalog.names import resolve_backbones
from benchmark.config import build
from benchmark.experiment.context import Context
from benchmark.stages.evaluate.comparison import Cost
from benchmark.stages.evaluate.sizes import describe_sizes
from benchmark.stages.report.naming import Naming
from benchmark.stages.report.results import Results
from benchmark.stages.report.sizes import size_pictures, size_tables
from benchmark.statistics.design import find_design
from tests.stages.test_comparison import toy_group

NUM = 200
TABLES: dict[str, Any] = {
    "both": {"concat": ["mean_color", "lbp_glcm"]},
    "pca": {},
    "p64": {"of": "both", "pca": 64},
    "p64_int8": {"of": "p64", "dtype": "int8"},
    "bits": {"of": "both", "dtype": "binary"},
    "mean_color": {},
    "lbp_glcm": {},
}
DIMS = {"both": 96, "p64": 64, "p64_int8": 64, "bits": 96, "mean_color": 8, "lbp_glcm": 88}
BYTES = {"both": 384, "p64": 256, "p64_int8": 64, "bits": 12}
RIGHT = {"both": 180, "p64": 181, "p64_int8": 178, "bits": 120, "mean_color": 100, "lbp_glcm": 150}


def describe(
    open_small: Callable[..., Context],
    content: dict[str, Any],
    folder: Path,
    right: dict[str, int],
    *,
    num: int = NUM,
    scenes: Any = None,
) -> list[dict[str, Any]]:
    """Describe backbones whose head knn is right on the first patches, and ridge never."""
    made = {name: table for name, table in TABLES.items() if table}
    experiment = build({**content, "backbones": list(TABLES), "backbone": made})
    context = open_small(store=folder, backbones=resolve_backbones(experiment))
    context.experiment = experiment
    for backbone in context.backbones:
        name = backbone.name
        if name in DIMS:
            derived = {"recipe": "r", "bytes_per_patch": BYTES.get(name)} if name in BYTES else {}
            manifest = {"dim": DIMS[name], **({"derived": derived} if derived else {})}
            context.embeddings(backbone).commit(manifest)
    groups, costs = [], {}
    for name, count in right.items():
        for head, share in (("knn", count), ("ridge", 0)):
            group = toy_group(name, head, [np.arange(num) < share], context.store)
            groups.append(group)
            # On val, knn is best.
            costs |= {cell: Cost(0.5 if head == "knn" else 0.1, 1.0, "cpu") for cell in group.cells}
    return describe_sizes(
        context,
        groups,
        design=find_design(np.zeros(num, int), scenes),
        costs=costs,
        floors=set(),
    )


NAMING = Naming({name: name for name in RIGHT}, (), pd.DataFrame())


def test_the_smallest_that_no_test_tells_from_the_whole_is_named(
    open_small: Callable[..., Context], experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    (found,) = describe(open_small, experiment_content, tmp_path, RIGHT)
    assert (found["full"], found["smallest"]) == ("both", "p64_int8")
    assert [(row["backbone"], row["bytes"], row["verdict"]) for row in found["rows"]] == [
        ("both", 384, "whole"),
        ("p64", 256, "no detectable difference"),
        ("p64_int8", 64, "no detectable difference"),
        ("bits", 12, "behind"),
    ]
    assert {row["method"] for row in found["rows"]} == {"knn"}
    assert found["sentence"].startswith(
        "The smallest variant of both that cannot be told from it is p64_int8: 64 bytes per patch "
        "in place of 384, at -1.0 points [-"
    )
    results = cast(
        Results,
        SimpleNamespace(evaluated={"sizes": [found]}, caption="", figures=None, naming=NAMING),
    )
    (table,) = size_tables(results)
    assert table.caption.startswith(found["sentence"])
    assert [row[4] for row in table.rows] == [384, 256, 64, 12]
    assert table.rows[3][8] == pytest.approx(-30.0)
    (figure,) = size_pictures(results)
    assert b"<svg" in figure.drawing.content


def test_without_one_that_is_as_good_the_sentence_says_so(
    open_small: Callable[..., Context], experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    right = {"both": 180, "bits": 100}
    (found,) = describe(open_small, experiment_content, tmp_path, right)
    assert found["smallest"] is None
    assert found["sentence"] == "Every smaller variant of both is detectably behind it."
    better = {"both": 100, "bits": 180}
    (found,) = describe(open_small, experiment_content, tmp_path / "b", better)
    assert found["sentence"].startswith(
        "The smallest variant of both that is not behind it is bits"
    )
    assert found["sentence"].endswith("detectably ahead.")


def test_a_few_scenes_cannot_tell(
    open_small: Callable[..., Context], experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    scenes = np.repeat(["a", "b", "c"], [70, 70, 60])
    (found,) = describe(open_small, experiment_content, tmp_path, RIGHT, scenes=scenes)
    assert found["smallest"] is None
    assert found["sentence"] == "There is too little data to tell the variants of both from it."


def test_nothing_is_said_where_the_whole_one_or_every_variant_has_no_score(
    open_small: Callable[..., Context], experiment_content: dict[str, Any], tmp_path: Path
) -> None:
    assert describe(open_small, experiment_content, tmp_path, {"both": 9, "lbp_glcm": 9}) == []
    assert describe(open_small, experiment_content, tmp_path / "b", {"p64": 9, "bits": 9}) == []
    results = cast(Results, SimpleNamespace(evaluated={}, caption="", figures=None, naming=NAMING))
    assert (size_tables(results), size_pictures(results)) == ((), [])
