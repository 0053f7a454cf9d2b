"""The report as one self-contained HTML page: plain values in, text out, no files and no network.

``render_report`` fills ``templates/report.html.j2``; everything that it inserts is escaped.
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

Section = Literal["ranking", "finetune", "classes", "confusion", "data", "embeddings", "cost"]

SECTIONS: tuple[Section, ...] = get_args(Section)

MISSING = "\N{EN DASH}"
"""What stands for a value that is not there."""


@dataclass(frozen=True, kw_only=True)
class RankingRow:
    """One cell of the grid, its seeds taken together.

    Attributes:
        rank: 1 is best.
        value: mean of the headline metric over the seeds.
        ci_low: lower end of the interval over resamples of the split; None or NaN: unknown.
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
    seconds: float | None = None
    seed_values: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it is shown: floats get three decimals unless ``decimals`` says otherwise.

    The first ``num_headers`` columns name the row. None and NaN become a dash.
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
    """A figure: PNG bytes (``plots.to_png``), and the section that it stands in.

    ``alt`` says what a reader who cannot see it should know; the title serves where it is empty.
    """

    section: Section
    title: str
    png: bytes
    caption: str = ""
    alt: str = ""

    @property
    def url(self) -> str:
        """Return the picture as a ``data:`` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What fine-tuning a backbone brings, e.g. ``fine-tuning gains 4.1 points [2.0, 6.3]``.

    ``head`` is that of the frozen side; ``sentence`` goes on from ``With <backbone>,`` and has
    no full stop.
    """

    backbone: str
    head: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class ProblemRow:
    """A cell without a result, and why."""

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
        is_synthetic: whether the pictures were made by a program; the page says so at the top.
        headline: the answer in a sentence or two, e.g. of ``headline.write_headline``.
        split: the split of the ranking.
        metric: name of the headline metric.
        confidence: of the intervals, e.g. 0.95.
        interval_reason: where the intervals come from, e.g. ``Resampling.reason``.
        ranking: best first.
        absent_classes: classes without a patch in ``split``.
        notes: warnings, shown at the top.
        metrics: every metric of every cell, and any further table of that section, e.g. the
            paired differences.
        verdicts: frozen or fine-tuned, one per backbone.
        comparisons: tables of fine-tuned against frozen.
        recalls: recall per class.
        confusions: one matrix per cell.
        class_counts: patches per class, split and region.
        backbones: tables of what each backbone is and was fed.
        timings: tables of durations and throughput.
        usage: tables of how long the stages took and how busy they were.
        usage_notes: sentences about them, that of the stage that limits the run first.
        repairs: tables of what was lost and computed again.
        problems: failed and missing cells.
        provenance: what identifies the run, in the order given.
        pictures: figures; each goes into its section.
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
    verdicts: tuple[Verdict, ...] = ()
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
    """Return the page as HTML text (UTF-8), with everything that ``data`` holds escaped.

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
        "ranking": True,
        "finetune": bool(data.verdicts or data.comparisons or by_section["finetune"]),
        "classes": bool(data.recalls or by_section["classes"]),
        "confusion": bool(data.confusions or by_section["confusion"]),
        "data": bool(data.class_counts or by_section["data"]),
        "embeddings": bool(by_section["embeddings"]),
        "cost": bool(data.timings or by_section["cost"]),
        "problems": True,
        "provenance": bool(data.provenance),
    }
    return _template().render(data=data, pictures=by_section, present=present)


@cache
def _template() -> jinja2.Template:
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
    return environment.get_template("report.html.j2")


def _breakable(text: str) -> markupsafe.Markup:
    """Let a narrow column break a name at its underscores, not in the middle of a word."""
    return markupsafe.Markup(markupsafe.escape(text).replace("_", markupsafe.Markup("_<wbr>")))


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
