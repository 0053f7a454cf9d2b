from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.environment import DURATIONS, check_environment, read_seconds
from benchmark.errors import UsageError


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in DURATIONS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_what_is_not_set_has_its_default(patch: pytest.MonkeyPatch) -> None:
    for name, limits in DURATIONS.items():
        assert read_seconds(name) == limits.default
        assert limits.least <= limits.default <= limits.most
    check_environment()


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-1", "1e400", "²", "9" * 5000])
def test_what_is_no_number_of_seconds_is_one_line(
    name: str, value: str, patch: pytest.MonkeyPatch
) -> None:
    patch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"^{name} is .{{2,90}}; give a number of seconds") as got:
        check_environment()
    assert len(str(got.value)) < 300


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_value_has_an_answer(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, limits in DURATIONS.items():
            patch.setenv(name, value)
            try:
                assert limits.least <= read_seconds(name) <= limits.most
            except UsageError as error:
                assert str(error).isprintable()


def test_an_empty_home_is_none(patch: pytest.MonkeyPatch) -> None:
    """Else `~/.cache` is made in the root of the file system."""
    patch.setenv("HOME", "")
    check_environment()
    assert "HOME" not in os.environ


def test_a_deleted_folder_is_one_line(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    patch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match=r"^the current folder does not exist any more: change"):
        check_environment()


def test_without_any_temporary_folder_there_is_one_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tempfile, "tempdir", None)
    patch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    with pytest.raises(UsageError, match=r"^no temporary folder can be written: set TMPDIR"):
        check_environment()
