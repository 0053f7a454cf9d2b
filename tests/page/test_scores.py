"""Every figure renders to a PNG without a warning, small or large, with hostile names."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from benchmark.page import curves, heatmaps, pictures, scores
from benchmark.page.labels import plot_labels

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


def gains(num_rows: int) -> pd.DataFrame:
    gain = np.linspace(0.08, -0.05, num_rows)
    return pd.DataFrame(
        {
            "backbone": [f"{BACKBONES[n % 3]}{n}" for n in range(num_rows)],
            "head": [METHODS[n % 3] for n in range(num_rows)],
            "gain": gain,
            "gain_low": gain - 0.03,
            "gain_high": gain + 0.02,
            "is_detectable": (gain > 0.03) | (gain < -0.02),
        }
    )


def epochs(num_backbones: int, *, num_epochs: int = 5) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "backbone": class_names(max(num_backbones, 5))[n],
                "seed": seed,
                "trial": trial,
                "epoch": epoch,
                "val_score": 0.9 - 0.3 / epoch - 0.01 * n - 0.05 * (trial != 1),
                "train_loss": 1.5 / epoch + 0.01 * n + 0.1 * trial,
                "is_best": trial == 1,
                "is_chosen": trial == 1 and epoch == num_epochs,
            }
            for n in range(num_backbones)
            for seed in (0, 1)
            for trial in range(3)
            for epoch in range(1, num_epochs + 1)
        ]
    )


def transfer_rows(k: int) -> pd.DataFrame:
    """Scores of up to three methods; the last one lacks a train set."""
    rows = [
        {"name": f"net {name} with knn", "train_set": f"all but {one}", "region": other}
        | {"value": 0.5 + 0.1 * name, "is_framed": one == other}
        for name in range(min(k, 3))
        for one in class_names(k)
        for other in class_names(k)
    ]
    return pd.DataFrame(rows[: -len(class_names(k))])


def label_rows(num_methods: int) -> pd.DataFrame:
    few = cells(num_methods).assign(is_finetuned=lambda rows: rows["method"] == "finetune")
    return pd.concat(
        [few.assign(num_train=number, value=few["value"] - 1 / number) for number in (17, 160)]
    )


FIGURES: dict[str, Callable[[int], Figure]] = {
    "ranking": lambda k: scores.plot_ranking(cells(30 if k > 2 else 2), chance=1 / k, title="T"),
    "recalls": lambda k: scores.plot_recalls(recall_rows(k), caption="synthetic scenes"),
    "confusion": lambda k: heatmaps.plot_confusion(confusion(k), class_names(k), title="a $ b"),
    "class counts": lambda k: heatmaps.plot_class_counts(class_counts(k)),
    "no patches": lambda k: heatmaps.plot_class_counts(class_counts(k) * 0),
    "cost": lambda k: scores.plot_cost(cells(60 if k > 2 else 2), caption="synthetic scenes"),
    "gains": lambda k: curves.plot_gains(gains(k), title="a $ b"),
    "no gain": lambda k: curves.plot_gains(gains(k).assign(gain=0.0, gain_low=0.0, gain_high=0.0)),
    "curves": lambda k: curves.plot_curves(epochs(k), caption="synthetic scenes"),
    "one epoch": lambda k: curves.plot_curves(epochs(k, num_epochs=1)),
    "transfer": lambda k: heatmaps.plot_transfer(transfer_rows(k), title="a $ b", caption="c"),
    "labels": lambda k: plot_labels(label_rows(min(k, 11)), title="a $ b"),
    "examples": lambda k: pictures.plot_examples(
        [np.full((n % 4, 16, 16, 3), 99, np.uint8) for n in range(k)], class_names(k)
    ),
    "pairs": lambda k: pictures.plot_pairs(
        *[[np.full((n % 4, 16, 16, 3), grey, np.uint8) for n in range(k)] for grey in (60, 160)],
        class_names(k),
        names=("patch", "reconstruction"),
    ),
    "embeddings": lambda k: pictures.plot_embeddings(
        [np.full((n % 4, 1280), float(n)) for n in range(k)], class_names(k), caption="x " * 200
    ),
    "projection": projection,
}


@pytest.mark.parametrize("num_classes", [2, 20])
@pytest.mark.parametrize("build", FIGURES.values(), ids=FIGURES)
def test_figure_renders(build: Callable[[int], Figure], num_classes: int) -> None:
    png = scores.to_png(build(num_classes), dpi=100)
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
    assert scores.to_png(scores.plot_ranking(rows))


def test_absent_class_is_named() -> None:
    figure = heatmaps.plot_confusion(confusion(5), list("abcde"))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][1] == "b (absent)"
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert {"0", "2,400"} <= shown


def test_floors_are_labelled() -> None:
    figure = scores.plot_ranking(cells(3))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ["(floor)" in label for label in labels] == [False, True, False]


def test_plain_keeps_both_ends_of_a_long_name() -> None:
    assert scores.plain("microsoft/beit-base-patch16-224-pt22k", 20) == "microsoft/bei…-pt22k"
    assert scores.plain("a$b") == r"a\$b"
    assert scores.plain("a\n b") == "a b"
    # What turns all text after it is left out; letters from right to left turn only themselves.
    mark = "\N{LEFT-TO-RIGHT MARK}"
    hebrew = "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}"
    assert scores.plain(f"{hebrew} \N{RIGHT-TO-LEFT OVERRIDE}x") == f"{mark}{hebrew} x{mark}"


def test_seventy_marks_differ() -> None:
    found = {tuple(scores.marks(index).values()) for index in range(70)}
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


@pytest.mark.parametrize("shape", [(60, 8), (8, 60), (2, 5), (5, 2)])
def test_a_projection_is_that_of_the_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    found = pictures.project(matrix)
    centred = matrix - matrix.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    wanted = left[:, :2] * spread[:2]
    # Signs are arbitrary, and a second spread of zero has no direction.
    np.testing.assert_allclose(np.abs(found.points), np.abs(wanted), atol=1e-7)
    np.testing.assert_allclose(found.explained, spread[:2] ** 2 / (spread**2).sum(), atol=1e-12)


def test_projection_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ValueError, match="not finite"):
        pictures.project([[1.0, NAN], [0.0, 0.0]])
    with pytest.raises(ValueError, match="at least two rows to fit on, got 1"):
        pictures.project(np.ones((3, 2)), is_train=[True, False, False])


def test_pictures_of_different_sizes_are_refused() -> None:
    rows = [np.zeros((1, size, size, 3), np.uint8) for size in (8, 9)]
    with pytest.raises(ValueError, match="different sizes"):
        pictures.plot_examples(rows, ["a", "b"])


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    cells = {
        "cheapest": (1.0, 0.50),
        "as cheap, worse": (1.0, 0.40),
        "dearer, as good": (2.0, 0.50),
        "better": (5.0, 0.80),
        "its twin": (5.0, 0.80),
        "beaten in both": (9.0, 0.70),
        "best": (100.0, 0.81),
        "beyond": (200.0, 0.81),
    }
    seconds, values = np.array(list(cells.values())).T
    front = scores.pareto_front(seconds, values)
    found = {name for name, is_front in zip(cells, front, strict=True) if is_front}
    assert found == {"cheapest", "better", "its twin", "best"}
    assert scores.pareto_front([], []).tolist() == []


def test_the_pareto_front_is_filled_and_named() -> None:
    rows = cells(4).assign(value=[0.9, 0.8, 0.5, 0.6], seconds=[100.0, 10.0, 1.0, 20.0])
    figure = scores.plot_cost(rows)
    (line,) = figure.axes[0].lines
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xydata().tolist() == [[1.0, 0.5], [10.0, 0.8], [100.0, 0.9]]
    white = (1.0, 1.0, 1.0, 1.0)
    points = figure.axes[0].findobj(PathCollection)
    filled = {
        tuple(item.get_offsets()[0]): tuple(item.get_facecolor()[0]) != white for item in points
    }
    assert filled == {(1.0, 0.5): True, (10.0, 0.8): True, (20.0, 0.6): False, (100.0, 0.9): True}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("Pareto front")


def test_gains_show_zero_and_their_verdict() -> None:
    axes = curves.plot_gains(gains(3).assign(gain_low=0.01, gain_high=0.09)).axes[0]
    low, high = axes.get_xlim()
    assert low < 0 < high
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[0] == "efficientnet_lite00  ·  logistic_regression"


def test_one_curve_per_seed_and_a_ring_on_the_epoch_that_was_kept() -> None:
    figure = curves.plot_curves(epochs(2))
    for axes in figure.axes:
        colors = [line.get_color() for line in axes.lines]
        assert [colors.count(scores.PALETTE[n]) for n in (0, 1)] == [2, 2]
        assert len(colors) == 12
        rings = [item for item in axes.collections if item.get_sizes().tolist() == [80]]
        assert [item.get_offsets()[0][0] for item in rings] == [5.0] * 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["epoch kept", "other trials"]


def test_curves_over_labels_have_a_logarithmic_axis_with_the_numbers_tried() -> None:
    axes = plot_labels(label_rows(2)).axes[0]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["17", "160"]
    first, second = axes.get_lines()
    # Each point is on its own interval, the methods beside one another at each number.
    assert first.get_xdata() == pytest.approx([17 * 0.994, 160 * 0.994])
    assert second.get_xdata() == pytest.approx([17 * 1.006, 160 * 1.006])
    segments = [lines.get_segments() for lines in axes.collections]
    assert sum(map(len, segments)) == 4
    for line, own in zip((first, second), segments, strict=True):
        drawn = [segment[0][0] for segment in own if len(segment)]
        assert drawn == pytest.approx(line.get_xdata()[: len(drawn)])
    # Where numbers are near each other, none reaches the next.
    near = plot_labels(label_rows(2).replace({"num_train": {17: 159}})).axes[0].get_lines()
    assert max(line.get_xdata()[0] for line in near) < min(line.get_xdata()[1] for line in near)


def test_the_matrix_of_regions_has_a_panel_for_each_method_and_frames_some_cells() -> None:
    figure = heatmaps.plot_transfer(transfer_rows(3))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [f"net {n} with knn" for n in range(3)]
    n = len(class_names(3))
    assert [len(axes.patches) for axes in shown] == [n, n, n - 1]
    texts = [[text.get_text() for text in axes.texts] for axes in shown]
    assert texts[0] == ["0.50"] * n * n
    assert texts[2] == ["0.70"] * (n - 1) * n + [""] * n
    assert len({axes.images[0].norm.vmin for axes in shown}) == 1
