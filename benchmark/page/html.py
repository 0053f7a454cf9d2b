"""The report as one self-contained HTML page: plain values in, text out, no files and no network.

``render_report`` fills ``templates/report.html.j2`` and escapes everything that it inserts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import jinja2
import markupsafe
import pandas as pd

from benchmark.page.bokehjs import load_bokeh
from benchmark.page.datatables import load_library
from benchmark.page.directions import leveled
from benchmark.page.explorer import Explorer
from benchmark.page.leaderboard import RankingRow, find_filters, find_scale
from benchmark.page.rendering import MEDIA_TYPES, Drawing

MAX_OPEN_ROWS = 40
"""Rows of a table that is shown at once; one with more is folded."""
MAX_HEADING = 20
"""Characters of a column's heading that stay together."""

Section = Literal[
    "ranking",
    "reference",
    "labels",
    "transfer",
    "finetune",
    "training",
    "classes",
    "confusion",
    "data",
    "embeddings",
    "cost",
]

SECTIONS: tuple[Section, ...] = get_args(Section)

MISSING = "\N{EN DASH}"
"""Text shown for a missing value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to show: floats have ``decimals`` decimals, None and NaN become a dash.

    The first ``num_headers`` columns name the row.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""
    num_headers: int = 1
    decimals: int = 3

    @property
    def is_folded(self) -> bool:
        """Return whether the table is shown on demand."""
        return len(self.rows) > MAX_OPEN_ROWS

    @property
    def are_numbers(self) -> tuple[bool, ...]:
        """Return of each column whether it holds numbers, also as text: "< 0.001"."""
        return tuple(
            any(_holds_number(row[place]) for row in self.rows)
            for place in range(len(self.columns))
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        title: str,
        caption: str = "",
        num_headers: int = 1,
        decimals: int = 3,
    ) -> Table:
        """Build a table from a frame without its index (``reset_index`` first to show it)."""
        return cls(
            title=title,
            columns=tuple(str(name) for name in frame.columns),
            rows=tuple(frame.itertuples(index=False, name=None)),
            caption=caption,
            num_headers=num_headers,
            decimals=decimals,
        )


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A confusion matrix as counts (K, K): rows true, columns predicted."""

    title: str
    classes: tuple[str, ...]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure (``rendering.draw``) and the section that shows it.

    ``alt`` describes it for readers who cannot see it; if empty, the page uses the title. One that
    ``is_folded`` is shown on demand.
    """

    section: Section
    title: str
    drawing: Drawing
    caption: str = ""
    alt: str = ""
    is_folded: bool = False

    @property
    def url(self) -> str:
        """Return the picture as a ``data:`` URL."""
        content = base64.b64encode(self.drawing.content).decode("ascii")
        return f"data:{MEDIA_TYPES[self.drawing.form]};base64,{content}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The effect of fine-tuning a backbone, e.g. ``fine-tuning gains 4.1 points [2.0, 6.3]``.

    ``head`` belongs to the frozen side, empty if there is none; ``sentence`` continues
    ``With <backbone>,`` and has no full stop.
    """

    backbone: str
    head: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Fine-tuned minus frozen of one backbone, on the same patches.

    Attributes:
        backbone: its name, with the mode of the fine-tuning where there are several.
        head: of the frozen side.
        gain: in points of the headline metric.
        low: lower end of its interval.
        high: its upper end.
        ratio: device-seconds of fine-tuning over those of the frozen side; None: unknown.
        verdict: in words.
        is_detectable: whether the test rejects that there is no difference.
    """

    backbone: str
    head: str
    gain: float
    low: float
    high: float
    ratio: float | None = None
    verdict: str = ""
    is_detectable: bool = False


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Published results beside those of the run.

    Attributes:
        title: of the published results.
        notes: their source, and how far the two can be compared.
        tables: of scores, and of the patches of each class.
        confusions: matrices to show side by side: the published one, and the run's if it has one.
    """

    title: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    confusions: tuple[tuple[Confusion, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProblemRow:
    """A cell without a result, and the reason."""

    cell: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that the page shows, as plain values.

    Attributes:
        title: heading of the page.
        experiment: name of the experiment.
        dataset: name of the data set.
        is_synthetic: whether a program made the patches; the page says so at the top.
        headline: the answer in a few sentences, e.g. from ``headline.write_headline``.
        split: the split of the ranking.
        metric: name of the headline metric.
        confidence: of the intervals, e.g. 0.95.
        interval_reason: how the intervals were computed, e.g. ``Design.reason``.
        ranking: best first.
        absent_classes: classes without a patch in ``split``.
        notes: warnings, shown at the top.
        metrics: tables of that section: every metric of every cell, and paired differences.
        train_set: what the headline's methods were trained on; empty: all of train.
        flips: over which predictions are averaged, e.g. ``left-right, up-down``; empty: none.
        crossings: sentences on the number of labels from which fine-tuning is ahead.
        labels: tables of the train sets, and of the score on each.
        folds: tables of the folds of a cross-validation, and of the score on each.
        drops_least: sentence on the method that loses least out of the regions of train.
        transfer: tables of scores and drops by region.
        gains: effects of fine-tuning, one per backbone and mode.
        choices: of each backbone with several modes, which choice leads, and at what cost.
        comparisons: tables of the choices, and of fine-tuned against frozen.
        recalls: tables of recall and precision per class.
        confusions: one matrix per cell.
        beside: published results; None: none are asked for.
        class_counts: tables of patches per class, split and region.
        backbones: tables of the backbones and their input.
        timings: tables of durations and throughput.
        usage: tables of the duration and utilisation of the stages.
        usage_notes: sentences about them; the first names the bottleneck.
        repairs: tables of incidents that the run recovered from.
        problems: failed and missing cells.
        provenance: fingerprints, digests and versions, in display order.
        pictures: figures, each shown in its section.
        left_out: figures that would make the page too heavy; it names them.
        explorer: patches of test that the reader can look through; None: no such section.
    """

    title: str
    experiment: str
    dataset: str
    is_synthetic: bool
    headline: str
    split: str = "test"
    metric: str = "balanced accuracy"
    confidence: float = 0.95
    interval_reason: str = ""
    ranking: tuple[RankingRow, ...] = ()
    absent_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metrics: tuple[Table, ...] = ()
    train_set: str = ""
    flips: str = ""
    crossings: tuple[str, ...] = ()
    labels: tuple[Table, ...] = ()
    folds: tuple[Table, ...] = ()
    drops_least: str = ""
    transfer: tuple[Table, ...] = ()
    gains: tuple[Gain, ...] = ()
    choices: tuple[Verdict, ...] = ()
    comparisons: tuple[Table, ...] = ()
    recalls: tuple[Table, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    beside: Beside | None = None
    class_counts: tuple[Table, ...] = ()
    backbones: tuple[Table, ...] = ()
    timings: tuple[Table, ...] = ()
    usage: tuple[Table, ...] = ()
    usage_notes: tuple[str, ...] = ()
    repairs: tuple[Table, ...] = ()
    problems: tuple[ProblemRow, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    left_out: tuple[Picture, ...] = ()
    explorer: Explorer | None = None


def render_report(data: ReportData) -> str:
    """Return the page as HTML text (UTF-8), with all of ``data`` escaped.

    Raises:
        ValueError: a picture names a section that the page does not have.
    """
    for picture in data.pictures:
        if picture.section not in SECTIONS:
            raise ValueError(
                f"picture '{picture.title}': unknown section '{picture.section}'; "
                f"known: {', '.join(SECTIONS)}"
            )
    by_section = {
        section: [picture for picture in data.pictures if picture.section == section]
        for section in SECTIONS
    }
    present = {
        "finetune": bool(data.gains or data.choices or by_section["finetune"]),
        "training": bool(data.comparisons or by_section["training"]),
        "notes": bool(data.notes or data.absent_classes or data.problems or data.interval_reason),
        "classes": bool(data.recalls or by_section["classes"]),
        "confusion": bool(data.confusions or by_section["confusion"]),
        "data": bool(data.class_counts or by_section["data"]),
        "embeddings": bool(by_section["embeddings"] or data.left_out),
        "cost": bool(data.timings or by_section["cost"]),
        "provenance": bool(data.provenance),
    }
    return template("report.html.j2").render(
        data=data,
        pictures=by_section,
        present=present,
        scale=find_scale(data.ranking),
        filters=find_filters(data.ranking),
        library=load_library(),
        bokeh=load_bokeh() if data.explorer and data.explorer.maps else None,
    )


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of this wing, which escapes all that is inserted."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmark.page"),
        autoescape=True,
        finalize=leveled,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = _number
    environment.filters["seconds"] = _seconds
    environment.filters["missing"] = _is_missing
    environment.filters["order"] = lambda value: "" if _is_missing(value) else value
    environment.filters["millions"] = _millions
    environment.filters["times"] = _times
    environment.filters["signed"] = lambda value: f"{value:+.1f}"
    environment.filters["breakable"] = _breakable
    environment.filters["heading"] = _heading
    return environment.get_template(name)


def _breakable(text: str) -> markupsafe.Markup:
    """Let narrow columns break names at underscores and slashes, not inside words."""
    shown = markupsafe.escape(text)
    for place in "_/":
        shown = shown.replace(place, markupsafe.Markup(f"{place}<wbr>"))
    return shown


def _heading(text: str) -> markupsafe.Markup:
    """Let a column break in its heading if that is long, e.g. the name of a class."""
    parts = [text[start : start + MAX_HEADING] for start in range(0, len(text), MAX_HEADING)]
    return markupsafe.Markup("<wbr>").join(parts)


def _is_missing(value: Any) -> bool:
    # NaN, NaT and NA alike; a list of values is never missing.
    return value is None or bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _holds_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"([<>] ?)?-?[\d,]*\.?\d+(e-?\d+)?", value) is not None
    is_number = pd.api.types.is_number(value) and not isinstance(value, bool)
    return bool(is_number and not _is_missing(value))


def _number(value: Any, decimals: int = 3) -> str:
    if _is_missing(value):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if pd.api.types.is_integer(value):
        return f"{int(value):,}"
    if pd.api.types.is_float(value):
        return f"{float(value):,.{decimals}f}"
    return str(value)


def _millions(value: int | None) -> str:
    """Return a number of parameters, e.g. ``3.4 M``; exactly below 10,000."""
    if value is None or value < 10_000:
        return _number(value)
    return f"{value / 1e6:,.1f} M" if value < 99.95e6 else f"{value / 1e6:,.0f} M"


def _times(value: float | None) -> str:
    """Return a ratio of costs, e.g. ``38 times``."""
    if value is None:
        return MISSING
    return f"{value:,.{0 if value >= 9.95 else 1}f} times"


def _seconds(value: Any) -> str:
    if _is_missing(value):
        return MISSING
    if value < 10:
        return f"{value:.2g} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
