"""Names that do not turn around what a page or a figure writes after them."""

from __future__ import annotations

import re

import markupsafe

_TURNS = re.compile("[\N{LEFT-TO-RIGHT EMBEDDING}-\N{RIGHT-TO-LEFT OVERRIDE}\u2066-\u2069]")
"""Characters that turn the direction of all text after them, and those that end this."""


def without_turns(text: str) -> str:
    """Return a text without the invisible characters that turn all text after them.

    Letters from right to left stay: they turn nothing but themselves.
    """
    return _TURNS.sub("", text)


def leveled(value: object) -> object:
    """Return what a template shows: text without such characters, all else as it is.

    Markup is left alone: it has names in elements of their own, which turn alone, or as JSON.
    """
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return without_turns(value)
    return value
