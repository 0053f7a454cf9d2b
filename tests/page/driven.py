"""What a reader does with the page of any run: each step is checked against the page's own data."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from tests.page.test_explorer_browser import cell, confidences, frame, lasso

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser import Opened


def drive(shown: Opened) -> None:
    """Sort, filter, open every confusion cell, compare methods, hover and lasso, as with a mouse.

    Raises:
        AssertionError: the page shows something else than what it holds.
    """
    page = shown.page
    sort_every_column(page)
    filter_by_every_choice(shown)
    data = json.loads(page.locator("#explorer-data").text_content() or "")
    for number, method in enumerate(data["methods"][:2]):
        open_every_cell(page, data, number, method)
    disagree(page, data)
    if data["maps"]:
        hover_and_draw(page, data)
    assert shown.faults() == []
    assert (shown.requests, shown.errors) == ([], [])


def sort_every_column(page: Page) -> None:
    """Click each heading of numbers: rows in order, missing numbers last."""
    headings = page.locator("#ranking-table thead th")
    for column in range(headings.count()):
        heading = headings.nth(column)
        kinds = (heading.get_attribute("class") or "").split()
        if "num" not in kinds:
            continue
        directions = ["ascending", "descending"]
        for direction in reversed(directions) if "down" in kinds else directions:
            heading.click()
            expect(heading).to_have_attribute("aria-sort", direction)
            texts = page.locator("#ranking-table tbody tr").evaluate_all(
                "(rows, at) => rows.map(row => row.children[at].dataset.order)", column
            )
            known = [float(text) for text in texts if text]
            assert known == sorted(known, reverse=direction == "descending")
            assert not any(texts[len(known) :])
    page.get_by_role("button", name="Show all rows").click()


def filter_by_every_choice(shown: Opened) -> None:
    """Choose each option of each filter, alone: the rows that have it are shown."""
    rows = shown.page.locator("#ranking-table tbody tr").evaluate_all(
        "rows => rows.map(row => ({...row.dataset}))"
    )
    for select in shown.page.locator("#ranking-filters select").all():
        key = select.get_attribute("name") or ""
        for option, count in Counter(row[key] for row in rows if row[key]).items():
            select.select_option(option)
            assert len(shown.rows()) == count, (key, option)
        select.select_option("")
    assert len(shown.rows()) == len(rows)


def open_every_cell(page: Page, data: dict[str, Any], number: int, method: dict[str, Any]) -> None:
    """Click each cell of a matrix: so many cards as it has patches, most confident first."""
    form = page.get_by_role("form", name="Confusion matrix")
    form.get_by_label("Method").select_option(str(number))
    box = page.locator("#explorer-cell")
    pairs = Counter(zip(data["labels"], method["predicted"], strict=False))
    assert sum(map(sum, method["counts"])) == data["total"]
    for (true, predicted), held in pairs.items():
        count = method["counts"][true][predicted]
        assert cell(page, true, predicted).inner_text() == f"{count:,}"
        cell(page, true, predicted).click()
        num_cards = min(held, data["most"])
        assert box.locator("li").count() == num_cards
        assert f"{num_cards:,} of {count:,} patch" in box.get_by_role("status").inner_text()
        found = confidences(box)
        assert found == sorted(found, reverse=True)
        assert set(box.locator("li > span.patch").evaluate_all(CLASSES_OF)) == {f"s{true}"}


CLASSES_OF = "all => all.map(one => one.classList[1])"
"""The sheets of pictures, which are those of the true classes."""


def disagree(page: Page, data: dict[str, Any]) -> None:
    """Choose each second method: as many disagreements as in the data."""
    form = page.get_by_role("form", name="Two methods")
    for second in range(1, len(data["methods"])):
        form.get_by_label("Second method").select_option(str(second))
        text = page.locator("#explorer-pair").get_by_role("status").inner_text()
        assert f"disagree on {data['differ'][0][second]:,} of {data['total']:,} patches" in text


def hover_and_draw(page: Page, data: dict[str, Any]) -> None:
    """Draw around all points of two maps and count them; point at one until its patch is shown."""
    form = page.get_by_role("form", name="Maps of embeddings")
    hovered = page.locator("#explorer-maps-hover li")
    status = page.locator("#explorer-maps-status")
    for number in {0, len(data["maps"]) - 1}:
        found = data["maps"][number]
        form.get_by_label("Left map").select_option(str(number))
        left, top, width, height = frame(page, "left")
        lasso(page, left, top, left + width, top + height)
        expect(status).to_contain_text("patches shown")
        count = int(re.findall(r"of ([\d,]+) patch", status.inner_text())[0].replace(",", ""))
        placed = sum(x is not None for x in found["x"])
        assert 0.95 * placed <= count <= placed, found["name"]
    for step in range(400):
        page.mouse.move(left + width * (step % 20) / 20, top + height * (step // 20) / 20)
        if hovered.count():
            break
    assert hovered.count() == 1
    for color in ("split", "errors", "class"):
        form.get_by_label("Colour").select_option(color)
        assert page.locator("#explorer-maps-legend li").count() > 1
