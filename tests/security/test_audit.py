"""What `make audit` says of pip-audit's answer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FINE = {"name": "rich", "version": "15.0.0", "vulns": []}
UNKNOWN = {"name": "own", "skip_reason": "not found"}
BAD = {
    "name": "jinja2",
    "version": "3.1.2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.1.3"]}],
}


def answer(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_what_is_known_is_named_and_fails(audit: ModuleType) -> None:
    assert audit.summarise(answer(FINE, BAD)) == (
        [
            "audit: 2 of 2 packages checked, 1 known vulnerabilities",
            "jinja2 3.1.2: PYSEC-1, mended in 3.1.3",
        ],
        1,
    )


def test_nothing_known(audit: ModuleType) -> None:
    assert audit.summarise(answer(FINE, UNKNOWN)) == (
        ["audit: 1 of 2 packages checked, 0 known vulnerabilities; not checked: own"],
        0,
    )


def test_a_registry_without_a_list_is_not_taken_for_good_news(audit: ModuleType) -> None:
    # pip-audit itself then says: no known vulnerabilities found.
    lines, code = audit.summarise(answer(UNKNOWN, UNKNOWN))
    assert (lines[0][:18], code) == ("audit: NOT CHECKED", 0)


@pytest.mark.parametrize("output", ["", "not json", "{}", "[]"])
def test_no_answer_is_said(audit: ModuleType, output: str) -> None:
    assert audit.summarise(output) == (["audit: NOT CHECKED, pip-audit gave no answer"], 0)


@pytest.mark.parametrize("known", ["PYSEC-1", "CVE-1"])
def test_what_does_not_concern_us_is_left_out(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    monkeypatch.setattr(audit, "IGNORED", {known: "templates are our own"})
    assert audit.summarise(answer(BAD))[1] == 0
