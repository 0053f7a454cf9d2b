"""``du`` and ``clean``: what they print, and that nothing is deleted which is in use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import upkeep
from benchmark.cli.commands import invoke
from benchmark.cli.upkeep import size_text
from benchmark.store.artefacts import Store
from benchmark.store.heartbeat import Heartbeat, Owner
from benchmark.store.processes import Process
from tests.experiment.test_upkeep import load, pretend
from tests.scenes import SMALLEST
from tests.tiny_models import write_tiny

Texts = pytest.CaptureFixture[str]

PRINT = "0123456789abcdef"
ELSEWHERE = Process(host="elsewhere", place="another boot", pid=7, started="1")


@pytest.fixture
def store(tmp_path: Path, scenes: Path) -> Store:
    """A store with an experiment, older scores of it, and artefacts that nothing uses."""
    store = Store(str(tmp_path / "runs"))
    pretend(load(scenes, store))
    for stage, name in (("evaluate", "small"), ("tune", "a-b-knn-seed0")):
        artefact = store.artefact(stage, name, PRINT)
        artefact.write_bytes("part-000000.parquet", b"x" * 1_234_000)
        artefact.write_json("_manifest.json", {})
    return store


def files(store: Store) -> dict[str, bytes]:
    paths = Path(store.root).rglob("*")
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def document(capsys: Texts, *command: str) -> Any:
    assert invoke([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (103_000_000, "103 MB"),
        (4_200_000_000, "4.2 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_are_decimal(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text


def test_du_shows_stages_experiments_and_artefacts(store: Store, capsys: Texts) -> None:
    before = files(store)
    assert invoke(["du", store.root]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^tune +2 +1\.2 MB +1\.2 MB", out, re.M)
    assert re.search(r"^patches +1 +\d+ B +0 B", out, re.M)
    assert re.search(rf"^tune/a-b-knn-seed0-{PRINT} +1\.2 MB +none", out, re.M)
    assert re.search(r"^small-[0-9a-f]{16} +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d +", out, re.M)
    assert re.search(rf"^2\.5 MB in {store.root}, 2\.5 MB of it used by no experiment$", out, re.M)
    found = document(capsys, "du", store.root)
    assert found["unused_bytes"] == 2 * 1_234_003
    assert found["bytes"] == sum(row["bytes"] for row in found["artefacts"])
    assert found["stages"].keys() == {"patches", "embed", "tune", "evaluate", "report"}
    (experiment,) = found["experiments"]
    assert experiment["bytes"] == experiment["bytes_alone"] == found["bytes"] - 2 * 1_234_003
    assert files(store) == before


def test_the_largest_are_shown_unless_all_are_asked_for(
    store: Store, capsys: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "NUM_SHOWN", 1)
    for command, left in (("du", 6), ("clean", 1)):
        assert invoke([command, store.root]) == 0
        assert f"and {left} smaller: --all shows them" in capsys.readouterr().out
        assert invoke([command, store.root, "--all"]) == 0
        assert "smaller" not in capsys.readouterr().out


def test_clean_deletes_with_yes_alone(store: Store, capsys: Texts) -> None:
    before = files(store)
    assert invoke(["clean", store.root]) == 0
    out = capsys.readouterr().out
    assert f"2.5 MB could be deleted in {store.root}; nothing was: add --yes" in out
    assert re.search(rf"^evaluate/small-{PRINT} +1\.2 MB +older scores of 'small'", out, re.M)
    assert not any(item["deleted"] for item in document(capsys, "clean", store.root)["items"])
    assert files(store) == before
    assert invoke(["clean", store.root, "--yes"]) == 0
    assert f"deleted 2.5 MB in {store.root}" in capsys.readouterr().out
    gone = before.keys() - files(store).keys()
    assert len(gone) == 4
    assert all(PRINT in path for path in gone)
    assert document(capsys, "clean", store.root, "--yes")["items"] == []
    assert invoke(["clean", store.root]) == 0
    assert capsys.readouterr().out == f"nothing to delete in {store.root}\n"


def test_an_experiment_can_be_deleted_with_all_that_it_alone_uses(
    store: Store, scenes: Path, capsys: Texts
) -> None:
    time.sleep(1.1)  # Runs are told apart by seconds.
    label, folders = pretend(load(scenes, store, "seeds=[1]"))
    first = next(Path(store.root, "experiments").glob("small-*.toml"))
    assert document(capsys, "clean", store.root, "--latest", "--yes")["bytes"] > 2_468_000
    assert [path.stem for path in Path(store.root, "experiments").glob("*.toml")] == [label]
    assert {f"{path.parent.name}/{path.name}" for path in Path(store.root).glob("*/*-*")} == {
        *folders,
        f"experiments/{label}.toml",
        f"experiments/{label}.json",
    }
    del first
    assert invoke(["clean", store.root, "--forget", label, "--yes"]) == 0
    assert files(store) == {}
    assert invoke(["clean", store.root, "--forget", "x"]) == 2
    assert "is no store" in capsys.readouterr().err


def beat(store: Store, process: Process, expiry_s: float = 1.0) -> Heartbeat:
    return Heartbeat(store, Owner("small", process, expiry_s), by_itself=False)


def test_nothing_is_deleted_while_a_run_is_active(store: Store, capsys: Texts) -> None:
    heartbeat = beat(store, Process.this())
    before = files(store)
    assert invoke(["clean", store.root]) == 0
    assert "uses the store: nothing is deleted until it ends" in capsys.readouterr().out
    assert invoke(["clean", store.root, "--yes"]) == 2
    assert re.search(r"clean: process \d+ on \S+ uses the store", capsys.readouterr().err)
    assert files(store) == before
    heartbeat.stop()
    assert invoke(["clean", store.root, "--yes"]) == 0


def test_a_run_elsewhere_is_active_while_its_heart_beats(
    store: Store, capsys: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = beat(store, ELSEWHERE, expiry_s=60.0)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        heartbeat.beat()

    monkeypatch.setattr(upkeep.time, "sleep", sleep)
    assert invoke(["clean", store.root, "--yes"]) == 2
    assert "process 7 on elsewhere uses the store" in capsys.readouterr().err
    assert waited == [7.5]


def test_a_dead_run_elsewhere_is_no_obstacle(store: Store, capsys: Texts) -> None:
    beat(store, ELSEWHERE)
    assert invoke(["clean", store.root, "--yes"]) == 0
    captured = capsys.readouterr()
    assert "waiting to see whether process 7 on elsewhere still runs" in captured.err
    assert "deleted 2.5 MB" in captured.out


def test_a_run_that_began_meanwhile_stops_it(
    store: Store, scenes: Path, capsys: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = upkeep._running

    def begin(*given: Any, **named: Any) -> Any:
        pretend(load(scenes, store, "seeds=[5]"))
        return running(*given, **named)

    monkeypatch.setattr(upkeep, "_running", begin)
    before = files(store)
    assert invoke(["clean", store.root, "--yes"]) == 1
    assert "a run has begun in" in capsys.readouterr().err
    assert before.items() <= files(store).items()


def test_what_is_kept_for_an_unknown_experiment_is_said(store: Store, capsys: Texts) -> None:
    store.write("experiments/old-1.toml", b"name = 'old'")
    assert invoke(["clean", store.root]) == 0
    out = capsys.readouterr().out
    assert "kept: all that may be of old-1, which cannot be resolved: " in out
    assert invoke(["du", store.root]) == 0
    assert "old-1 cannot be resolved (" in capsys.readouterr().out
    assert document(capsys, "clean", store.root)["unknown"].keys() == {"old-1"}


@pytest.mark.parametrize("command", ["du", "clean"])
def test_what_is_no_store_is_one_line(tmp_path: Path, capsys: Texts, command: str) -> None:
    assert invoke([command, str(tmp_path / "none")]) == 2
    assert "is no store" in capsys.readouterr().err
    assert invoke([command, "s4://x"]) == 2
    assert "unsupported scheme" in capsys.readouterr().err


@pytest.mark.slow
def test_a_kept_experiment_runs_from_any_folder_and_computes_nothing(
    ray_session: None, tmp_path: Path, scenes: Path, capsys: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    write_tiny(home / "nets" / "tiny", "vit")
    (home / "data").symlink_to(scenes)
    # Workers of this Ray began in another folder: they need the whole path.
    text = SMALLEST.format(root=home / "data").replace("mean_color", "hf:nets/tiny")
    (home / "small.toml").write_text(text)
    monkeypatch.chdir(home)
    first = document(capsys, "run", "small.toml", "--set", "seeds=[3]")
    assert {item["status"] for item in first["cells"]} == {"complete"}
    found = document(capsys, "clean", "runs")
    assert found["items"] == []
    (kept,) = Path("runs/experiments").glob("*.toml")
    before = files(Store("runs"))
    monkeypatch.chdir("/")
    again = document(capsys, "run", str(home / kept))
    assert (again["usage"], again["report"]) == ([], str(home / first["report"]))
    after = files(Store(str(home / "runs")))
    assert after.keys() == {str(home / path) for path in before}
    # The weights elsewhere, and the data, too: of the same content, so of the same results.
    (home / "nets").rename(home / "moved")
    (home / "data").rename(home / "other")
    settings = (
        f'backbone."hf:nets/tiny".model="hf:{home}/moved/tiny"',
        f"dataset.root={home}/other",
    )
    options = [part for item in settings for part in ("--set", item)]
    moved = document(capsys, "run", str(home / kept), *options)
    assert (moved["usage"], moved["report"]) == ([], again["report"])


def test_help_of_both_is_quick(tmp_path: Path) -> None:
    """They import nothing heavy before they look."""
    code = (
        "import sys, benchmark.cli.commands as c; c.invoke(['clean', '--help']); "
        "print([name for name in ('torch', 'ray', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
