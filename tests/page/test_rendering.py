"""Figures become small files: plots SVG, photographs WebP, and a page of many stays light."""

from __future__ import annotations

import io
import re
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmark.page import curves, heatmaps, pictures, rendering, scores
from benchmark.page.datatables import load_library
from benchmark.page.html import Confusion, Picture, Table, render_report
from benchmark.page.leaderboard import RankingRow, find_filters, find_scale
from benchmark.page.rendering import DARK, Form, draw
from benchmark.page.scores import INK
from tests.page.test_html import report
from tests.page.test_scores import cells, gains

MAX_PAGE_BYTES = 8_000_000


def photographs(count: int, size: int = 128) -> np.ndarray:
    """Return pictures (count, H, W, 3) with about the detail of photographs."""
    rng = np.random.default_rng(count)
    found = []
    for _ in range(count):
        noise = Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8))
        found.append(np.asarray(noise.filter(ImageFilter.GaussianBlur(1.0))))
    return np.stack(found)


def test_plots_are_svg_that_does_not_change_and_follows_a_dark_page() -> None:
    first, second = (draw(curves.plot_gains(gains(3), title="<b>$&")) for _ in range(2))
    assert first.form == "svg"
    assert first.content == second.content
    text = first.content.decode()
    assert "@media (prefers-color-scheme: dark)" in text
    assert f'[style*="fill: {INK}"]{{fill:{DARK[INK]}!important}}' in text
    assert f"fill: {INK}" in text
    assert "<script" not in text and not re.findall(r'href="(?!#|data:)', text)


def test_an_svg_is_shortened_and_keeps_what_refers_to_its_parts() -> None:
    text = draw(curves.plot_gains(gains(3))).content.decode()
    assert "<!--" not in text and ">\n<" not in text
    assert not re.findall(r"[1-9]\.\d{3}", text)
    names = re.findall(r' id="([^"]+)"', text)
    used = re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert used and {one or other for one, other in used} <= set(names)


def test_the_ink_of_heat_tables_stays_as_it_is_on_a_dark_page() -> None:
    text = draw(heatmaps.plot_confusion([[9, 1], [0, 4]], ["a", "b"])).content.decode()
    for ink in (heatmaps.ON_DARK, heatmaps.ON_LIGHT):
        assert ink not in DARK
        assert ink in text


def test_photographs_and_very_many_points_are_webp() -> None:
    examples = draw(pictures.plot_examples([photographs(3)] * 2, ["a", "b"]))
    rng = np.random.default_rng(0)
    cloud = draw(
        pictures.plot_projection(
            rng.normal(size=(4000, 2)), np.zeros(4000, int), np.full(4000, "test"), ["a"]
        )
    )
    for drawing, width in ((examples, 900), (cloud, 1080)):
        assert drawing.form == "webp"
        with Image.open(io.BytesIO(drawing.content)) as image:
            assert image.format == "WEBP" and image.size[0] == width
    assert len(examples.content) < 120_000


def test_every_form_has_a_media_type() -> None:
    assert set(rendering.MEDIA_TYPES) == set(get_args(Form))


def test_the_library_is_a_module_without_exports_and_says_its_licence() -> None:
    library = load_library()
    assert "export{" not in library.script
    assert "</script" not in library.script and "<!--" not in library.script
    assert f"var {library.name}=" in library.script or f"{library.name}=" in library.script
    assert "Permission is hereby granted" in library.license
    assert "DataTables" in library.script and "datatables.net/license" in library.script


def test_the_scale_holds_every_interval_and_filters_leave_rows_out() -> None:
    rows = [
        RankingRow(
            rank=1, backbone="a", method="knn", value=0.91, ci_low=0.83, ci_high=0.97, family="vit"
        ),
        RankingRow(rank=2, backbone="b", method="knn", value=0.62, ci_low=float("nan")),
    ]
    scale = find_scale(rows)
    assert (scale.low, scale.high) == (0.6, 1.0)
    assert [scale.place(value) for value in (0.6, 0.8, 1.0, 1.2, 0.1)] == [0, 50, 100, 100, 0]
    assert find_scale(()) == (0.0, 1.0)
    assert [item.key for item in find_filters(rows)] == ["backbone"]
    assert find_filters(()) == ()


@pytest.mark.slow
def test_a_page_of_20_backbones_and_21_classes_is_at_most_8_mb() -> None:
    classes = [f"class number {k:02d}" for k in range(21)]
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 200, (21, 21))
    points, labels = rng.normal(size=(4000, 2)), rng.integers(0, 21, 4000)
    splits = rng.choice(["train", "val", "test"], 4000)
    clouds = pictures.plot_projection(points, labels, splits, classes)
    vectors = [np.abs(rng.normal(size=(2, 1280))) for _ in classes]
    pairs = [photographs(2) for _ in classes]
    drawn = {
        "ranking": draw(scores.plot_ranking(cells(60))),
        "matrix": draw(heatmaps.plot_confusion(counts, classes)),
        "cloud": draw(clouds),
        "vectors": draw(pictures.plot_embeddings(vectors, classes)),
        "examples": draw(pictures.plot_examples([photographs(6)] * 21, classes)),
        "pairs": draw(pictures.plot_pairs(pairs, pairs, classes, names=("a", "b"))),
    }
    # The numbers of figures that a page shows at most (stages/report).
    shown = {"ranking": 3, "matrix": 4, "cloud": 6, "vectors": 6, "examples": 1, "pairs": 3}
    every = tuple(
        Picture(section="data", title=f"{name} {n}", drawing=drawn[name])
        for name, count in shown.items()
        for n in range(count)
    )
    ranking = tuple(
        RankingRow(rank=1 + n, backbone=f"backbone_{n // 4}", method=f"head_{n % 4}", value=0.5)
        for n in range(80)
    )
    wide = Table(title="t", columns=tuple(classes), rows=tuple((0.123,) * 21 for _ in range(240)))
    matrices = tuple(
        Confusion(title=str(n), classes=tuple(classes), counts=counts.tolist()) for n in range(24)
    )
    text = render_report(
        report(ranking=ranking, pictures=every, recalls=(wide,) * 3, confusions=matrices)
    )
    # A page has a little more: notes, provenance, and tables of cost.
    assert len(text.encode()) < 0.95 * MAX_PAGE_BYTES
