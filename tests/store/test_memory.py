"""Facts are remembered by their key and version, and a memory that fails costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.store.cache import cache_folder
from benchmark.store.memory import open_memory


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_values_are_recalled_by_key_and_version() -> None:
    values = {"a": [1, 0.1, "x"], "b": {"c": None}}
    with open_memory("facts", 1) as memory:
        assert memory.recall(["a"]) == {}
        memory.remember(values)
        memory.remember({"b": 2})
    with open_memory("facts", 1) as memory:
        assert memory.recall(["a", "b", "c"]) == {"a": [1, 0.1, "x"], "b": 2}
    for name, version in (("facts", 2), ("others", 1)):
        with open_memory(name, version) as memory:
            assert memory.recall(["a", "b"]) == {}


def test_what_cannot_be_kept_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_memory("facts", 1) as memory:
        memory.remember({"a": 1})
    (cache_folder() / "facts.sqlite").write_bytes(b"no database")
    with open_memory("facts", 1) as memory:
        memory.remember({"a": 2})
        assert memory.recall(["a"]) == {"a": 2}
    with open_memory("facts", 1) as memory:
        assert memory.recall(["a"]) == {}
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with open_memory("facts", 1) as memory:
        memory.remember({"a": 3})
        assert memory.recall(["a"]) == {"a": 3}
