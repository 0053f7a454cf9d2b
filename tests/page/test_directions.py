"""Tests of names that would turn around what follows them."""

from __future__ import annotations

import markupsafe
import pytest

from benchmark.page.directions import leveled, without_turns
from benchmark.page.html import render_report
from tests.page.test_html import Page, report

OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"
HEBREW = "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}"


@pytest.mark.parametrize(
    "turn", [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))], ids=ascii
)
def test_characters_that_turn_what_follows_are_left_out(turn: str) -> None:
    assert without_turns(f"a{turn}b") == "ab"


def test_letters_of_every_script_and_marks_between_them_stay() -> None:
    text = f"{HEBREW} \N{LEFT-TO-RIGHT MARK}x \N{ARABIC LETTER ALEF}\N{ZERO WIDTH JOINER}"
    assert without_turns(text) == text


def test_markup_and_numbers_stay_as_they_are() -> None:
    markup = markupsafe.Markup(f"<b>{OVERRIDE}</b>")
    assert leveled(markup) is markup
    assert leveled(0.5) == 0.5
    assert leveled(None) is None


def test_a_name_in_a_sentence_does_not_turn_its_end() -> None:
    note = f"Few patches of wa{OVERRIDE}ter {HEBREW}: 3 of test"
    data = report(title=note, headline=note, notes=(note,), absent_classes=(f"{OVERRIDE}barren",))
    text = render_report(data)
    page = Page(text)
    assert sum(f"Few patches of water {HEBREW}: 3 of test" in words for words in page.words) == 4
    assert OVERRIDE not in text
