"""The documentation site in a real browser: what Sphinx makes of a few of its pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import PHONE_WIDTH, a_browser, opened

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("index", "docs/PAGE", "docs/SETTINGS")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages that are looked at; links to the others lead nowhere here."""
    out = tmp_path_factory.mktemp("site")
    files = ["README.md", *(f"{page}.md" for page in PAGES[1:])]
    command = [sys.executable, "-m", "sphinx", "--quiet", "-d", str(out / "read")]
    command += ["-D", f"include_patterns={','.join(files)}", str(ROOT), str(out / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_axe_finds_no_serious_fault_and_a_phone_does_not_scroll_sideways(site: Path) -> None:
    with a_browser() as browser:
        # A look of axe at a page takes 2 CPU seconds.
        for page, is_dark in zip(PAGES, (False, True, False), strict=True):
            with opened(browser, site / f"{page}.html", is_dark=is_dark) as shown:
                assert shown.faults() == [], page
        for page in PAGES:
            with opened(browser, site / f"{page}.html", width=PHONE_WIDTH) as shown:
                assert not shown.is_wider_than_its_window(), page
                if page == "docs/PAGE":
                    assert shown.faults() == []
