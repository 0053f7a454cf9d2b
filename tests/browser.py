"""A real browser, where the machine has one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


def find_browser() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


def run_browser(browser: str, page: Path, *flags: str) -> str:
    """Open a page and return what the browser prints."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [browser, *QUIET, f"--user-data-dir={profile}", *flags, page.absolute().as_uri()],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
    return done.stdout


def screenshot(browser: str, page: Path, target: Path) -> Path:
    run_browser(browser, page, "--window-size=1100,3000", f"--screenshot={target}")
    return target
