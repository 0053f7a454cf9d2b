"""The library of sortable tables, DataTables, from the installed package ``itables``.

``itables`` ships DataTables, its extensions and jQuery as one module of JavaScript whose last
statement exports them. On the page the module is a part of the page: nothing is loaded.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from typing import NamedTuple

import markupsafe

_EXPORTS = re.compile(r"export\{(?P<names>[^{}]*)\};?(?=\s*(/\*|$))")
_DEFAULT = re.compile(r"(?P<name>[\w$]+) as default")
_ESCAPES = (("<!--", "\\x3C!--"), ("<script", "\\x3Cscript"), ("</script", "\\x3C/script"))
"""How a script is written in a page: HTML standard, "Restrictions for contents of script"."""


class Library(NamedTuple):
    """DataTables as parts of a page."""

    script: markupsafe.Markup
    """Statements of a module."""
    name: str
    """The variable of that module that holds the class ``DataTable``."""
    style: markupsafe.Markup
    license: str
    """Of the package; the script ends with the notices of the libraries in it."""


def escape_script(script: str) -> str:
    """Return a script as it is written in a page."""
    for text, escaped in _ESCAPES:
        script = script.replace(text, escaped)
    return script


@cache
def load_library() -> Library:
    """Return the library.

    Raises:
        ValueError: the installed version has another form.
    """
    folder = files("itables") / "html"
    script = (folder / "dt_bundle.js").read_text("utf-8")
    style = (folder / "dt_bundle.css").read_text("utf-8")
    package = distribution("itables")
    exports = _EXPORTS.search(script)
    found = exports and _DEFAULT.search(exports["names"])
    if not exports or not found or "</style" in style:
        raise ValueError(
            f"itables {package.version}: its DataTables have an unknown form; install another "
            "version (2.9.1 is known)"
        )
    script = script[: exports.start()] + script[exports.end() :]
    return Library(
        markupsafe.Markup(escape_script(script)),
        found["name"],
        markupsafe.Markup(style),
        package.read_text("licenses/LICENSE") or "",
    )
