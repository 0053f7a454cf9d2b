"""A local Ray finds folders and a token wherever it is started, and leaves nothing behind."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmark.cluster import folders
from benchmark.cluster.folders import MAX_SOCKET_PATH, TOKEN_PATH, prepare_folders, prepare_token
from benchmark.errors import UsageError


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_AUTH_TOKEN", TOKEN_PATH, "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    # The Ray of this session keeps its token.
    monkeypatch.setattr(folders, "_forget_token", lambda: None)
    return monkeypatch


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def bad_folders(root: Path) -> dict[str, str]:
    (root / "file").touch()
    (root / ("t" * 60)).mkdir()
    return {
        "long": str(root / ("t" * 60)),
        "missing": "/proc/none",
        "file": str(root / "file"),
        "read-only": "/proc",
        "relative": "here",
        "empty": "",
    }


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("kind", ["long", "missing", "file", "read-only", "relative", "empty"])
def test_a_folder_that_ray_cannot_use_is_replaced_for_this_run(
    variable: str, kind: str, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    patch.chdir(tmp_path)
    patch.setenv(variable, bad_folders(tmp_path)[kind])
    with ExitStack() as stack:
        options = prepare_folders(stack)
        made = [options["_temp_dir"], options["object_spilling_directory"]]
        assert [mode_of(folder) for folder in made] == [0o700] * 2
        socket = f"{made[0]}/session_2026-11-28_17-20-44_123456_4194304/sockets/plasma_store"
        assert len(socket) <= MAX_SOCKET_PATH
        assert made[1].startswith(tempfile.gettempdir())
    assert not any(Path(folder).exists() for folder in made)


def test_a_short_folder_is_used_as_it_is(stack: ExitStack, patch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        patch.setenv("TMPDIR", short)
        assert prepare_folders(stack) == {}
        Path(short, "ray").mkdir()
        assert prepare_folders(stack) == {}
        assert list(Path(short, "ray").iterdir()) == []
        # Another user could change what is in it.
        patch.setattr(os, "geteuid", lambda: Path(short).stat().st_uid + 1)
        assert set(prepare_folders(stack)) == {"_temp_dir", "object_spilling_directory"}


def test_the_longest_folder_that_works_is_39_characters_at_seven_digits(
    patch: pytest.MonkeyPatch,
) -> None:
    patch.setattr(os, "getpid", lambda: 4_194_304)
    assert folders._is_short(Path("/" + "t" * 38, "ray"))
    assert not folders._is_short(Path("/" + "t" * 39, "ray"))


def test_without_any_folder_there_is_one_line(stack: ExitStack, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("TMPDIR", "/proc/none")
    patch.setattr(folders, "SHORT_ROOTS", ("/proc",))
    with pytest.raises(UsageError, match=r"^no folder for Ray's sockets: /proc/none/ray is in no "):
        prepare_folders(stack)


def test_a_token_is_written_once_for_this_user_alone(
    stack: ExitStack, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    patch.setenv("HOME", str(tmp_path))
    prepare_token(stack)
    path = tmp_path / ".ray/auth_token"
    token = path.read_text()
    assert (len(token), mode_of(path), mode_of(path.parent)) == (64, 0o600, 0o700)
    prepare_token(stack)
    assert path.read_text() == token
    assert [item.name for item in path.parent.iterdir()] == ["auth_token"]
    assert TOKEN_PATH not in os.environ


@pytest.mark.parametrize("home", ["/proc/none", "{file}", None])
def test_without_a_home_the_token_is_this_runs_alone(
    home: str | None, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    if home is None:
        patch.delenv("HOME")
    else:
        patch.setenv("HOME", home.format(file=tmp_path / "file"))
    with ExitStack() as stack:
        prepare_token(stack)
        path = Path(os.environ[TOKEN_PATH])
        assert (len(path.read_text()), mode_of(path), mode_of(path.parent)) == (64, 0o600, 0o700)
    assert not path.parent.exists()
    assert TOKEN_PATH not in os.environ


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_TOKEN", "t" * 64), (TOKEN_PATH, "/x"), ("RAY_AUTH_MODE", "disabled")],
)
def test_a_token_or_mode_of_the_user_is_kept(
    name: str, value: str, stack: ExitStack, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    patch.setenv("HOME", str(tmp_path))
    patch.setenv(name, value)
    prepare_token(stack)
    assert os.environ[name] == value
    assert list(tmp_path.iterdir()) == []


def test_without_a_list_of_users_there_is_no_token_file(patch: pytest.MonkeyPatch) -> None:
    import pwd

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    patch.delenv("HOME")
    patch.setattr(pwd, "getpwuid", no_entry)
    assert folders.token_file() is None
