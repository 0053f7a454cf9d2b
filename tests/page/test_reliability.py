from __future__ import annotations

import pandas as pd

from benchmark.page.reliability import plot_reliability
from benchmark.page.scores import to_png


def test_each_method_has_a_panel_with_its_bins_and_the_diagonal() -> None:
    rows = pd.DataFrame(
        {
            "method": ["a / mlp"] * 2 + ["b / knn $x$"],
            "confidence": [0.95, 0.55, 0.7],
            "accuracy": [0.9, 0.5, 1.0],
            "ci_low": [0.8, 0.2, 0.4],
            "ci_high": [0.95, 0.8, 1.0],
            "num_patches": [90, 10, 3],
        }
    )
    figure = plot_reliability(rows, title="Reliability")
    first, second = figure.axes
    assert first.get_title() == "a\nmlp"
    (diagonal,) = first.get_lines()
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    points = first.collections[1].get_offsets().tolist()
    assert points == [[0.55, 0.5], [0.95, 0.9]]
    sizes = first.collections[1].get_sizes()
    assert sizes[1] > sizes[0]
    assert len(second.collections[0].get_segments()) == 1
    assert to_png(figure).startswith(b"\x89PNG")
