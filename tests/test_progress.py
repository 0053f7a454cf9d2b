"""Progress as bars, lines and JSON: correct counts and whole lines from many threads."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from benchmark.bars import LiveProgress, NotebookProgress, PlainProgress, progress_of
from benchmark.cli.jsonlog import JsonLog, JsonProgress, JsonStream, logging_to
from benchmark.progress import LoggedProgress, Pace, StageCounts, describe

NUM_THREADS, NUM_CELLS = 8, 20


class SlowInt(int):
    """Yields to other threads in the middle of ``total += number``."""

    def __radd__(self, other: int) -> int:
        time.sleep(0)
        return int(other) + int(self)


class SlowFloat(float):
    """Yields to other threads between reading the clock and using the time."""

    def __sub__(self, other: float) -> float:
        time.sleep(0.001)
        return float(self) - float(other)


class SlowText(io.StringIO):
    """Yields to other threads in the middle of each write."""

    def write(self, text: str) -> int:
        for start in range(0, len(text), 16):
            super().write(text[start : start + 16])
            time.sleep(0)
        return len(text)


def in_threads(work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors, errors[0]


def drive(stage: object, number: int) -> None:
    """One thread's share of a stage: every fourth cell fails."""
    for cell in range(NUM_CELLS):
        name = f"cell {number}-{cell}"
        stage.start(name)
        stage.advance(SlowInt(3))
        if cell % 4 == 3:
            stage.failed(name, "it was too much " * 5)
        else:
            stage.done(name)


NUM_ALL = NUM_THREADS * NUM_CELLS
FAILED = NUM_ALL // 4


def begin(progress: object, name: str = "embed") -> object:
    return progress.stage(name, num_cells=NUM_ALL, num_items=3 * NUM_ALL, unit="patches")


def test_counters_lose_nothing_between_threads() -> None:
    counts = StageCounts(NUM_ALL, 3 * NUM_ALL)

    class Stage:
        start, advance = counts.start, counts.advance

        def done(self, cell: str) -> None:
            counts.end(cell, failed=False)

        def failed(self, cell: str, reason: str) -> None:
            counts.end(cell, failed=True)

    in_threads(lambda number: drive(Stage(), number))
    now = counts.snapshot()
    assert now.num_items == 3 * NUM_ALL
    assert (now.num_done, now.num_failed, now.running) == (NUM_ALL - FAILED, FAILED, ())
    assert (now.num_queued, now.num_items_queued) == (0, 0)


def test_counters_tell_rate_what_is_left_and_how_long_a_cell_took() -> None:
    now = 100.0
    counts = StageCounts(3, 40, clock=lambda: now)
    counts.start("a")
    counts.start("b")
    counts.advance(10)
    now = 105.0
    shot, seconds = counts.end("a", failed=False)
    assert seconds == 5.0
    assert (shot.items_per_s, shot.left_s, shot.num_queued, shot.running) == (2.0, 15.0, 1, ("b",))
    assert describe(shot, "patches") == (
        "1/3 cells, 1 running, 10/40 patches, 2.0 patches/s, 15 s left"
    )
    assert describe(shot, "patches", ended=True).endswith("2.0 patches/s, 5.0 s")
    assert counts.end("never begun", failed=True)[1] is None


def test_the_rate_leaves_out_the_start_and_what_an_earlier_run_did() -> None:
    times = iter([0.0, 10.0, 10.0, 12.0, 12.0, 20.0])
    counts = StageCounts(1, 1300, clock=lambda: next(times))
    counts.advance(0)
    counts.advance(1000)
    shot = counts.advance(20)
    assert (shot.items_per_s, shot.left_s) == (10.0, 28.0)
    assert "1020/1300 patches, 10.0 patches/s, 28 s left" in describe(shot, "patches")


def test_a_burst_of_reports_is_no_rate() -> None:
    times = iter([0.0, 10.0, 10.0, 10.01, 10.5, 11.0])
    counts = StageCounts(1, 100, clock=lambda: next(times))
    counts.advance(10)
    assert not counts.advance(10).has_rate
    assert not counts.snapshot().has_rate
    shot = counts.snapshot()
    assert (shot.has_rate, shot.items_per_s) == (True, 10.0)


def test_what_is_not_known_is_not_told() -> None:
    counts = StageCounts(1, clock=lambda: 7.0)
    shot = counts.advance(5)
    assert (shot.left_s, shot.num_items_queued, shot.items_per_s) == (None, 0, 0.0)
    assert describe(shot, "windows") == "0/1 cells, 0 running, 5 windows, 0.0 windows/s"


def test_one_of_many_threads_writes_the_line_that_is_due() -> None:
    times = [SlowFloat(0.0)]
    pace, due = Pace(5.0, clock=lambda: times[-1]), []
    for now in (4.9, 5.0, 9.9, 10.0):
        times.append(SlowFloat(now))
        answers: list[bool] = []
        in_threads(lambda _, into=answers: into.append(pace.is_due()))
        due.append(sum(answers))
    assert due == [0, 1, 0, 1]


def test_plain_lines_are_whole_and_end_with_the_right_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmark.progress.LINE_EVERY_S", 0.0)
    monkeypatch.setattr("benchmark.progress.RATE_AFTER_S", 0.0)
    stream = SlowText()
    stage = begin(PlainProgress(Console(file=stream, width=80)))
    in_threads(lambda number: drive(stage, number))
    stage.close()
    lines = stream.getvalue().splitlines()
    reason = re.escape(("it was too much " * 5).rstrip())
    counts = r"\d+/160 cells, \d+ running(, \d+ failed)?, \d+/480 patches, [\d.]+ patches/s.*"
    pattern = re.compile(rf"embed: (cell \d-\d+ failed: {reason} ?|{counts})")
    assert [line for line in lines if not pattern.fullmatch(line)] == []
    assert sum(" failed: " in line for line in lines) == FAILED
    assert lines[-1].startswith("embed: 120/160 cells, 0 running, 40 failed, 480/480 patches, ")


def test_bars_of_two_stages_side_by_side_end_with_the_right_counts() -> None:
    stream = SlowText()
    terminal = Console(file=stream, force_terminal=True, width=140, color_system=None)
    with LiveProgress(terminal) as progress:
        stages = [begin(progress, name) for name in ("embed", "tune")]
        in_threads(lambda number: drive(stages[number % 2], number))
        for stage in stages:
            stage.close()
    *_, embed, tune = (line for line in stream.getvalue().splitlines() if "cells" in line)
    for name, line in (("embed", embed), ("tune", tune)):
        assert line.lstrip("\x1b[2K1A\r").startswith(name)
        assert "60/160 cells, 0 running, 20 failed" in line


class Notebook:
    """Stands for IPython in the kernel of a notebook: keeps what a display showed."""

    kernel = object()

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def get_ipython(self) -> Notebook:
        return self

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Notebook:
        assert raw and display_id
        self.update(content, raw=True)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(content)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr("benchmark.bars.NOTEBOOK_EVERY_S", 0.01)
    return notebook


def test_a_notebook_shows_bars_lines_and_failures_in_one_display(notebook: Notebook) -> None:
    with progress_of(True) as progress:
        assert notebook.shown[0]["text/plain"] == "starting, 0 s"
        progress.message("embed: <2> CPUs")
        stage = begin(progress)
        in_threads(lambda number: drive(stage, number))
        stage.close()
    *_, last = notebook.shown
    lines = last["text/plain"].splitlines()
    assert lines[0] == "embed: <2> CPUs"
    assert sum(" failed: it was too much" in line for line in lines) == FAILED
    assert lines[-1].startswith("embed ")
    assert "120/160 cells, 0 running, 40 failed" in lines[-1]
    assert "embed: &lt;2&gt; CPUs" in last["text/html"]
    assert "\x1b" not in last["text/plain"]


def test_a_notebook_shows_the_time_while_nothing_is_reported(notebook: Notebook) -> None:
    with progress_of(True) as progress:
        begin(progress)
        before = len(notebook.shown)
        deadline = time.monotonic() + 30
        while len(notebook.shown) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(notebook.shown) >= before + 3
        assert "0:00:0" in notebook.shown[-1]["text/plain"]
    assert not [item for item in threading.enumerate() if item.name == "bars"]


def test_a_notebook_keeps_nothing_of_a_call_without_stages(notebook: Notebook) -> None:
    with progress_of(True):
        pass
    assert notebook.shown[-1]["text/plain"] == ""


def test_a_terminal_of_ipython_is_no_notebook(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(progress_of(True), NotebookProgress)
    monkeypatch.delattr(Notebook, "kernel")
    assert not isinstance(progress_of(True), NotebookProgress)
    monkeypatch.setattr(notebook, "get_ipython", lambda: None)
    assert not isinstance(progress_of(True), NotebookProgress)


def records(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    keys = ["time", "level", "event", "stage", "cell", "message", "numbers"]
    assert all(list(item) == keys for item in found)
    return found


def test_json_lines_are_whole_and_end_with_the_right_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmark.progress.LINE_EVERY_S", 0.0)
    monkeypatch.setattr("benchmark.progress.RATE_AFTER_S", 0.0)
    stream = SlowText()
    stage = begin(JsonProgress(JsonLog(stream)))
    in_threads(lambda number: drive(stage, number))
    stage.close()
    found = records(stream.getvalue())
    events = [item["event"] for item in found]
    assert events[0] == "stage_started"
    assert events[-1] == "stage_ended"
    assert {event: events.count(event) for event in set(events[1:-1])} == {
        "cell_started": NUM_ALL,
        "cell_done": NUM_ALL - FAILED,
        "cell_failed": FAILED,
        "progress": NUM_ALL - 1,  # the first report has no rate
    }
    assert {item["stage"] for item in found} == {"embed"}
    last = found[-1]["numbers"]
    assert (last["num_done"], last["num_failed"], last["num_items"]) == (120, 40, 480)
    assert (last["num_queued"], last["num_running"], last["num_items_wanted"]) == (0, 0, 480)
    failures = [item for item in found if item["event"] == "cell_failed"]
    assert {item["level"] for item in failures} == {"error"}
    assert all(item["numbers"]["cell_seconds"] >= 0 for item in failures)
    assert all(f"embed: {item['cell']} failed: it was" in item["message"] for item in failures)
    assert len({item["cell"] for item in failures}) == FAILED


def test_a_line_names_its_cell_and_the_time_in_utc() -> None:
    stream = io.StringIO()
    progress = JsonProgress(JsonLog(stream), stages=["embed", "finetune"])
    stage = progress.stage("embed", num_cells=2, num_items=None, unit="patches")
    stage.start("mean_color")
    stage.close()
    progress.message("finetune: 2 CPUs")
    progress.message("it: is\nnothing")
    _, started, ended, of_stage, of_none = records(stream.getvalue())
    # While one cell runs, events belong to that cell.
    assert started["cell"] == ended["cell"] == "mean_color"
    assert started["message"] == "embed: mean_color started"
    assert (of_stage["stage"], of_stage["event"]) == ("finetune", "message")
    assert (of_none["stage"], of_none["cell"]) == (None, None)
    assert of_none["message"] == "it: is\nnothing"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", started["time"])


def test_what_loggers_and_libraries_say_becomes_json() -> None:
    import warnings

    stream = io.StringIO()
    log = JsonLog(stream)
    before = logging.getLogger().handlers[:]
    with logging_to(log):
        logging.getLogger("benchmark").info("a run is dead: %s", "x")
        logging.getLogger("somebody").info("not wanted")
        logging.getLogger("somebody").warning("beware")
        try:
            raise ValueError("\N{SNOWMAN}")
        except ValueError:
            logging.getLogger("somebody").exception("it failed")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert logging.getLogger().handlers == before
    assert logging.getLogger("benchmark").level == logging.NOTSET
    info, warning, error, old = records(stream.getvalue())
    assert (info["level"], info["message"]) == ("info", "a run is dead: x")
    assert (warning["level"], warning["message"]) == ("warning", "beware")
    assert error["message"].startswith("it failed\nTraceback")
    assert "\N{SNOWMAN}" in error["message"]
    assert "DeprecationWarning: old" in old["message"]


def test_lines_of_libraries_become_json_and_json_is_passed_on() -> None:
    stream = io.StringIO()
    printed = JsonStream(JsonLog(stream), stream)
    printed.write("(raylet) a machine ")
    printed.write("was lost\r\n\n" + '{"time": "2026-01-01T00:00:00+00:00", "x": 1}\nthe re')
    printed.write("st")
    printed.end()
    first, passed, last = stream.getvalue().splitlines()
    assert json.loads(first)["message"] == "(raylet) a machine was lost"
    assert json.loads(first)["event"] == "output"
    assert passed == '{"time": "2026-01-01T00:00:00+00:00", "x": 1}'
    assert json.loads(last)["message"] == "the rest"


def test_the_progress_of_the_library_counts_from_many_threads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="benchmark"):
        stage = begin(LoggedProgress())
        in_threads(lambda number: drive(stage, number))
    ended = re.findall(r"done \((\d+)/", caplog.text)
    assert len(ended) == len(set(ended)) == NUM_ALL - FAILED


def test_what_our_loggers_warn_of_is_shown_while_a_command_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmark.cli.printing import open_stderr_progress

    logger = logging.getLogger("benchmark")
    with open_stderr_progress():
        logger.warning("%d of %d CPUs are free", 1, 2)
        logger.info("a detail")
    logger.warning("nobody works any more")
    assert capsys.readouterr() == ("", "warning: 1 of 2 CPUs are free\n")
