from __future__ import annotations

import pandas as pd

from benchmark.page.scores import to_png
from benchmark.page.sizes import plot_sizes


def test_each_variant_has_a_marker_at_its_bytes_hollow_where_it_is_behind() -> None:
    rows = pd.DataFrame(
        {
            "full": ["net"] * 3 + ["$other$"] * 2,
            "backbone": ["net", "small", "bits", "$other$", "cut"],
            "bytes": [4096, 64, 128, 512, 32],
            "value": [0.9, 0.89, 0.5, 0.7, 0.7],
            "ci_low": [0.8, 0.8, 0.4, 0.6, 0.6],
            "ci_high": [0.95, 0.95, 0.6, 0.8, 0.8],
            "verdict": ["whole", "no detectable difference", "behind", "whole", "ahead"],
        }
    )
    figure = plot_sizes(rows, title="Sizes")
    (axes,) = figure.axes
    markers = axes.collections[1::2]
    assert [item.get_offsets().tolist() for item in markers] == [
        [[float(row.bytes), row.value]] for row in rows.itertuples()
    ]
    is_hollow = [item.get_facecolor().tolist() == [[1.0, 1.0, 1.0, 1.0]] for item in markers]
    assert is_hollow == [False, False, True, False, False]
    assert [text.get_text() for text in axes.texts] == ["small", "bits", "cut"]
    assert axes.get_xscale() == "log"
    assert to_png(figure).startswith(b"\x89PNG")
