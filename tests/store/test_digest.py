"""Digests identify contents and are cached; a broken cache does not change them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.store import digest
from benchmark.store.digest import (
    WHOLE_BYTES,
    FileRevision,
    digest_file,
    digest_files,
    fingerprint,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


# The machine that runs the tests may be busy with others.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(digest, "_known", {})
    return home


def database(home: Path) -> Path:
    return home / "backbone-benchmark" / "digests.sqlite"


def sparse(path: Path, size: int, at: int = 0, byte: bytes = b"\0") -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(at)
        file.write(byte)
    return path


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return tuple(reversed_keys(item) for item in value)
    return value


@PATIENT
@given(VALUES)
def test_the_order_of_keys_and_tuples_for_lists_do_not_matter(value: Any) -> None:
    assert fingerprint(reversed_keys(value)) == fingerprint(value)


@PATIENT
@given(VALUES, VALUES)
def test_two_values_share_a_fingerprint_only_where_their_json_is_the_same(
    one: Any, other: Any
) -> None:
    is_same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) is is_same


@PATIENT
@given(st.dictionaries(st.text(max_size=4), SCALARS, min_size=1, max_size=4), st.data())
def test_every_key_of_a_mapping_counts(value: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    without = {name: item for name, item in value.items() if name != key}
    assert fingerprint(without) != fingerprint(value)
    assert fingerprint({**value, key: [value[key]]}) != fingerprint(value)


def test_a_fingerprint_is_sixteen_hex_digits_and_stays_the_same_for_ever() -> None:
    assert fingerprint({"a": [1, 0.1, None, True, "é"]}) == "cd56d2346e34bb99"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_a_number_that_is_no_json_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        fingerprint(value)


@pytest.mark.parametrize("value", [{1, 2}, b"x", Path("x"), object()])
def test_a_value_that_is_no_json_is_an_error(value: Any) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        fingerprint({"key": value})


def test_a_file_is_identified_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for name, content in (("a", b"same"), ("b", b"same"), ("c", b"sane"), ("d", b"")):
        (tmp_path / name).write_bytes(content)
    digests = digest_files(tmp_path / name for name in "abcd")
    assert digests[tmp_path / "a"] == digests[tmp_path / "b"]
    assert len(set(digests.values())) == 3
    assert digest_file(tmp_path / "a") == digests[tmp_path / "a"]


def test_a_changed_content_gives_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = digest_file(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert digest_file(path) != first


def test_a_digest_is_reused_while_the_file_is_not_touched(tmp_path: Path, cache_home: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = digest_file(path)
    with sqlite3.connect(database(cache_home)) as cache:
        assert cache.execute("SELECT digest FROM contents").fetchall() == [(first,)]
        cache.execute("UPDATE contents SET digest = 'remembered'")
    assert digest_file(path) == "remembered"


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("size", [9, WHOLE_BYTES + 9])
def test_a_file_changed_in_place_with_its_size_and_time_kept_is_read_again(
    tmp_path: Path, size: int, is_whole: bool
) -> None:
    path = sparse(tmp_path / "weights.bin", size, size // 2)
    stat = path.stat()
    (first,) = digest_files([path], is_whole=is_whole).values()
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, stat.st_mtime_ns)
    (second,) = digest_files([path], is_whole=is_whole).values()
    assert second != first


def test_another_file_of_the_same_size_and_times_is_read(tmp_path: Path) -> None:
    """Its inode is another one: copied with its times, and moved onto the path."""
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    first = digest_file(path)
    other.replace(path)
    assert digest_file(path) != first


def test_the_cache_of_an_earlier_version_is_left_alone(tmp_path: Path, cache_home: Path) -> None:
    database(cache_home).parent.mkdir(parents=True)
    row = (os.fsencode(tmp_path / "a"), 3, 1, "old")
    with sqlite3.connect(database(cache_home)) as cache:
        cache.execute(
            "CREATE TABLE digests (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER,"
            " digest TEXT)"
        )
        cache.execute("INSERT INTO digests VALUES (?, ?, ?, ?)", row)
    (tmp_path / "a").write_bytes(b"one")
    os.utime(tmp_path / "a", ns=(1, 1))
    assert digest_file(tmp_path / "a") != "old"
    with sqlite3.connect(database(cache_home)) as cache:
        assert cache.execute("SELECT * FROM digests").fetchall() == [row]


def test_digests_of_version_0_1_0_stay_the_same(tmp_path: Path) -> None:
    """Stores hold fingerprints made of them."""
    (tmp_path / "small").write_bytes(b"one")
    large = sparse(tmp_path / "large", WHOLE_BYTES + 1, 7, b"x")
    assert digest_file(tmp_path / "small") == "c78d2a08dc68cce2fc58f1f48869a17c"
    assert digest_file(large) == "caf079de7a8c2320af283b4b993d69c5"
    assert (
        digest_files([tmp_path / "small"], is_whole=True)[tmp_path / "small"]
        == "c78d2a08dc68cce2fc58f1f48869a17c"
    )


def test_weights_are_hashed_whole(tmp_path: Path) -> None:
    """Of a large file, samples leave out the layer that was changed."""
    size = 3 * WHOLE_BYTES
    plain, changed = sparse(tmp_path / "a", size), sparse(tmp_path / "b", size, 2**20 + 5, b"x")
    assert digest_file(plain) == digest_file(changed)
    assert FileRevision(lambda: [plain])() != FileRevision(lambda: [changed])()


def test_a_revision_knows_the_one_that_earlier_versions_gave(tmp_path: Path) -> None:
    paths = [sparse(tmp_path / "model.bin", WHOLE_BYTES + 1), tmp_path / "config.json"]
    paths[1].write_text("{}")
    former = FileRevision(lambda: paths, has_names=True).former()
    named = [[path.name, digest_file(path)] for path in paths]
    assert former.revision == fingerprint(named)
    assert former.changed_s == max(path.stat().st_ctime for path in paths)
    assert FileRevision(lambda: paths[:1]).former().revision == digest_file(paths[0])


def test_weights_are_read_once_where_no_cache_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sparse(tmp_path / "weights.bin", WHOLE_BYTES + 1)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    revision = FileRevision(lambda: [path])
    first = revision()
    monkeypatch.setattr(digest, "_digest_whole", None)
    assert revision() == first


def test_a_file_moved_onto_a_known_path_is_read_again(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(1, 1))
    digest_file(tmp_path / "a")
    os.utime(tmp_path / "b", ns=(2, 2))
    (tmp_path / "b").replace(tmp_path / "a")
    (tmp_path / "c").write_bytes(b"two")
    assert digest_file(tmp_path / "a") == digest_file(tmp_path / "c")


def test_a_link_has_the_digest_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "link").symlink_to("a")
    digests = digest_files([tmp_path / "a", tmp_path / "link"])
    assert digests[tmp_path / "a"] == digests[tmp_path / "link"]


def test_a_file_up_to_four_mebibytes_is_hashed_whole(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    content = bytearray(WHOLE_BYTES)
    path.write_bytes(content)
    content[1_200_000] = 1
    other.write_bytes(content)
    assert digest_file(path) != digest_file(other)


@pytest.mark.parametrize("size", [WHOLE_BYTES + 1, 2**36])
def test_of_a_large_file_begin_middle_end_and_size_count(tmp_path: Path, size: int) -> None:
    plain = sparse(tmp_path / "plain", size)
    changed = [
        sparse(tmp_path / f"at-{at}", size, at, b"x")
        for at in (0, 2**20 - 1, size // 2, size - 2**20, size - 1)
    ]
    longer = sparse(tmp_path / "longer", size + 1)
    digests = digest_files([plain, longer, *changed])
    assert len(set(digests.values())) == 7


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        digest_file(tmp_path / "none")


@pytest.mark.parametrize("home", ["/proc/none", "{file}", "{file}/below", "/dev/null/x"])
def test_a_cache_that_cannot_be_written_changes_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    expected = digest_file(path)
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setenv("XDG_CACHE_HOME", home.format(file=tmp_path / "file"))
    assert digest_file(path) == expected


def test_a_cache_that_is_no_database_changes_no_digest(tmp_path: Path, cache_home: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    expected = digest_file(path)
    database(cache_home).write_bytes(b"this is not a database, " * 100)
    assert digest_file(path) == expected


def test_a_cache_whose_pages_are_damaged_changes_no_digest(
    tmp_path: Path, cache_home: Path
) -> None:
    paths = [tmp_path / f"{number:04d}" for number in range(200)]
    for path in paths:
        path.write_bytes(path.name.encode())
    expected = digest_files(paths)
    content = database(cache_home).read_bytes()
    database(cache_home).write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    assert digest_files(paths) == expected


def test_a_path_that_is_not_utf_8_has_a_digest(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"one")
    (tmp_path / "plain").write_bytes(b"one")
    assert digest_file(path) == digest_file(tmp_path / "plain")


def test_two_processes_write_one_cache(tmp_path: Path, cache_home: Path) -> None:
    paths = [tmp_path / f"{number:03d}" for number in range(150)]
    for path in paths:
        path.write_bytes(path.name.encode() * 10)
    code = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from benchmark.store.digest import digest_file\n"
        "print(json.dumps([digest_file(Path(path)) for path in sys.argv[1:]]))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache_home)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, order)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for order in (paths, paths[::-1])
    ]
    one, other = (json.loads(process.communicate(timeout=60)[0]) for process in running)
    assert all(process.returncode == 0 for process in running)
    assert one == other[::-1]
    assert len(set(one)) == len(paths)
    with sqlite3.connect(database(cache_home)) as cache:
        assert cache.execute("SELECT COUNT(*) FROM contents").fetchone() == (len(paths),)


def test_threads_share_the_cache(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:03d}" for number in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
    found: list[dict[Path, str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(dict(digest_files(paths)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(item == found[0] for item in found)
