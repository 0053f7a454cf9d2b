"""Published scores are drawn beside those of a run, with gaps where either is unknown."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmark.page.beside import plot_beside

NAN = float("nan")


def test_each_side_has_its_interval_and_a_missing_one_leaves_a_gap() -> None:
    rows = pd.DataFrame(
        {
            "name": ["both", "published $ alone"],
            **{"published": [0.8, 0.7], "published_low": [0.7, NAN], "published_high": [0.9, NAN]},
            **{"run": [0.6, NAN], "run_low": [0.5, NAN], "run_high": [0.65, NAN]},
        }
    )
    figure = plot_beside(rows, title="Beside")
    (axes,) = figure.axes
    lines = [item for item in axes.collections if hasattr(item, "get_segments")]
    drawn = [
        segment[:, 0].tolist() for item in lines for segment in item.get_segments() if len(segment)
    ]
    assert [0.7, 0.9] in drawn and [0.5, 0.65] in drawn
    points = [item.get_offsets()[0, 0] for item in axes.collections if item not in lines]
    assert points[:3] == pytest.approx([0.8, 0.6, 0.7])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "published, with interval",
        "this run, with interval",
    ]
    figure.canvas.draw()
