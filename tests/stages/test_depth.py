"""Scores by layer on the page, and the note on fine-tuning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmark.catalog.names import resolve_backbones
from benchmark.config import build
from benchmark.stages.report.depth import depth_pictures, depth_rows, variant_notes


@pytest.fixture(scope="module")
def results() -> Any:
    """Rows of a ranking of two layers with two poolings, one head and one fine-tuning."""
    content = {
        "name": "x",
        "backbones": ["random", "mean_color"],
        "backbone": {"random": {"layers": [-1, -2], "pooling": ["mean", "gem"]}},
        "dataset": {"name": "synthetic", "root": "data"},
    }
    backbones = resolve_backbones(build(content))
    rows = [
        (item.name, method, 0.5 + 0.1 * number, False)
        for number, item in enumerate(backbones)
        for method in ("knn", "finetune")
    ]
    ranking = pd.DataFrame(rows, columns=["backbone", "method", "value", "is_floor"])
    ranking = ranking.assign(ci_low=ranking["value"] - 0.05, ci_high=ranking["value"] + 0.05)
    context = SimpleNamespace(backbones=backbones, finetuned_backbones=(backbones[0],))
    return SimpleNamespace(
        context=context,
        backbones={item.name: item for item in backbones},
        naming=SimpleNamespace(short={item.name: item.name for item in backbones}),
        figures=None,
        ranking=ranking.sort_values("value", ascending=False),
        caption="Synthetic scenes",
    )


def test_rows_are_those_of_frozen_variants(results: Any) -> None:
    rows = depth_rows(results)
    assert set(rows["group"]) == {"random"}
    assert set(rows["method"]) == {"knn"}
    found = rows.set_index(["layer", "pooling"])["value"]
    assert found.to_dict() == pytest.approx(
        {(-1, "mean"): 0.5, (-1, "gem"): 0.6, (-2, "mean"): 0.7, (-2, "gem"): 0.8}
    )


def test_a_network_with_several_layers_has_a_figure(results: Any) -> None:
    (picture,) = depth_pictures(results)
    assert picture.title == "Balanced accuracy by layer of random"
    assert b"<svg" in picture.drawing.content
    one = SimpleNamespace(
        **{**vars(results), "ranking": results.ranking[results.ranking["value"] < 0.65]}
    )
    assert depth_pictures(one) == []


def test_the_page_says_which_variant_is_fine_tuned(results: Any) -> None:
    (note,) = variant_notes(results)
    assert "fine-tuned once" in note and "random@layer=-1,pooling=mean" in note
    plain = SimpleNamespace(backbones=results.context.backbones, finetuned_backbones=())
    assert variant_notes(SimpleNamespace(context=plain, naming=results.naming)) == []
