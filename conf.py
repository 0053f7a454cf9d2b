"""Build the documentation site from README, docs/ and docstrings: ``make docs``.

Sphinx reads the same Markdown files as a reader of the repository does, in their places, so that
links work in both. Cost: 7 CPU seconds, and 50 more for the tutorial, which is run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent

PARTS = {
    "Begin": ["first_steps", "SETTINGS", "API"],
    "Data": ["IMAGES", "LABELS", "NAMED_DATA", "RASTERS", "REMOTE", "DATA_CARD"],
    "Backbones": ["LAYERS", "DERIVED", "PRODUCTS", "MODES", "OWN_CODE"],
    "Method": ["PROTOCOLS", "STATISTICS"],
    "Results": ["PAGE", "RESULTS", "TRACKING", "MAPS", "EMBED_SCENES"],
    "Operation": ["PERFORMANCE", "CLUSTERS", "STORE", "UPKEEP", "/SECURITY"],
    "Development": ["/CONTRIBUTING", "/CHANGELOG"],
}
"""The pages of each part of the navigation; a file of docs/ that is in none fails the build."""

project = "Backbone benchmark"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/*.ipynb"]
# Folders that hold no page are not walked through.
exclude_patterns = [item.name for item in ROOT.iterdir() if item.is_dir() and item.name != "docs"]

# Anchors of headings as on the repository's web pages.
myst_heading_anchors = 4
# Fences of CSV, of which the highlighter knows nothing.
suppress_warnings = ["misc.highlighting_failure"]
# In docs/, with what its first run left there.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True

# As a paragraph: a colon in its first line does not end a type.
napoleon_custom_sections = ["Returns"]
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = project
html_static_path = ["docs/site"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False


def _add_contents(_: Sphinx, name: str, source: list[str]) -> None:
    """Add the navigation to the README, of which no other reader needs it."""
    if name == root_doc:
        for caption, pages in PARTS.items():
            listed = "\n".join(page if page[0] == "/" else f"docs/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def _make_accessible(
    _: Sphinx, name: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Give headings of the navigation a level, and what scrolls sideways a stop of the Tab key."""
    del name, template, doctree
    for key, found, better in (
        ("furo_navigation_tree", 'role="heading"', 'role="heading" aria-level="2"'),
        ("body", "<pre>", '<pre tabindex="0">'),
        ("body", '<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ):
        context[key] = context.get(key, "").replace(found, better)


def _finish(app: Sphinx, error: Exception | None) -> None:
    """Name the first page as servers ask for it, and put the report of the tutorial beside it."""
    out = Path(app.outdir)
    if error is None and (out / "README.html").is_file():
        shutil.copy(out / "README.html", out / "index.html")
        reports = "docs/first_steps/runs/report"
        if (ROOT / reports).is_dir():
            shutil.copytree(ROOT / reports, out / reports, dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Connect what this site adds to Sphinx."""
    app.connect("source-read", _add_contents)
    # After furo, which makes the tree of the navigation.
    app.connect("html-page-context", _make_accessible, priority=900)
    app.connect("build-finished", _finish)
