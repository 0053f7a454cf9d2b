"""Figures and tables of a report as files for papers: PDF, SVG and PNG; Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UsageError, one_line, tidy
from benchmark.experiment.context import Context
from benchmark.page.html import Confusion, ReportData, Table
from benchmark.specs import slug_of
from benchmark.stages.report.content import collect
from benchmark.stages.report.results import Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
DPI = 300
"""Of PNG files, and of pictures of patches within PDF and SVG files."""
STYLE: Any = {
    # TrueType in PDF files, which journals ask for, and outlines in SVG files, which need no font.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    # The same figure gives the same bytes.
    "svg.hashsalt": "benchmark",
}
UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {},
}
MAX_STEM = 60
"""Characters of a title in a file name."""
MAX_TEXT = 1_000
"""Characters of a cell."""
MISSING = "\N{EN DASH}"

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def publish(context: Context, folder: Path) -> list[Path]:
    """Write every figure and table of an experiment's report; return the files in order.

    Args:
        context: of an experiment whose scores are complete.
        folder: created if missing; files of the same names are replaced.

    Raises:
        UsageError: the folder cannot be written.
        CellError: a file of the store is missing or damaged.
    """
    results = Results(context)
    results.figures = []
    data = collect(results)
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (title, figure) in enumerate(results.figures, start=1):
            written += _write_figure(figure, folder / _stem("figure", number, title))
        for number, table in enumerate(_tables(data, results), start=1):
            written += _write_table(table, folder / _stem("table", number, table.title))
    except OSError as error:
        raise UsageError(f"figures: '{folder}' cannot be written: {one_line(error)}") from None
    return written


def _stem(kind: str, number: int, title: str) -> str:
    return f"{kind}-{number:02d}-{slug_of(title)[:MAX_STEM].strip('-').lower()}"


def _write_figure(figure: Figure, stem: Path) -> Iterator[Path]:
    import matplotlib as mpl

    for form in FORMATS:
        path = stem.with_name(f"{stem.name}.{form}")
        with mpl.rc_context(STYLE):
            figure.savefig(path, dpi=DPI, facecolor="white", metadata=UNDATED[form])
        yield path


def _tables(data: ReportData, results: Results) -> Iterator[Table]:
    """Yield the ranking, then the tables of the page in its order, with all matrices."""
    columns = ["rank", "backbone", "method", "value", "ci_low", "ci_high", "num_seeds", "verdict"]
    yield Table.from_frame(results.ranking[columns], title="Ranking")
    for field in fields(data):
        value = getattr(data, field.name)
        for item in value if isinstance(value, tuple) else ():
            if isinstance(item, Confusion):
                yield _matrix(item)
            elif isinstance(item, Table) and item.rows:
                yield item


def _matrix(item: Confusion) -> Table:
    """Return a confusion matrix as a table: rows are true classes, columns predicted ones."""
    rows = tuple((name, *counts) for name, counts in zip(item.classes, item.counts, strict=True))
    return Table(title=f"Confusion of {item.title}", columns=("true", *item.classes), rows=rows)


def _write_table(table: Table, stem: Path) -> Iterator[Path]:
    frame = _frame(table)
    for ending, text in (
        ("md", to_markdown(frame, title=table.title, decimals=table.decimals)),
        ("tex", to_latex(frame, title=table.title, decimals=table.decimals, label=stem.name)),
        ("csv", frame.to_csv(index=False, lineterminator="\n")),
    ):
        path = stem.with_name(f"{stem.name}.{ending}")
        path.write_text(text, encoding="utf-8")
        yield path


def _frame(table: Table) -> pd.DataFrame:
    import pandas as pd

    # Columns of a mixed type stay as they are: a count must not become a float.
    return pd.DataFrame(
        [list(row) for row in table.rows], columns=list(table.columns), dtype=object
    )


def to_markdown(frame: pd.DataFrame, *, title: str, decimals: int) -> str:
    """Return a table as Markdown with pipes; its texts show as they are, whatever they hold."""
    header, *rows = [list(map(_escape_markdown, row)) for row in _texts(frame, decimals)]
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{_escape_markdown(_line(title))}**\n\n{body}\n"


def to_latex(frame: pd.DataFrame, *, title: str, decimals: int, label: str) -> str:
    """Return a table as LaTeX with the rules of booktabs; all of its texts are escaped.

    Letters outside the Latin alphabet need XeLaTeX or LuaLaTeX, and a font that has them.
    """
    import pandas as pd

    header, *rows = _texts(frame, decimals)
    shown = pd.DataFrame(rows, columns=range(len(header)))
    # Columns of one name are no error here: the style knows them by their number.
    styler = shown.style.hide(axis="index").format(escape="latex")
    names = dict(enumerate(map(_escape_latex, header)))
    styler = styler.format_index(names.__getitem__, axis=1)
    text: str = styler.to_latex(
        hrules=True,
        caption=_escape_latex(_line(title)),
        label=f"tab:{label}",
        position="htbp",
        position_float="centering",
        column_format="".join("r" if _is_numeric(frame.iloc[:, i]) else "l" for i in names),
    )
    return f"% \\usepackage{{booktabs}}\n{text}"


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _is_numeric(column: pd.Series) -> bool:
    return all(isinstance(value, int | float) for value in column.dropna())


def _texts(frame: pd.DataFrame, decimals: int) -> list[list[str]]:
    """Return the header and the rows of a table as text, each of one line."""
    rows = [[_text(value, decimals) for value in row] for row in frame.itertuples(index=False)]
    return [[_line(str(name)) for name in frame.columns], *rows]


def _text(value: Any, decimals: int) -> str:
    import pandas as pd

    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return MISSING
    if isinstance(value, float):
        return f"{value:.{decimals}f}"
    return _line(str(value))


def _line(text: str) -> str:
    return tidy(text, MAX_TEXT)
