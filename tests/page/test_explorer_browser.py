"""The explorer in a real browser: cells that open their patches, by mouse and by keyboard."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from benchmark.page.html import render_report
from tests.browser import PHONE_WIDTH, opened
from tests.page.explored import CLASSES, EVIL, RIGHT_TO_LEFT, explorer
from tests.page.test_html import report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = dataclasses.replace(report(), explorer=explorer(), confusions=report().confusions[:1])
    path = tmp_path_factory.mktemp("explorer") / "report.html"
    path.write_text(render_report(data), encoding="utf-8")
    return path


def cell(shown: Page, row: int, column: int) -> Locator:
    return shown.locator(f'#explorer-matrix [data-cell="{row},{column}"]')


def confidences(box: Locator) -> list[float]:
    found = box.locator("li span.good, li span.bad").all_inner_texts()
    return [float(text.split()[-2]) for text in found]


def test_a_click_on_a_cell_shows_its_patches_most_confident_first(
    browser: Browser, page: Path
) -> None:
    with opened(browser, page) as shown:
        box = shown.page.locator("#explorer-cell")
        assert box.locator("li").count() == 0
        cell(shown.page, 0, 2).click()
        assert box.locator("li").count() == 5
        assert "5 of 80 patches shown" in box.get_by_role("status").inner_text()
        assert confidences(box) == [99.0, 98.5, 98.0, 97.5, 97.0]
        cell(shown.page, 2, 2).click()
        # No more than a list holds.
        assert box.locator("li").count() == 20
        assert "20 of 30 patches shown" in box.get_by_role("status").inner_text()
        expect(cell(shown.page, 2, 2)).to_have_attribute("aria-pressed", "true")
        expect(cell(shown.page, 0, 2)).to_have_attribute("aria-pressed", "false")


def test_each_patch_shows_its_own_part_of_the_sheet_of_its_class(
    browser: Browser, page: Path
) -> None:
    with opened(browser, page) as shown:
        cell(shown.page, 0, 0).click()
        sprites = shown.page.locator("#explorer-cell .patch")
        style = "node => [getComputedStyle(node).backgroundPosition, node.className]"
        # The first five of class 0 are in another cell: this is the sixth of its sheet.
        assert sprites.nth(0).evaluate(style) == ["-320px 0px", "patch s0"]
        assert sprites.nth(11).evaluate(style) == ["0px -64px", "patch s0"]
        picture = "node => getComputedStyle(node).backgroundImage.slice(0, 27)"
        assert sprites.nth(0).evaluate(picture) == 'url("data:image/webp;base64'


def test_names_are_text_whatever_they_hold(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        names = shown.page.locator("#explorer-matrix thead bdi").evaluate_all(
            "nodes => nodes.map(node => node.textContent)"
        )
        assert tuple(names) == CLASSES
        assert shown.page.locator("#explorer b, #explorer i").count() == 0
        cell(shown.page, 0, 2).click()
        card = shown.page.locator("#explorer-cell li").first
        assert "<i>0</i>" in card.inner_text() and "</script>" in card.inner_text()
        assert EVIL in (shown.page.locator("#explorer option").nth(1).text_content() or "")


def test_counts_become_rates_and_methods_change_the_matrix(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        form = shown.page.get_by_role("form", name="Confusion matrix")
        assert cell(shown.page, 0, 2).inner_text() == "80"
        form.get_by_label("Cells").select_option("rates")
        # 80 of 105.
        assert cell(shown.page, 0, 2).inner_text() == "76"
        assert cell(shown.page, 1, 1).inner_text() == "100"
        form.get_by_label("Method").select_option("1")
        assert cell(shown.page, 0, 2).count() == 0
        # 2 of 30.
        assert cell(shown.page, 1, 0).inner_text() == "6.7"
        form.get_by_label("Cells").select_option("counts")
        assert cell(shown.page, 1, 0).inner_text() == "2"


def test_the_keyboard_alone_reaches_a_cell_and_opens_it(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        shown.page.get_by_role("form", name="Confusion matrix").get_by_label("Cells").focus()
        # The box that scrolls, then the matrix: one stop each.
        shown.page.keyboard.press("Tab")
        shown.page.keyboard.press("Tab")
        expect(cell(shown.page, 0, 0)).to_be_focused()
        shown.page.keyboard.press("ArrowRight")
        expect(cell(shown.page, 0, 2)).to_be_focused()
        shown.page.keyboard.press("Enter")
        assert shown.page.locator("#explorer-cell li").count() == 5
        shown.page.keyboard.press("ArrowDown")
        expect(cell(shown.page, 2, 2)).to_be_focused()
        shown.page.keyboard.press("Tab")
        assert shown.page.locator("#explorer-matrix :focus").count() == 0


def test_the_hardest_patches_come_first(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        cards = shown.page.locator("#explorer-hardest li")
        assert cards.count() == 20
        assert "0.0\N{NO-BREAK SPACE}% on average" in cards.nth(0).inner_text()
        assert "<i>89</i>" in cards.nth(0).inner_text()
        assert "1.0\N{NO-BREAK SPACE}% on average" in cards.nth(1).inner_text()


def test_two_methods_show_only_what_they_disagree_on(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        box = shown.page.locator("#explorer-pair")
        form = shown.page.get_by_role("form", name="Two methods")
        status = box.get_by_role("status")
        assert box.locator("li").count() == 7
        assert "disagree on 7 of 165 patches. 7 of 7 patches shown" in status.inner_text()
        form.get_by_label("Patches").select_option("first")
        assert box.locator("li").count() == 2
        assert all("✓" in text for text in box.locator("li").all_inner_texts())
        form.get_by_label("Patches").select_option("neither")
        assert box.locator("li").count() == 0
        form.get_by_label("First method").select_option("1")
        assert "Choose two different methods" in status.inner_text()


def frame(shown: Page, side: str) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the part of a map that holds its points."""
    shown.locator("#explorer-maps").scroll_into_view_if_needed()
    shown.wait_for_selector("#explorer-maps.ready")
    box = shown.locator(f"#explorer-map-{side} .bk-events").first.bounding_box()
    assert box is not None
    return box["x"] + 60, box["y"] + 35, box["width"] - 70, box["height"] - 85


def lasso(shown: Page, left: float, top: float, right: float, bottom: float) -> None:
    shown.mouse.move(left, top)
    shown.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        shown.mouse.move(x, y, steps=3)
    shown.mouse.up()


def test_a_lasso_lists_its_patches_and_maps_are_coloured(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        left, top, width, height = frame(shown.page, "left")
        lasso(shown.page, left, top, left + width / 4, top + height)
        status = shown.page.locator("#explorer-maps-status")
        cards = shown.page.locator("#explorer-maps-list li")
        expect(status).to_contain_text("patches shown")
        assert cards.count() == 20
        sheets = shown.page.locator("#explorer-maps-list .patch").evaluate_all(
            "nodes => nodes.map(node => node.className)"
        )
        assert set(sheets) == {"patch s0"}
        legend = shown.page.locator("#explorer-maps-legend")
        assert legend.locator("bdi").first.text_content() == EVIL
        form = shown.page.get_by_role("form", name="Maps of embeddings")
        form.get_by_label("Colour").select_option("split")
        assert legend.locator("li").all_inner_texts() == ["train", "test"]
        form.get_by_label("Colour").select_option("region")
        assert legend.locator("bdi").all_text_contents() == ["east", RIGHT_TO_LEFT]
        assert "region: east" in shown.page.locator("#explorer-maps-list li").first.inner_text()
        form.get_by_label("Colour").select_option("errors")
        assert legend.locator("li").all_inner_texts() == ["right", "wrong", "train and val"]
        # Class 0 is at the left of the other backbone's map no more.
        form.get_by_label("Left map").select_option("1")
        left, top, width, height = frame(shown.page, "left")
        lasso(shown.page, left, top, left + width / 4, top + height)
        expect(shown.page.locator("#explorer-maps-list .patch.s2").first).to_be_visible()
        assert shown.page.locator("#explorer-maps-list .patch.s0").count() == 0
        assert (shown.requests, shown.errors) == ([], [])


def test_pointing_at_a_map_shows_a_patch(browser: Browser, page: Path) -> None:
    with opened(browser, page) as shown:
        left, top, width, height = frame(shown.page, "right")
        hover = shown.page.locator("#explorer-maps-hover li")
        assert hover.count() == 0
        # Class 1 is in the middle of both.
        for step in range(40):
            shown.page.mouse.move(left + width * (0.4 + 0.005 * step), top + height / 2)
            if hover.count():
                break
        assert hover.count() == 1
        assert hover.locator(".patch.s1").count() == 1
        assert "<i>" in hover.inner_text()


@pytest.mark.parametrize("is_dark", [False, True])
def test_axe_finds_no_serious_fault_and_nothing_is_loaded(
    browser: Browser, page: Path, is_dark: bool
) -> None:
    with opened(browser, page, is_dark=is_dark) as shown:
        cell(shown.page, 0, 2).click()
        frame(shown.page, "left")
        assert shown.faults() == []
        assert (shown.requests, shown.errors) == ([], [])


def test_a_phone_does_not_scroll_sideways(browser: Browser, page: Path) -> None:
    with opened(browser, page, width=PHONE_WIDTH) as shown:
        cell(shown.page, 0, 2).click()
        assert not shown.is_wider_than_its_window()
        assert shown.page.locator("#explorer-cell li").first.is_visible()


def test_without_javascript_the_matrices_are_there(browser: Browser, page: Path) -> None:
    with opened(browser, page, runs_scripts=False) as shown:
        assert not shown.page.locator("#explorer-app").is_visible()
        assert "needs JavaScript" in shown.page.locator("#explorer").inner_text()
        assert shown.page.locator("#confusion table.confusion").first.is_visible()
