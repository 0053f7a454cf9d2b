"""Which patches the explorer shows, and their sheets."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from benchmark.page.explorer import COLUMNS, draw_sheets, weigh
from benchmark.page.html import Picture, Section, render_report
from benchmark.page.rendering import Drawing
from benchmark.stages.report.explorer import Chosen, choose_patches, draw_within
from benchmark.stages.report.figures import keep_within
from tests.page.explored import CLASSES, EVIL, explorer
from tests.page.test_html import report


def test_wrong_patches_come_first_and_classes_in_turn() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5]).astype(np.int32)
    is_wrong = np.zeros(100, bool)
    is_wrong[[3, 5, 81, 97]] = True
    found = choose_patches(is_wrong, labels, 13)
    assert set(found[:4]) == {3, 5, 81, 97}
    assert np.bincount(labels[found[4:]]).tolist() == [3, 3, 3]
    assert np.array_equal(found, choose_patches(is_wrong, labels, 13))
    assert sorted(choose_patches(is_wrong, labels, 1000)) == list(range(100))


def test_a_sheet_holds_the_patches_of_its_class_in_rows() -> None:
    labels = np.array([1, 0] * 20)
    shades = np.linspace(20, 235, 40).astype(np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (40, 8, 8, 3)).copy()
    sheets = draw_sheets(images, labels, 3)
    assert sheets[2] == b"" and weigh(sheets) >= len(base64.b64encode(sheets[0]))
    with Image.open(io.BytesIO(sheets[1])) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (16, 8 * COLUMNS)
    # The 18th of class 1 is the second of the second row.
    assert abs(int(pixels[12, 12]) - int(shades[34])) < 8


def test_a_page_holds_the_values_escaped_and_each_sheet_once() -> None:
    page = render_report(report(explorer=explorer()))
    (text,) = re.findall(r'id="explorer-data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in text
    data = json.loads(text)
    assert tuple(data["classes"]) == CLASSES and data["methods"][1]["name"] == EVIL
    for url in explorer().urls:
        assert page.count(url) == 1
    assert 'id="explorer"' not in render_report(report())


def test_the_last_patches_go_where_the_pictures_are_too_heavy() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (120, 16, 16, 3), dtype=np.uint8)
    labels = np.tile([0, 1], 60).astype(np.int32)
    ids = np.array([f"{n:03d}" for n in range(120)], object)
    chosen = Chosen(np.arange(100) + 7, ids, labels, np.repeat([2, 0], [100, 20]))
    whole, sheets = draw_within(images, chosen, 2, 10_000_000)
    assert len(whole.ids) == 120
    limit = weigh(sheets) // 2
    fewer, lighter = draw_within(images, chosen, 2, limit)
    assert weigh(lighter) <= limit
    n = len(fewer.tested)
    assert 30 < n < 60 and fewer.tested.tolist() == list(range(7, 7 + n))
    assert fewer.ids[:n].tolist() == ids[:n].tolist()
    assert fewer.splits.tolist() == [2] * n + [0] * (20 * n // 100)
    assert fewer.ids[n] == "100"


def test_the_last_figures_of_embeddings_are_left_out_of_a_heavy_page_which_names_them() -> None:
    def figure(title: str, *, is_folded: bool = False, section: Section = "embeddings") -> Picture:
        drawing = Drawing(bytes(3000), "webp")
        return Picture(section=section, title=title, drawing=drawing, is_folded=is_folded)

    drawn = (
        figure("matrix", section="confusion"),
        *(figure(name) for name in ("first", "second", "third")),
        figure("gradients", is_folded=True),
    )
    one = len(drawn[0].url)
    kept, left_out = keep_within(drawn, 4 * one)
    assert [item.title for item in left_out] == ["third"] and len(kept) == 4
    kept, left_out = keep_within(drawn, one)
    assert [item.title for item in kept] == ["matrix", "gradients"]
    page = render_report(report(pictures=kept, left_out=left_out))
    assert "kept as files beside it: first; second; third." in page
    assert keep_within(drawn) == (drawn, ())
