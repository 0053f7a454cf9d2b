"""Short HTML of values, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

FRAME_HEIGHT_PX = 800


def html_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    notes: Iterable[str] = (),
) -> str:
    """Return a table with its title above and its notes below; every text is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows
    )
    heading = f"<p><b>{escape(title)}</b></p>" if title else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return heading + table + "".join(f"<p>{escape(text)}</p>" for text in notes)


def html_link(path: str) -> str:
    """Return a path as text; a link where a notebook's server can follow it.

    Jupyter serves the files below its own folder, and browsers refuse other files.
    """
    target = path if path.startswith(("http://", "https://")) else ""
    if "://" not in path and Path(path).absolute().is_relative_to(Path.cwd()):
        target = quote(str(Path(path).absolute().relative_to(Path.cwd())))
    text = f"<code>{escape(path)}</code>"
    return f'<a href="{escape(target)}" target="_blank">{text}</a>' if target else text


def html_page(page: str) -> str:
    """Return a frame that shows a whole HTML page; scripts do not run in it."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-popups" '
        f'style="width: 100%; height: {FRAME_HEIGHT_PX}px; border: 0"></iframe>'
    )
