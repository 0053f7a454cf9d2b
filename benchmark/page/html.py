"""The report as one self-contained HTML page: plain values in, text out, no files and no network.

``render_report`` fills ``templates/report.html.j2`` and escapes everything that it inserts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import jinja2
import markupsafe
import pandas as pd

MAX_HEADING = 20
"""Characters of a column's heading that stay together."""

Section = Literal[
    "ranking",
    "labels",
    "transfer",
    "finetune",
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
class RankingRow:
    """One backbone and method, summarised over its seeds.

    Attributes:
        rank: 1 is best.
        value: mean of the headline metric over the seeds.
        ci_low: lower end of the interval on other scenes of the kind; None or NaN: unknown.
        ci_high: its upper end.
        seed_std: standard deviation over seeds; None where there is one seed.
        seed_values: the value of each seed.
        seconds: device-seconds of one seed, the mean over seeds: all trials and the refit, and
            embeddings where the method needs them; None: unknown.
    """

    rank: int
    backbone: str
    method: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    seed_std: float | None = None
    num_seeds: int = 1
    is_floor: bool = False
    num_trials: int | None = None
    num_failed: int = 0
    seconds: float | None = None
    seed_values: tuple[float, ...] = ()
    verdict: str = ""


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
    """A figure: PNG bytes (``scores.to_png``) and the section that shows it.

    ``alt`` describes it for readers who cannot see it; if empty, the page uses the title.
    """

    section: Section
    title: str
    png: bytes
    caption: str = ""
    alt: str = ""

    @property
    def url(self) -> str:
        """Return the picture as a ``data:`` URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


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
        verdicts: effects of fine-tuning, one per backbone and mode.
        choices: of each backbone with several modes, which choice leads, and at what cost.
        comparisons: tables of the choices, and of fine-tuned against frozen.
        recalls: tables of recall and precision per class.
        confusions: one matrix per cell.
        class_counts: tables of patches per class, split and region.
        backbones: tables of the backbones and their input.
        timings: tables of durations and throughput.
        usage: tables of the duration and utilisation of the stages.
        usage_notes: sentences about them; the first names the bottleneck.
        repairs: tables of incidents that the run recovered from.
        problems: failed and missing cells.
        provenance: fingerprints, digests and versions, in display order.
        pictures: figures, each shown in its section.
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
    verdicts: tuple[Verdict, ...] = ()
    choices: tuple[Verdict, ...] = ()
    comparisons: tuple[Table, ...] = ()
    recalls: tuple[Table, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    class_counts: tuple[Table, ...] = ()
    backbones: tuple[Table, ...] = ()
    timings: tuple[Table, ...] = ()
    usage: tuple[Table, ...] = ()
    usage_notes: tuple[str, ...] = ()
    repairs: tuple[Table, ...] = ()
    problems: tuple[ProblemRow, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()


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
        "finetune": bool(data.verdicts or data.comparisons or by_section["finetune"]),
        "classes": bool(data.recalls or by_section["classes"]),
        "confusion": bool(data.confusions or by_section["confusion"]),
        "data": bool(data.class_counts or by_section["data"]),
        "embeddings": bool(by_section["embeddings"]),
        "cost": bool(data.timings or by_section["cost"]),
        "provenance": bool(data.provenance),
    }
    return template("report.html.j2").render(data=data, pictures=by_section, present=present)


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of this wing, which escapes all that is inserted."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmark.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["seconds"] = _seconds
    environment.filters["missing"] = _is_missing
    environment.filters["breakable"] = _breakable
    environment.filters["heading"] = _heading
    return environment.get_template(name)


def _breakable(text: str) -> markupsafe.Markup:
    """Let narrow columns break names at underscores, not inside words."""
    return markupsafe.Markup(markupsafe.escape(text).replace("_", markupsafe.Markup("_<wbr>")))


def _heading(text: str) -> markupsafe.Markup:
    """Let a column break in its heading if that is long, e.g. the name of a class."""
    parts = [text[start : start + MAX_HEADING] for start in range(0, len(text), MAX_HEADING)]
    return markupsafe.Markup("<wbr>").join(parts)


def _is_missing(value: Any) -> bool:
    # NaN, NaT and NA alike; a list of values is never missing.
    return value is None or bool(pd.api.types.is_scalar(value) and pd.isna(value))


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


def _seconds(value: Any) -> str:
    if _is_missing(value):
        return MISSING
    if value < 10:
        return f"{value:.2g} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = value / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
