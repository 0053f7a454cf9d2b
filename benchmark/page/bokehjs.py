"""The library of maps with points to choose, BokehJS, from the installed package ``bokeh``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import markupsafe

from benchmark.page.datatables import escape_script


class Bokeh(NamedTuple):
    """BokehJS as parts of a page."""

    script: markupsafe.Markup
    """A classic script, which defines ``Bokeh``."""
    license: str


@cache
def load_bokeh() -> Bokeh:
    """Return the library; the package is not imported, which would take a second."""
    package = distribution("bokeh")
    path = Path(str(package.locate_file("bokeh/server/static/js/bokeh.min.js")))
    return Bokeh(
        markupsafe.Markup(escape_script(path.read_text("utf-8"))),
        package.read_text("licenses/LICENSE.txt") or "",
    )
