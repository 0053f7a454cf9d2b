"""The page in a real browser: sorted, filtered, light, dark, narrow, and without JavaScript."""

from __future__ import annotations

import dataclasses
import io
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pypdf
import pytest
from PIL import Image
from playwright.sync_api import expect

from benchmark.page import curves, heatmaps, pictures, scores
from benchmark.page.html import Confusion, Gain, Picture, Table, render_report
from benchmark.page.leaderboard import RankingRow
from benchmark.page.rendering import draw
from tests.browser import PHONE_WIDTH, opened
from tests.page.test_html import report
from tests.page.test_scores import cells, gains

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

FAMILIES = ("efficientnet", "vit", "resnet")
METHODS = ("logistic_regression", "knn", "finetune")
NUM_BACKBONES = 12
A4_WIDTH = 688
"""Pixels between the margins of a printed page."""


def rows() -> tuple[RankingRow, ...]:
    """Return a row for each backbone and method, and one floor without a backbone."""
    found = [
        RankingRow(
            rank=1 + place,
            backbone=f"network_{place // 3:02d}_of_some_length",
            method=METHODS[place % 3],
            value=0.95 - 0.01 * place,
            ci_low=0.93 - 0.01 * place,
            ci_high=0.96 - 0.01 * place,
            seed_std=None if place == 5 else 0.001 * ((place * 7) % 11),
            num_seeds=3,
            verdict="leader" if place == 0 else "no detectable difference" * (place < 4),
            is_tie=0 < place < 4,
            family=FAMILIES[place // 3 % 3],
            source="timm",
            num_parameters=1_000_000 * (1 + place // 3),
            dim=512,
            patches_per_s=None if place % 3 == 2 else 100.0 + place,
            seconds=None if place == 7 else 10.0 + (place * 13) % 17,
        )
        for place in range(3 * NUM_BACKBONES)
    ]
    floor = RankingRow(
        rank=len(found) + 1, backbone="any backbone", method="majority", value=0.14, is_floor=True
    )
    return (*found, floor)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a figure of each kind."""
    rng = np.random.default_rng(0)
    names = ("water", "trees", "barren")
    photographs = [rng.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8) for _ in names]
    figures = {
        "What fine-tuning gains": ("finetune", curves.plot_gains(gains(3))),
        "Ranking": ("ranking", scores.plot_ranking(cells(5))),
        "Confusion": ("confusion", heatmaps.plot_confusion(np.eye(3) * 9, names)),
        "Examples": ("data", pictures.plot_examples(photographs, names)),
    }
    row = Gain(
        backbone="network_00_of_some_length", head="knn", gain=4.1, low=2.0, high=6.3, ratio=38.0,
        verdict="gains", is_detectable=True,
    )  # fmt: skip
    classes = tuple(f"class number {k:02d}" for k in range(21))
    recalls = (("network_00_of_some_length", "logistic_regression", *[0.1234] * 21),)
    data = dataclasses.replace(
        report(),
        ranking=rows(),
        gains=(row,),
        recalls=(
            Table(title="Recall", columns=("backbone", "method", *classes), rows=recalls * 9),
        ),
        confusions=(
            *report().confusions,
            Confusion(title="Many", classes=classes, counts=tuple([tuple([1234] * 21)] * 21)),
        ),
        pictures=tuple(
            Picture(
                section=section,  # type: ignore[arg-type]
                title=title,
                drawing=draw(figure),
                is_folded=title == "Examples",
            )
            for title, (section, figure) in figures.items()
        ),
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(data), encoding="utf-8")
    return path


def column(found: list[str], index: int) -> list[str]:
    return [row.split()[index] for row in found]


def test_a_click_sorts_and_missing_numbers_come_last_in_both_directions(
    browser: Browser, page: Path
) -> None:
    with opened(browser, page) as shown:
        assert column(shown.rows(), 0) == [str(n) for n in range(1, 38)]
        heading = shown.page.get_by_role("columnheader", name="Device time")
        for direction in ("ascending", "descending"):
            heading.click()
            expect(heading).to_have_attribute("aria-sort", direction)
            ranks = [int(rank) for rank in column(shown.rows(), 0)]
            assert set(ranks[-2:]) == {8, 37}
            seconds = [10.0 + ((rank - 1) * 13) % 17 for rank in ranks[:-2]]
            assert seconds == sorted(seconds, reverse=direction == "descending")


def test_the_keyboard_sorts(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        heading = shown.page.get_by_role("columnheader", name="Balanced accuracy")
        heading.get_by_role("button").focus()
        shown.page.keyboard.press("Enter")
        expect(heading).to_have_attribute("aria-sort", "descending")
        shown.page.keyboard.press("Enter")
        expect(heading).to_have_attribute("aria-sort", "ascending")
        assert column(shown.rows(), 0)[0] == "37"


def test_filters_by_family_method_floor_and_words(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        form = shown.page.get_by_role("form", name="Rows of the ranking")
        choose = form.get_by_label
        choose("Family").select_option("vit")
        assert len(shown.rows()) == 12
        choose("Method").select_option("finetune")
        found = shown.rows()
        assert len(found) == 4
        assert all("finetune" in row and "vit" in row for row in found)
        assert "4 rows of 37" in shown.page.locator(".dt-info").inner_text()
        choose("Search").fill("network_04")
        assert len(shown.rows()) == 1
        choose("Search").fill("nothing of this name")
        assert shown.rows() == ["No row fits these filters."]
        shown.page.get_by_role("button", name="Show all rows").click()
        shown.page.wait_for_function(
            "document.querySelectorAll('#ranking-table tbody tr').length == 37"
        )
        choose("Floor").select_option("floor")
        assert len(shown.rows()) == 1 and "majority" in shown.rows()[0]


@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_is_loaded_nothing_fails_and_axe_finds_no_serious_fault(
    browser: Browser, page: Path, is_dark: bool
) -> None:
    with opened(browser, page, is_dark=is_dark) as shown:
        assert shown.faults() == []
        assert (shown.requests, shown.errors) == ([], [])


def test_figures_follow_a_dark_page(browser: Browser, page: Path) -> None:
    light = {}
    for is_dark in (False, True):
        with opened(browser, page, is_dark=is_dark) as shown:
            picture = shown.page.get_by_role("img", name="Ranking").screenshot()
        with Image.open(io.BytesIO(picture)) as image:
            light[is_dark] = float(np.median(np.asarray(image.convert("L"))))
    assert light[False] > 240 and light[True] < 40


@pytest.mark.parametrize("width", [PHONE_WIDTH, 768])
def test_a_narrow_page_does_not_scroll_sideways(browser: Browser, page: Path, width: int) -> None:
    with opened(browser, page, width=width) as shown:
        assert not shown.is_wider_than_its_window()
        box = shown.page.locator("#ranking-box")
        assert box.evaluate("box => box.scrollWidth > box.clientWidth")
        box.evaluate("box => box.scrollLeft = 300")
        # The name stays in sight.
        left = shown.page.locator("#ranking-table tbody th").first.bounding_box()
        assert left is not None and left["x"] >= 0


def test_without_javascript_every_row_is_shown(browser: Browser, page: Path) -> None:
    with opened(browser, page, runs_scripts=False) as shown:
        found = shown.rows()
        assert column(found, 0) == [str(n) for n in range(1, 38)]
        assert not shown.page.locator("#ranking-filters").is_visible()
        assert not shown.is_wider_than_its_window()


def test_the_command_that_repeats_the_run_is_copied(browser: Browser, page: Path) -> None:
    moved = page.with_name("it's a copy.html")
    moved.write_bytes(page.read_bytes())
    with opened(browser, moved) as shown:
        shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        shown.page.get_by_role("button", name="Copy").click()
        expect(shown.page.locator("#copied")).to_have_text("Copied.")
        copied = shown.page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied) == ["benchmark", "reproduce", str(moved), "--store", "repeated"]
    with opened(browser, page, runs_scripts=False) as shown:
        assert "reproduce index.html" in shown.page.locator("#command").inner_text()
        assert not shown.page.get_by_role("button", name="Copy").is_visible()


def test_a_folded_figure_is_shown_on_demand(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        picture = shown.page.get_by_role("img", name="Examples")
        assert not picture.is_visible()
        shown.page.locator("summary", has_text="Examples").click()
        assert picture.is_visible()


@pytest.mark.parametrize("runs_scripts", [True, False])
def test_paper_shows_all_that_is_folded_without_controls_cut_tables_or_dark_colours(
    browser: Browser, page: Path, runs_scripts: bool
) -> None:
    with opened(browser, page, width=A4_WIDTH, is_dark=True, runs_scripts=runs_scripts) as shown:
        folded = shown.page.locator("main details:not([open]) :is(img, table)")
        assert folded.count() == 2 and not folded.first.is_visible()
        shown.page.emulate_media(media="print")
        for item in folded.all():
            box = item.bounding_box()
            assert item.is_visible() and box is not None and box["height"] > 100
        for control in shown.page.locator("nav, form, button, input, select").all():
            assert not control.is_visible()
        assert not shown.is_wider_than_its_window()
        background = shown.page.locator("body").evaluate("it => getComputedStyle(it).background")
        assert "rgb(255, 255, 255)" in background


def test_on_paper_a_heading_is_never_parted_from_its_table(browser: Browser, page: Path) -> None:
    found = set()
    with opened(browser, page) as shown:
        for before in shown.page.locator("header, #finetune").all():
            before.evaluate("it => it.replaceChildren()")
        for height in range(820, 980, 20):
            shown.page.locator("header").evaluate(f"it => it.style.height = '{height}px'")
            sheet = pypdf.PdfReader(io.BytesIO(shown.page.pdf(format="A4"))).pages[0].extract_text()
            found.add(("Ranking" in sheet, "0.950" in sheet))
    assert found == {(True, True), (False, False)}
