"""`status --watch`: what is read, what is shown, and when it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.experiment.cells import CellResult
from benchmark.experiment.context import Context
from benchmark.stages.watching import View, Watcher
from benchmark.store.artefacts import Store
from benchmark.store.leases import Leases
from benchmark.store.processes import Process
from tests.cli.test_commands import write_experiment, write_images

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0


class CountingStore(Store):
    """Counts what is asked of the store, by the first part of the path."""

    def attempt(self, path: str, done: str, operation: Callable[[], Any]) -> Any:
        self.asked[path.partition("/")[0]] += 1
        return super().attempt(path, done, operation)

    @property
    def asked(self) -> Counter[str]:
        return self.__dict__.setdefault("_asked", Counter())


@pytest.fixture
def context(open_small: Callable[..., Context], tmp_path: Path) -> Context:
    found = open_small(heads=None, seeds=[0, 1, 2])
    found.store = CountingStore(str(tmp_path / "runs"))
    return found


def statuses(view: View) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in view.results:
        found.setdefault(item.cell.stage, []).append(item.status)
    return found


def test_only_what_has_begun_is_read_again(context: Context) -> None:
    watcher = Watcher(context)
    assert statuses(watcher.look())["tune"] == ["missing"] * 6
    context.patches.commit({})
    begun, failed, *_ = context.tune_cells()
    begun.artefact.write_bytes("part-0", b"x")
    context.fail(failed.artefact, "out of memory")
    view = watcher.look()
    assert statuses(view)["patches"] == ["complete"]
    assert statuses(view)["tune"] == ["missing", "failed", *["missing"] * 4]
    assert view.results[3].reason == "out of memory"

    context.store.asked.clear()
    assert watcher.look() == view
    # One listing of each stage that is not complete and of the leases; of the cells, one
    # listing of each of those that have begun, and the reason of the one that failed.
    assert context.store.asked == {
        **{"embed": 1, "tune": 1 + 2 + 1, "evaluate": 1, "report": 1, "leases": 1}
    }


def test_scores_of_a_part_of_the_grid_are_out_of_date_when_more_is_complete(
    context: Context,
) -> None:
    context.patches.commit({})
    context.embeddings(context.backbones[0]).commit({})
    first, *others = context.tune_cells()
    first.artefact.commit({})
    context.scores().commit({})
    context.report().commit({})
    watcher = Watcher(context)
    view = watcher.look()
    assert (statuses(view)["evaluate"], statuses(view)["report"]) == (["complete"], ["complete"])
    for cell in others:
        cell.artefact.commit({})
    view = watcher.look()
    assert statuses(view)["tune"] == ["complete"] * 6
    assert (statuses(view)["evaluate"], statuses(view)["report"]) == (["stale"], ["stale"])
    assert not view.is_over
    context.scores().commit({})
    view = watcher.look()
    assert (statuses(view)["evaluate"], view.is_over) == (["complete"], False)
    context.report().commit({})
    assert watcher.look().is_over


@pytest.fixture
def run(context: Context, tmp_path: Path) -> Iterator[Leases]:
    """The leases of another run of this experiment, elsewhere."""
    found = Leases(
        Store(str(tmp_path / "runs")),
        group=context.experiment.name,
        process=Process(host="elsewhere", place="another boot", pid=7, started="1"),
        beats_by_itself=False,
    )
    yield found
    found.close()


def test_what_a_living_run_computes_is_running_and_nothing_is_written(
    context: Context, run: Leases, tmp_path: Path
) -> None:
    clock = [0.0]
    watcher = Watcher(context)
    # By the watch of whoever looks, which no test should have to wait for.
    context.leases._watch.clock = lambda: clock[0]
    watcher.look()
    cell = context.tune_cells()[2]
    assert run.acquire_one(cell.artefact)
    for other in context.tune_cells():
        context.fail(other.artefact, "in an earlier run")
    before = sorted(path for path in tmp_path.rglob("*"))
    view = watcher.look()
    assert view.running == {cell.artefact.path: "process 7 on elsewhere"}
    assert [str(item) for item in view.counts()][2] == (
        "tune: 0 of 6 cells complete, 1 running, 5 failed"
    )
    assert view.is_run_alive and not view.is_over
    # Its heartbeat does not change for longer than its expiry.
    clock[0] = 2 * run.expiry_s
    view = watcher.look()
    assert (view.running, view.is_run_alive) == ({}, False)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_cell_that_completes_during_a_look_is_never_told_as_not_begun(
    context: Context, run: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(context)
    watcher.look()
    cell = context.tune_cells()[0]
    assert run.acquire_one(cell.artefact)
    cell.artefact.write_bytes("part-0", b"x")
    assert watcher.look().counts()[2].num_running == 1

    def complete() -> None:
        cell.artefact.commit({})
        run.release([cell.artefact])

    # Whatever a look reads first, the cell is complete and released before the rest.
    observe, refresh = context.leases.observe, watcher._refresh
    monkeypatch.setattr(context.leases, "observe", lambda cells: (observe(cells), complete())[0])
    monkeypatch.setattr(watcher, "_refresh", lambda last: (refresh(last), complete())[0])
    count = watcher.look().counts()[2]
    assert count.num_running + count.num_complete == 1


def test_it_is_over_when_all_is_complete_or_failed_and_nobody_tries_again(
    context: Context,
) -> None:
    cells = context.tune_cells()[:2]

    def view(*statuses: Any, **more: Any) -> View:
        pairs = zip(cells, statuses, strict=True)
        return View([CellResult(cell=cell, status=status) for cell, status in pairs], **more)

    assert view("complete", "complete", is_run_alive=True).is_over
    assert view("complete", "left out", is_run_alive=True).is_over
    (count,) = view("complete", "left out").counts()
    assert str(count) == "tune: 1 of 2 cells complete, 1 left out"
    assert view("complete", "failed").is_over
    assert not view("complete", "failed", is_run_alive=True).is_over
    assert not view("complete", "missing").is_over
    assert not view("complete", "stale").is_over
    assert [item.status for item in view("complete", "failed").failed] == ["failed"]
    running = {cells[1].artefact.path: "a run"}
    assert view("complete", "failed", running=running, is_run_alive=True).failed == []


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "toy.toml", write_images(tmp_path / "images"))


def command(experiment: Path, *more: str) -> list[str]:
    store = experiment.parent / "runs"
    words = ("status", str(experiment), "--watch", "--every", "0.1", "--store", str(store), *more)
    return [sys.executable, "-m", "benchmark", *words]


def test_a_terminal_shows_the_table_until_ctrl_c(experiment: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command(experiment), cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        seen = read_until(ours, "evaluate 0/1, report 0/1")
        # It repaints: the same line comes again.
        seen += read_until(ours, "evaluate 0/1, report 0/1")
        process.send_signal(signal.SIGINT)
        seen += read_until(ours, "the run goes on")
        assert process.wait(timeout=TIMEOUT_S) == 130
    finally:
        os.close(ours)
    assert re.search(r"tune +mean_color / majority / seed 1 +missing", seen)
    assert "more cells" not in seen
    assert "Traceback" not in seen


def read_until(descriptor: int, text: str) -> str:
    seen, deadline = "", time.monotonic() + TIMEOUT_S
    while text not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([descriptor], [], [], 0.5)[0]:
            seen += os.read(descriptor, 65536).decode(errors="replace")
    return seen


@pytest.mark.slow
def test_a_run_that_logs_json_is_watched_from_another_process_to_its_end(
    ray_session: None, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file is edited while it goes on, which changes the next run alone."""
    from benchmark.cli.commands import invoke

    runs, before = experiment.parent / "runs", experiment.read_text()
    settings = ("tune.num_trials=1", "evaluate.num_resamples=20", "embed.num_actors=1")
    few = [word for setting in settings for word in ("--set", setting)]
    edited = threading.Event()

    def edit() -> None:
        # Once the run has begun to write, and long before its end.
        while not list(runs.glob("patches/*/*")):
            time.sleep(0.01)
        experiment.write_text(before.replace("majority", "mlp").replace("patch_size = 16", "x = "))
        edited.set()

    watching = subprocess.Popen(
        command(experiment, "--json", *few),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told: list[str] = []
    lines = threading.Thread(target=lambda: told.extend(watching.stderr or ()))
    lines.start()
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not any(line.startswith("report: 0 of 1") for line in told):
            assert time.monotonic() < deadline and watching.poll() is None, told
            time.sleep(0.05)
        threading.Thread(target=edit, daemon=True).start()
        run = ["run", str(experiment), "--store", str(runs), *few]
        code = invoke([*run, "--log-format", "json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        lines.join(timeout=TIMEOUT_S)
        assert watching.wait(timeout=TIMEOUT_S) == 0
    finally:
        watching.kill()
    document = json.loads(watching.stdout.read() if watching.stdout else "")
    assert {cell["status"] for cell in document["cells"]} == {"complete"}
    assert len(document["cells"]) == 1 + 2 + 8 + 1 + 1
    # A line for each change, each with a number that has not been told.
    assert len(told) == len(set(told))
    assert [line for line in told if line.startswith("tune")][-1] == (
        "tune: 8 of 8 cells complete\n"
    )
    check_log(captured.err)
    assert captured.out.splitlines()[-1].endswith("index.html")
    table = captured.out.split("Where the time went")[1]
    assert re.findall(r"^(\w+) +\d", table, re.M)[:5] == [
        *("patches", "embed", "tune", "evaluate", "report")
    ]
    assert "is the bottleneck" in table

    assert edited.is_set()
    methods = {cell["method"] for cell in document["cells"] if cell["stage"] == "tune"}
    assert methods == {"knn", "majority"}
    assert captured.err.count(f"{experiment} has changed since this run began") == 1
    (copy,) = (runs / "experiments").glob("*.toml")
    # As it was when the run began: settings, and the file with what overrode it as comments.
    given = [*before.rstrip("\n").splitlines(), *(f"--set {item}" for item in settings)]
    assert copy.read_text().endswith("\n".join(f"# {line}".rstrip() for line in given) + "\n")
    experiment.write_text(before)
    assert invoke([*run, "--json"]) == 0
    assert "has changed" not in capsys.readouterr().err


def check_log(text: str) -> None:
    """Every line of stderr is one object, and tells each cell's begin and end."""
    found = [json.loads(line) for line in text.splitlines()]
    keys = ["time", "level", "event", "stage", "cell", "message", "numbers"]
    assert all(list(item) == keys for item in found)
    cells = {
        event: [item["cell"] for item in found if (item["stage"], item["event"]) == ("tune", event)]
        for event in ("cell_started", "cell_done")
    }
    wanted = sorted(
        f"{backbone} / {head} / seed {seed}"
        for backbone in ("random", "mean_color")
        for head in ("knn", "majority")
        for seed in (0, 1)
    )
    assert sorted(cells["cell_started"]) == sorted(cells["cell_done"]) == wanted
    ended = {item["stage"]: item["numbers"] for item in found if item["event"] == "stage_ended"}
    assert set(ended) >= {"patches/find", "patches/read", "embed", "tune", "evaluate", "report"}
    assert (ended["embed"]["num_items"], ended["embed"]["num_done"]) == (2 * 12, 2)
    assert [item["time"] for item in found] == sorted(item["time"] for item in found)
