"""Every figure renders to a PNG without a warning, small or large, with hostile names."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmark import heatmaps, pictures, plots

pytestmark = pytest.mark.filterwarnings("error")

NAN = float("nan")
BACKBONES = ("efficientnet_lite0", "random", "a/very/long/hub/name-of-a-backbone-22k-224-large")
METHODS = ("logistic_regression", "mlp", "knn", "majority", "finetune", "svm")


def class_names(num_classes: int) -> list[str]:
    if num_classes == 2:
        return ["water", "land"]
    # A dollar would start math, an underscore hides from legends, the font lacks the third.
    hostile = ["$x^2$ costs $5", "_hidden", "作物", "line\nbreak", "<b>&amp;</b>"]
    return hostile + [f"a very long name of land cover class {n}" for n in range(num_classes - 5)]


def cells(num_cells: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    value = np.sort(rng.uniform(0.2, 0.9, num_cells))[::-1]
    low = value - 0.04
    low[0] = NAN
    return pd.DataFrame(
        {
            "backbone": [BACKBONES[n % 3] + str(n // 18) for n in range(num_cells)],
            "method": [METHODS[n % 6] for n in range(num_cells)],
            "value": value,
            "ci_low": low,
            "ci_high": value + 0.05,
            "is_floor": [n % 3 == 1 for n in range(num_cells)],
            "seed_values": [(v - 0.01, v + 0.01) for v in value],
            "seconds": [NAN if n == 1 else 10 ** rng.uniform(-1, 4) for n in range(num_cells)],
        }
    )


def recall_rows(num_classes: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "method": f"{backbone} · mlp",
                "label": name,
                "value": NAN if which == 1 else 0.8,
                "ci_low": NAN,
                "ci_high": NAN if which else 0.9,
                "num_patches": 0 if which == 1 else 12_345,
            }
            for backbone in BACKBONES
            for which, name in enumerate(class_names(num_classes))
        ]
    )


def confusion(num_classes: int) -> np.ndarray:
    counts = np.arange(num_classes**2).reshape(num_classes, num_classes) * 100
    counts[1] = 0
    return counts


def class_counts(num_classes: int) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([["train", "val", "test"], ["delaware", "new york"]])
    counts = np.arange(6 * num_classes).reshape(6, num_classes) ** 3
    return pd.DataFrame(counts, index=index, columns=class_names(num_classes))


def projection(num_classes: int) -> Figure:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 200)
    points, explained = pictures.project(rng.normal(size=(200, 8)))
    splits = rng.choice(["train", "val", "test"], 200)
    names = class_names(num_classes)
    return pictures.plot_projection(points, labels, splits, names, explained=explained)


FIGURES: dict[str, Callable[[int], Figure]] = {
    "ranking": lambda k: plots.plot_ranking(cells(30 if k > 2 else 2), chance=1 / k, title="T"),
    "recalls": lambda k: plots.plot_recalls(recall_rows(k), caption="synthetic scenes"),
    "confusion": lambda k: heatmaps.plot_confusion(confusion(k), class_names(k), title="a $ b"),
    "class counts": lambda k: heatmaps.plot_class_counts(class_counts(k)),
    "no patches": lambda k: heatmaps.plot_class_counts(class_counts(k) * 0),
    "cost": lambda k: plots.plot_cost(cells(60 if k > 2 else 2), caption="synthetic scenes"),
    "timings": lambda k: plots.plot_timings(class_names(k), np.r_[NAN, np.full(k - 1, 1234.5)]),
    "examples": lambda k: pictures.plot_examples(
        [np.full((n % 4, 16, 16, 3), 99, np.uint8) for n in range(k)], class_names(k)
    ),
    "embeddings": lambda k: pictures.plot_embeddings(
        [np.full((n % 4, 1280), float(n)) for n in range(k)], class_names(k), caption="x " * 200
    ),
    "projection": projection,
}


@pytest.mark.parametrize("num_classes", [2, 20])
@pytest.mark.parametrize("build", FIGURES.values(), ids=FIGURES)
def test_figure_renders(build: Callable[[int], Figure], num_classes: int) -> None:
    png = plots.to_png(build(num_classes), dpi=100)
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.width == 900
    assert np.asarray(picture.convert("L")).std() > 3


@pytest.mark.parametrize("build", FIGURES.values(), ids=FIGURES)
def test_row_labels_do_not_overlap(build: Callable[[int], Figure]) -> None:
    figure = build(20)
    figure.draw_without_rendering()
    boxes = [
        text.get_window_extent()
        for text in figure.axes[0].get_yticklabels()
        if text.get_text() and text.get_visible()
    ]
    ordered = sorted((box.y0, box.y1) for box in boxes)
    assert all(above[0] >= below[1] - 1 for below, above in pairwise(ordered))
    inside = [box for box in boxes if box.x0 < -1]
    assert not inside, "labels leave the figure"


def test_one_seed_and_no_interval() -> None:
    rows = cells(2).drop(columns="seed_values").assign(ci_low=None, ci_high=None)
    assert plots.to_png(plots.plot_ranking(rows))


def test_absent_class_is_named() -> None:
    figure = heatmaps.plot_confusion(confusion(5), list("abcde"))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][1] == "b (absent)"
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert {"0", "2,400"} <= shown


def test_floors_are_labelled() -> None:
    figure = plots.plot_ranking(cells(3))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ["(floor)" in label for label in labels] == [False, True, False]


def test_plain_keeps_both_ends_of_a_long_name() -> None:
    assert plots.plain("microsoft/beit-base-patch16-224-pt22k", 20) == "microsoft/bei…-pt22k"
    assert plots.plain("a$b") == r"a\$b"
    assert plots.plain("a\n b") == "a b"


def test_seventy_marks_differ() -> None:
    found = {tuple(plots.marks(index).values()) for index in range(70)}
    assert len(found) == 70


def test_projection_recovers_two_directions() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(100, 2)) * [5.0, 2.0]
    axes, _ = np.linalg.qr(rng.normal(size=(16, 2)))
    found = pictures.project(truth @ axes.T)
    assert found.explained.sum() == pytest.approx(1.0)
    centred = truth - truth.mean(axis=0)
    np.testing.assert_allclose(
        np.linalg.norm(found.points, axis=1), np.linalg.norm(centred, axis=1), atol=1e-9
    )
    one_column = pictures.project(np.arange(4.0)[:, None])
    assert one_column.points[:, 1].tolist() == [0.0] * 4
    # A constant embedding has no direction, and is not an error of the figure.
    assert pictures.project(np.ones((4, 3))).explained.tolist() == [0.0, 0.0]


def test_projection_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ValueError, match="not finite"):
        pictures.project([[1.0, NAN], [0.0, 0.0]])
    with pytest.raises(ValueError, match="at least two rows"):
        pictures.project(np.ones((3, 2)), is_train=[True, False, False])


def test_pictures_of_different_sizes_are_refused() -> None:
    rows = [np.zeros((1, size, size, 3), np.uint8) for size in (8, 9)]
    with pytest.raises(ValueError, match="different sizes"):
        pictures.plot_examples(rows, ["a", "b"])
