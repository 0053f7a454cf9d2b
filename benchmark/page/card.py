"""The data card as one self-contained HTML page: plain values in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.page.html import Picture, Table, template


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A section of the page: sentences, then figures, then tables; ``anchor`` is its id."""

    anchor: str
    title: str
    sentences: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CardData:
    """Everything that the page shows, as plain values.

    Attributes:
        title: heading of the page.
        experiment: name of the experiment.
        dataset: name of the data set.
        is_synthetic: whether a program made the patches; the page says so at the top.
        summary: the size of the data in one sentence.
        notes: warnings, shown at the top.
        chapters: in the order of the page.
        provenance: settings, fingerprints and versions, in display order.
    """

    title: str
    experiment: str
    dataset: str
    is_synthetic: bool
    summary: str
    notes: tuple[str, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def render_card(data: CardData) -> str:
    """Return the page as HTML text (UTF-8), with all of ``data`` escaped."""
    return template("card.html.j2").render(data=data)
