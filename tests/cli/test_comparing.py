"""The command ``compare``: what it prints, and what it answers to bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.cli.commands import invoke
from benchmark.experiment.context import Context
from tests.comparing.toy_runs import named, write_run

Texts = pytest.CaptureFixture[str]


@pytest.fixture
def stores(open_small: Callable[..., Context], tmp_path: Path) -> list[str]:
    """Return two stores with a run each, the second with a worse ``knn``."""
    found = []
    for name, accuracy in (("a", 0.9), ("b", 0.5)):
        context = open_small(store=tmp_path / name, heads=named("knn", "mlp"))
        write_run(context, {"knn": accuracy, "mlp": 0.6})
        found.append(context.store.uri)
    return found


def test_the_table_and_the_document_agree(stores: list[str], capsys: Texts) -> None:
    assert invoke(["compare", *stores]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Balanced accuracy on the shared test patches, B (small) minus A (small)")
    assert invoke(["compare", *stores, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    knn = next(row for row in found["rows"] if row["kind"] == "method" and row["method_a"] == "knn")
    points = re.escape(f"{100 * knn['difference']:+.1f}")
    assert re.search(r"^leaders: +mean_color / knn → mean_color / mlp .* worse *$", out, re.M)
    assert re.search(rf"^mean_color +knn .* {points} .* worse *$", out, re.M)
    assert f"{found['patches']['shared']} test patches are in both runs" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "'nowhere' holds no complete scores; give the folder or URI of a store"),
        ("nowhere.toml", "nowhere.toml: no such experiment file"),
        ("", "is empty; write a path"),
        ("ftp://host/x", "store 'ftp://host/x': "),
        ("x/evaluate/small-0123456789abcdef", "there are no complete scores in this folder"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(
    given: str,
    message: str,
    stores: list[str],
    capsys: Texts,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for pair in ([given, stores[0]], [stores[0], given]):
        assert invoke(["compare", *pair]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""


def test_scores_of_other_versions_are_refused(stores: list[str], capsys: Texts) -> None:
    (path,) = Path(stores[1]).glob("evaluate/*/_manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    manifest["inputs"]["version"] = 99
    path.write_text(json.dumps(manifest))
    assert invoke(["compare", *stores]) == 1
    assert "its scores have version 99, which is newer than this" in capsys.readouterr().err


def test_the_board_is_printed_and_grows(stores: list[str], capsys: Texts, tmp_path: Path) -> None:
    # The runs may have ended in the same second.
    (document,) = Path(stores[1]).glob("evaluate/*/_manifest.json")
    manifest = json.loads(document.read_text())
    del manifest["seal"]
    manifest["provenance"]["written"] = "2030-01-01T00:00:00+00:00"
    document.write_text(json.dumps(manifest))
    path = str(tmp_path / "board.parquet")
    assert invoke(["leaderboard", stores[0], "--out", path]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^1 +mean_color +knn \(floor\) +0\.\d{3} ", out, re.M)
    assert out.endswith(f"2 rows added\n{path}\n")
    assert invoke(["leaderboard", *stores, "--out", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["added"], found["path"], len(found["rows"])) == (2, path, 4)
    assert [row["rank"] for row in found["rows"]] == [1, 2, 2, 4]
    assert invoke(["leaderboard", "--out", path]) == 0
    assert "0 rows added" in capsys.readouterr().out
