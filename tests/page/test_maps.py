from __future__ import annotations

import numpy as np

from benchmark.page import maps
from benchmark.page.maps import Map, plot_histogram, plot_maps
from benchmark.page.scores import to_png


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_map_draws_every_point_at_its_place_and_counts_the_groups() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-77, -76, 50), rng.uniform(38, 39, 50)
    figure = plot_maps([Map(lon, lat, np.arange(50) % 2)], ["water", "trees $x$", "barren"])
    (axes,) = figure.axes
    drawn = np.concatenate([item.get_offsets() for item in axes.collections])
    assert sorted(map(tuple, drawn)) == sorted(zip(lon, lat, strict=True))
    assert [text.split(" (")[1] for text in legend(figure)] == ["25)", "25)", "0)"]
    assert axes.get_aspect() == 1 / np.cos(np.radians(lat.mean()))
    assert to_png(figure).startswith(b"\x89PNG")


def test_scenes_are_side_by_side_and_one_point_or_too_many_are_drawn(monkeypatch) -> None:
    monkeypatch.setattr(maps, "MAX_POINTS", 10)
    one = Map(np.array([5.0]), np.array([50.0]), np.array([0]), "scene")
    many = Map(np.arange(40.0), np.arange(40.0), np.zeros(40, int))
    figure = plot_maps([one, many, one, one], ["a"])
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
    assert figure.axes[0].get_title() == "scene"
    assert sum(len(item.get_offsets()) for item in figure.axes[1].collections) == 10
    assert legend(figure) == ["a (43)"]
    assert to_png(figure).startswith(b"\x89PNG")


def test_a_histogram_stacks_its_groups() -> None:
    counts = {"train": np.array([3, 5]), "test": np.array([1, 0])}
    figure = plot_histogram([0.8, 0.9, 1.0], counts, label="purity")
    (axes,) = figure.axes
    bars = [(bar.get_y(), bar.get_height()) for bar in axes.patches]
    assert bars == [(0, 3), (0, 5), (3, 1), (5, 0)]
    assert legend(figure) == ["train", "test"]
