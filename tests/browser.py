"""A real browser, where the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
)
PHONE_WIDTH = 390


class Opened(NamedTuple):
    """A page in a browser, and what happened since it was opened."""

    page: Page
    requests: list[str]
    """Addresses that were asked for, but for the page itself and what is written in it."""
    errors: list[str]
    """Errors and warnings of the console."""

    def rows(self) -> list[str]:
        """Return the texts of the rows of the ranking that are seen, in their order."""
        found = self.page.locator("#ranking-table tbody tr:visible").all_inner_texts()
        return [" ".join(text.split()) for text in found]

    def is_wider_than_its_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def faults(self) -> list[str]:
        """Return the serious and critical findings of axe, with the elements that have them."""
        from axe_playwright_python.sync_playwright import Axe

        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{item['id']}: {item['nodes'][0]['html'][:200]}"
            for item in found
            if item["impact"] in ("serious", "critical")
        ]


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Start a browser; skip the test where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    # Not 5 s: the machine may be busy with other tests.
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    path: Path,
    *,
    width: int = 1200,
    is_dark: bool = False,
    runs_scripts: bool = True,
) -> Iterator[Opened]:
    """Open a page from disk."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if is_dark else "light",
        java_script_enabled=runs_scripts,
        reduced_motion="reduce",
    )
    page = context.new_page()
    address = path.absolute().as_uri()
    found = Opened(page, [], [])
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:"))
            else found.requests.append(request.url)
        ),
    )
    page.on(
        "console",
        lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    try:
        page.goto(address)
        if runs_scripts and page.locator("#ranking-table").count():
            page.wait_for_selector("#ranking-filters:not([hidden])")
        yield found
    finally:
        context.close()
