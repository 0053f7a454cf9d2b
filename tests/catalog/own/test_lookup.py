"""Entries of Python and of installed packages are found by their plain names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import benchmark as bm
from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.heads import HEADS
from benchmark.catalog.own import lookup
from benchmark.catalog.own.lookup import find_entry, own_targets
from benchmark.catalog.own.source import search_folders
from benchmark.cli.listing import catalog_rows
from benchmark.errors import UsageError
from tests.strangers import FILES, write


def entry(name: str = "bayes", build: Any = None) -> bm.Head:
    def build_bayes(params: Any, seed: int) -> Any:
        from sklearn.naive_bayes import GaussianNB

        return GaussianNB()

    return bm.Head(
        name=name,
        description="",
        suggest=lambda trial: {},
        build=build or build_bayes,
        is_searched=False,
    )


def test_a_registered_entry_is_found_and_can_be_replaced(own_folder: Path) -> None:
    bm.register(entry())
    first = find_entry(HEADS, "bayes")
    assert type(first.build({}, 0)).__name__ == "GaussianNB"
    assert first.own is not None
    bm.register(entry(build=lambda params, seed: None))
    assert find_entry(HEADS, "bayes").own != first.own
    with pytest.raises(UsageError, match=r"unknown head 'byes'\. Did you mean 'bayes'\?"):
        find_entry(HEADS, "byes")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: entry("knn"), r"^register: there is a head 'knn' already; take another name$"),
        (lambda: entry("a:b"), r"the name 'a:b' is empty, or holds ':'"),
        (lambda: entry(""), r"the name '' is empty"),
        (
            lambda: entry,
            r"a function is no bm\.Backbone, bm\.Head, bm\.Metric or bm\.Dataset",
        ),
    ],
)
def test_what_cannot_be_registered_is_one_line(own_folder: Path, make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bm.register(make())


def test_a_registered_entry_cannot_be_sent_to_a_job(own_folder: Path) -> None:
    bm.register(entry())
    with pytest.raises(UsageError, match=r"^submit: head 'bayes' was registered in this process"):
        own_targets([("head", "bayes")], search_folders())


def test_an_entry_point_is_listed_and_found_without_being_imported(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(own_folder, FILES)

    def entry_points(group: str) -> list[EntryPoint]:
        found = {"benchmark.backbones": ("mynet", "stranger.nets:build")}
        return [EntryPoint(*found[group], group)] if group in found else []

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    lookup.plugins.cache_clear()
    row = catalog_rows("backbones")[-1]
    assert (row["name"], row["source"]) == ("mynet", "stranger.nets:build of -")
    assert "stranger" not in sys.modules
    found = find_backbone("mynet")
    assert (found.name, found.image_size) == ("mynet", 32)
    with pytest.raises(UsageError, match=r"unknown backbone 'mynett'\. Did you mean 'mynet'\?"):
        find_backbone("mynett")


def test_listing_imports_nothing_of_own_code() -> None:
    code = (
        "import sys; from benchmark.cli.listing import catalog_rows\n"
        "for name in ('datasets', 'backbones', 'heads', 'metrics'): catalog_rows(name)\n"
        "own = {'benchmark.catalog.own.making', 'benchmark.catalog.own.loading'}\n"
        "print(sorted((own | {'numpy', 'torch', 'inspect'}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'" not in done.stdout.replace("'inspect'", "")


def test_functions_of_a_module_are_registered_by_their_path(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "def build(params, seed):\n    return 1"})
    sys.path.append(str(own_folder))
    import mine  # type: ignore[import-not-found]

    bm.register(entry(build=mine.build))
    found = find_entry(HEADS, "bayes")
    assert found.own is not None
    assert found.own["build"]["name"] == "mine:build"
    before = found.own["build"]["code"]
    write(own_folder, {"mine.py": "def build(params, seed):\n    return 2"})
    bm.register(entry(build=mine.build))
    again = find_entry(HEADS, "bayes")
    assert again.own is not None
    assert again.own["build"]["code"] != before
    assert again.build({}, 0) == 2
