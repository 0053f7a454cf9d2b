"""The user's cache is never made in the current folder."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from benchmark.store.cache import cache_folder
from benchmark.store.digest import digest_file


def test_without_a_home_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^there is no home folder for a cache"):
        cache_folder("calibration")
    (tmp_path / "a").write_bytes(b"one")
    assert len(digest_file(tmp_path / "a")) == 32
    assert [item.name for item in tmp_path.iterdir()] == ["a"]
