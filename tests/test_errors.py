"""An error shown to a user is one line that says what to do."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import (
    MAX_MESSAGE,
    BenchmarkError,
    CellError,
    UsageError,
    blame,
    did_you_mean,
    one_line,
    tidy,
)


class Wrapped(Exception):
    """Carries the worker's exception as Ray's errors do."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("ray::task() (pid=1)\n  File 'x.py', line 1\nTraceback")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "code"), [(BenchmarkError("x"), 1), (CellError("x"), 1), (UsageError("x"), 2)]
)
def test_an_error_carries_the_exit_code_and_pickles(error: BenchmarkError, code: int) -> None:
    assert error.exit_code == code
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == "x"


@pytest.mark.parametrize("kind", [BenchmarkError, CellError, UsageError])
def test_a_message_is_one_bounded_line_without_control_characters(
    kind: type[BenchmarkError],
) -> None:
    given = "\x1b[31mred\x00\ud800\n" + "long" * 100_000
    text = str(kind(f"x.toml: unknown '{given}'; remove it"))
    assert len(text) <= MAX_MESSAGE
    assert text.isprintable()
    assert text.startswith(r"x.toml: unknown '\x1b[31mred\x00\ud800 long")
    assert text.endswith("long'; remove it")
    assert str(pickle.loads(pickle.dumps(kind(text)))) == text


@given(st.text(alphabet=st.characters()))
def test_tidy_text_is_printable_and_stays_as_it_is(text: str) -> None:
    once = tidy(text, limit=50)
    assert once.isprintable()
    assert len(once) <= 50
    assert tidy(once, limit=50) == once
    if text.isprintable() and len(text) <= 50 and text == text.strip():
        assert once == text


def test_what_ray_data_appends_is_not_the_reason() -> None:
    """It hid "No space left on device" behind a hint at its own settings."""
    error = OSError(
        "[Errno 28] No space left on device\nFailed to write part after 1/1 attempts (total "
        "backoff 0.0s).\nTo change retry attempts, backoff, or which errors are retried, ..."
    )
    assert one_line(error) == "OSError: [Errno 28] No space left on device"


def test_many_known_names_and_long_given_ones_are_bounded() -> None:
    hint = did_you_mean("x" * 1_000_000, [f"name-{number:05d}" for number in range(10_000)])
    assert hint.endswith(", name-00019 and 9980 more.")


def test_the_nearest_name_is_suggested() -> None:
    assert did_you_mean("batchsize", ["batch_size", "precision"]) == " Did you mean 'batch_size'?"


def test_without_a_near_name_all_are_listed() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == " Known: a, b."
    assert did_you_mean("zzz", []) == ""


def test_an_error_of_the_benchmark_is_shown_as_it_is() -> None:
    assert one_line(UsageError("x.toml: wrong")) == "x.toml: wrong"


def test_another_error_is_shown_with_its_type() -> None:
    assert one_line(ValueError("bad shape")) == "ValueError: bad shape"
    assert one_line(ValueError("ValueError: bad shape")) == "ValueError: bad shape"


@pytest.mark.parametrize("error", [ValueError(), ValueError(""), ValueError("  \n ")])
def test_an_error_without_text_is_shown_as_its_type(error: ValueError) -> None:
    assert one_line(error) == "ValueError"


def test_the_last_line_of_several_is_the_reason() -> None:
    assert one_line(RuntimeError("Traceback:\n  line 1\nout of memory\n")) == (
        "RuntimeError: out of memory"
    )


def test_the_cause_of_a_wrapped_error_is_what_is_shown() -> None:
    assert one_line(Wrapped(Wrapped(CellError("disk is full")))) == "disk is full"


def test_a_long_text_is_cut() -> None:
    text = one_line(CellError("x" * 1000), limit=50)
    assert len(text) == 50
    assert text.endswith("x…")
    assert one_line(CellError("x" * 50), limit=50) == "x" * 50


def test_blame_names_the_place_in_own_code_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import json\n\ndef read():\n    return json.loads('{')\n")
    space: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        space["read"]()
    # This test is own code as well, but not the last.
    assert blame(caught.value).startswith(f"{path}, line 4: JSONDecodeError: Expecting property")
    sys.path.append(str(tmp_path))
    try:
        assert blame(caught.value).startswith("mine.py, line 4: JSONDecodeError: ")
    finally:
        sys.path.remove(str(tmp_path))
    assert len(blame(caught.value, limit=50)) <= 50


def test_blame_leaves_errors_of_the_package_and_of_libraries_as_they_are() -> None:
    assert blame(CellError("as it is")) == "as it is"
    assert blame(ValueError("no place")) == "ValueError: no place"


def test_lines_that_ray_data_appends_to_an_error_are_left_out() -> None:
    error = CellError("the server fails")
    hints = "Failed to apply UDF transform after 1/1 attempts.\nTo change retry attempts, configure"
    error.args = (f"{error.args[0]}\n{hints}",)
    assert str(pickle.loads(pickle.dumps(error))) == "the server fails"
    assert str(CellError("Failed to read\nthe file")) == "Failed to read the file"
