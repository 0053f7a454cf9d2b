"""Roots: addresses, and files of a web server and of a bucket as they are on a disk."""

from __future__ import annotations

import pickle
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest

from benchmark.catalog.roots import bucket, remote, web
from benchmark.catalog.roots.address import check_root
from benchmark.catalog.roots.gdal import gdal_path, options_of
from benchmark.catalog.roots.root import CutOff, Unreadable, open_root
from benchmark.errors import CellError, UsageError
from tests.object_store import BUCKET, DENIED, KEYS, SLOW_DOWN, ObjectStore, serve_objects
from tests.ranges import Server, first_times, serve
from tests.scenes import write_raster

SECRET = "the-s3cret-of-a-user"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster of 300 kB, a text and a file in a sub-folder."""
    root = tmp_path_factory.mktemp("root")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 300, 300), np.uint8)
    write_raster(root / "a" / "x 1.tif", pixels, 300_000, 4_300_000)
    (root / "a.txt").write_text("höhe")
    (root / "a" / "b.txt").write_text("b")
    return root


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    with serve(folder) as found:
        yield found


@pytest.fixture(scope="module")
def moto(folder: Path) -> Iterator[ObjectStore]:
    with serve_objects() as found:
        fs, _ = pafs.FileSystem.from_uri(
            found.uri("", is_direct=True).replace(
                f"s3://{BUCKET}", f"s3://{':'.join(KEYS.values())}@{BUCKET}"
            )
        )
        pafs.copy_files(str(folder), f"{BUCKET}/data", destination_filesystem=fs)
        yield found


@pytest.fixture
def objects(moto: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    moto.faults.reset()
    yield moto
    moto.faults.reset()


# --- addresses ---


@pytest.mark.parametrize(
    "root",
    [
        "data/chesapeake",
        "C:/data",
        "https://data.example.org/a b/c",
        "http://[::1]:8000/x",
        "s3://bucket/prefix?endpoint_override=localhost:9000&scheme=http",
        "gs://anonymous@bucket/prefix",
    ],
)
def test_folders_and_uris_are_accepted(root: str) -> None:
    check_root(root, where="x.toml [dataset]", reads_remote=True)


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("ftp://host/x", "unsupported scheme; supported: a folder, http://, https://, s3://"),
        ("file:///data", "write the path of the folder, without 'file://'"),
        ("https:/host/x", "is neither a folder nor a URI. Did you mean 'https://host/x'"),
        ("s3:bucket/x", "Did you mean 's3://bucket/x'"),
        ("https:///x", "names no server; write https://SERVER/FOLDER"),
        ("https://host:x/", "is no URL: "),
        ("https://host/x?y=1", "give the URL of a folder"),
        ("https://host/../x", "its path contains '.' or '..'"),
        ("s3://", "names no bucket"),
        ("s3://bucket/../x", "its path contains"),
    ],
)
def test_a_malformed_root_is_refused(root: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_root(root, where="x.toml [dataset]", reads_remote=True)
    assert str(caught.value).startswith("x.toml [dataset]: root = '")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "root",
    [
        f"https://user:{SECRET}@host/x",
        f"https://{SECRET}@host/x",
        f"https://host/x?sig={SECRET}",
        f"https:/user:{SECRET}@host/x",
        f"s3://{SECRET}@bucket/x",
        f"az://box/x?token={SECRET}",
    ],
)
@pytest.mark.parametrize("reads_remote", [False, True])
def test_a_root_with_a_secret_is_refused_without_repeating_it(
    root: str, reads_remote: bool
) -> None:
    with pytest.raises(UsageError, match="must not hold a password") as caught:
        check_root(root, where="x", reads_remote=reads_remote)
    assert SECRET not in str(caught.value)


def test_a_data_set_of_a_folder_refuses_uris() -> None:
    with pytest.raises(UsageError, match="read from a folder alone"):
        check_root("https://host/x", where="x", reads_remote=False)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("https://host/a/", "/vsicurl/https://host/a/x%201.tif"),
        ("s3://bucket/a?region=x", "/vsis3/bucket/a/x 1.tif"),
        ("s3://bucket", "/vsis3/bucket/x 1.tif"),
        ("gs://anonymous@bucket/a", "/vsigs/bucket/a/x 1.tif"),
        ("az://box@account.dfs.core.windows.net/a", "/vsiaz/box/a/x 1.tif"),
        ("az://box/a", "/vsiaz/box/a/x 1.tif"),
    ],
)
def test_gdal_gets_the_path_of_its_file_system(address: str, path: str) -> None:
    assert gdal_path(address, "x 1.tif") == path


def test_gdal_gets_what_the_libraries_of_a_bucket_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", SECRET)
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "7")
    found = options_of("az://box@account.dfs.core.windows.net/a")
    assert found["AZURE_STORAGE_ACCESS_KEY"] == SECRET
    assert found["AZURE_STORAGE_ACCOUNT"] == "account"
    assert found["GDAL_HTTP_TIMEOUT"] == "7"
    assert options_of("gs://anonymous@bucket")["GS_NO_SIGN_REQUEST"] == "YES"
    found = options_of("s3://bucket", {"endpoint_override": "host:9", "scheme": "http"})
    assert found["AWS_S3_ENDPOINT"] == "host:9"
    assert found["AWS_HTTPS"] == "NO"


# --- a web server ---


def test_files_of_a_web_server_are_those_of_the_folder(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    here, there = open_root(str(folder)), open_root(f"{server.url}/")
    for root in (here, there):
        assert root.has("a.txt")
        assert not root.has("b.txt")
        assert root.read_text("a.txt", most_bytes=10) == "höhe"
        with pytest.raises(ValueError, match="larger than"):
            root.read_text("a.txt", most_bytes=3)
        with pytest.raises(FileNotFoundError):
            root.read_text("none", most_bytes=3)
        assert root.copy("a/x 1.tif", tmp_path / "copy") == (tmp_path / "copy").stat().st_size
        assert (tmp_path / "copy").read_bytes() == (folder / "a" / "x 1.tif").read_bytes()
    pixels = []
    for root in (here, there):
        with root.open("a/x 1.tif") as raster:
            pixels.append(raster.read(window=((10, 50), (20, 90))))
    np.testing.assert_array_equal(*pixels)
    with pytest.raises(UsageError, match=r"a web server cannot be listed for '\*\.tif'"):
        there.list("*.tif")
    assert here.list("**/*.t*") == ["a.txt", "a/b.txt", "a/x 1.tif"]


def test_the_identity_of_a_file_costs_no_download(server: Server, folder: Path) -> None:
    root = open_root(server.url)
    found = root.identify(["a/x 1.tif", "none", "a.txt"])
    assert list(found) == ["a/x 1.tif", "a.txt"]
    assert {item.method for item in server.requests} == {"HEAD"}
    assert server.num_bytes() == 0
    kept = (folder / "a.txt").read_text()
    (folder / "a.txt").write_text("hohe!")
    changed = root.identify(["a/x 1.tif", "a.txt"])
    (folder / "a.txt").write_text(kept)
    assert changed["a/x 1.tif"] == found["a/x 1.tif"]
    assert changed["a.txt"] != found["a.txt"]


def test_a_server_without_head_or_tags(server: Server) -> None:
    expected = open_root(server.url).identify(["a.txt"])
    server.faults.status = lambda method, path: 405 if method == "HEAD" else 0
    assert open_root(server.url).identify(["a.txt"]) == expected
    server.faults.has_tags = False
    with pytest.raises(UsageError, match=r"neither ETag nor Last-Modified.*a\.txt"):
        open_root(server.url).identify(["a.txt"])


@pytest.mark.parametrize(
    ("status", "reason"),
    [(403, r"access denied \(HTTP 403"), (503, r"the server fails \(HTTP 503\) after 4 tries")],
)
def test_a_server_that_refuses_ends_the_question_in_one_line(
    server: Server, status: int, reason: str
) -> None:
    server.faults.status = lambda method, path: status
    with pytest.raises(UsageError, match=reason):
        open_root(server.url).identify(["a.txt"])


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.faults.status = first_times(2, 503)
    assert open_root(server.url).read_text("a.txt", most_bytes=10) == "höhe"
    assert [item.status for item in server.requests] == [503, 503, 206]


@pytest.mark.parametrize("how", ["close", "stall"])
def test_a_body_that_stops_is_read_again_and_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, how: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(web, "SILENCE_S", 0.2)
    server.faults.stop = lambda path: how
    root = open_root(server.url)
    with pytest.raises(CellError, match=r"the transfer (ended early|stopped) .*a\.txt"):
        root.read_text("a.txt", most_bytes=10)
    with pytest.raises(CellError, match="the transfer"):
        root.copy("a/x 1.tif", tmp_path / "copy")
    if how == "close":
        assert len(server.requests) == 2 * remote.NUM_READS
    server.faults.stop = lambda path: ""
    assert root.read_text("a.txt", most_bytes=10) == "höhe"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serve(tmp_path) as gone:
        pass
    with pytest.raises(UsageError, match=r"a\.txt: no answer \(NewConnectionError\); check"):
        open_root(gone.url).identify(["a.txt"])


def test_credentials_are_sent_and_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = f"Bearer {SECRET}"
    with pytest.raises(UsageError, match="access denied"):
        open_root(server.url).identify(["a.txt"])
    monkeypatch.setenv("GDAL_HTTP_BEARER", SECRET)
    root = open_root(server.url)
    # The environment is the driver's: other machines get it with the root.
    monkeypatch.delenv("GDAL_HTTP_BEARER")
    root = pickle.loads(pickle.dumps(root))
    assert root.has("a.txt")
    with root.open("a/x 1.tif") as raster:
        assert raster.count == 4
    assert SECRET not in repr(root)


def test_a_stalled_read_of_a_raster_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setattr(web, "SILENCE_S", 0.2)
    server.faults.stop = lambda path: "stall"
    root = open_root(server.url)
    with pytest.raises(CellError, match="the transfer stopped"), root.open("a/x 1.tif") as raster:
        raster.read()


# --- a bucket ---


def test_files_of_a_bucket_are_those_of_the_folder(
    objects: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    there = open_root(objects.uri("data"))
    assert there.has("a.txt")
    assert not there.has("b.txt")
    assert there.read_text("a.txt", most_bytes=10) == "höhe"
    with pytest.raises(FileNotFoundError):
        there.read_text("none", most_bytes=10)
    assert there.list("**/*.t*") == ["a.txt", "a/b.txt", "a/x 1.tif"]
    assert there.list("*/*.tif") == ["a/x 1.tif"]
    there.copy("a/x 1.tif", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "a" / "x 1.tif").read_bytes()
    with there.open("a/x 1.tif") as mine, open_root(str(folder)).open("a/x 1.tif") as other:
        np.testing.assert_array_equal(mine.read(), other.read())


def test_the_identity_of_an_object_is_its_size_and_etag(objects: ObjectStore) -> None:
    root = open_root(objects.uri("data"))
    objects.faults.seen.clear()
    found = root.identify(["a.txt", "none"])
    assert {item.method for item in objects.faults.seen} == {"HEAD"}
    num_bytes, tag = found["a.txt"].split()
    assert num_bytes == "5"
    assert re.fullmatch(r'"[0-9a-f]{32}(-\d+)?"', tag)
    assert "none" not in found


def test_keys_of_the_driver_travel_and_are_not_shown(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_root(objects.uri("data"))
    for name in KEYS:
        monkeypatch.delenv(name)
    root = pickle.loads(pickle.dumps(root))
    with root.open("a/x 1.tif") as raster:
        assert raster.count == 4
    assert root.has("a.txt")
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in repr(root)


def test_a_bucket_that_refuses_or_is_busy(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "NUM_READS", 1)
    root = open_root(objects.uri("data"))
    objects.faults.refuse = lambda verb, path: DENIED
    with pytest.raises(UsageError, match=r"access denied.*a\.txt"):
        root.identify(["a.txt"])
    with pytest.raises(Unreadable, match="access denied"), root.open("a/x 1.tif"):
        pass
    with pytest.raises(UsageError, match="it cannot be reached; check the endpoint and the netw"):
        open_root("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http").check_answer()
    objects.faults.refuse = lambda verb, path: SLOW_DOWN
    with pytest.raises(CellError, match="check the address and the network"), root.open("a.tif"):
        pass
    objects.faults.refuse = lambda verb, path: None
    objects.faults.slow_down_every = 3
    monkeypatch.undo()
    with root.open("a/x 1.tif") as raster:
        assert raster.read().shape == (4, 300, 300)


def test_a_bucket_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question waited for the library's own limit, three times."""
    asked: list[float] = []

    def never(work: Any, *, timeout_s: float) -> Any:
        asked.append(timeout_s)
        raise TimeoutError

    monkeypatch.setattr(bucket, "within", never)
    root = open_root("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(UsageError, match=r"root = 's3://.*': did not answer within 10 s; check"):
        root.check_answer()
    assert asked == [10.0]
    with pytest.raises(CellError, match=r"no answer in time \(s3://bucket/x.*a\.txt.*run again"):
        root.has("a.txt")
    assert len(asked) == 2


def test_a_bucket_that_refuses_its_list_has_answered(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_root(objects.uri("data"))
    objects.faults.refuse = lambda verb, path: DENIED
    root.check_answer()

    def no_token(work: Any, *, timeout_s: float) -> Any:
        raise OSError("google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token)")

    monkeypatch.setattr(bucket, "within", no_token)
    with pytest.raises(UsageError, match=r"root = 's3://.*': "):
        root.check_answer()


def test_a_web_server_that_is_silent_or_absent_is_asked_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "ANSWER_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        root = open_root(f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        with pytest.raises(UsageError, match=r"root = 'http://127.*/x': did not answer within"):
            root.check_answer()
    with pytest.raises(UsageError, match=r"no answer \(NewConnectionError\); check the address"):
        root.check_answer()
    # An answer, of whatever kind.
    open_root(f"{server.url}/nothing").check_answer()


def test_a_bucket_of_azure_needs_a_package() -> None:
    with pytest.raises(UsageError, match="az:// needs the Python package adlfs"):
        check_root("az://box/x", where="x", reads_remote=True)


def test_errors_pickle() -> None:
    for kind in (Unreadable, CutOff):
        found = pickle.loads(pickle.dumps(kind("a.tif", "is cut")))
        assert (type(found), str(found), found.problem.path) == (kind, "a.tif: is cut", "a.tif")


def test_a_path_stays_in_its_root(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "root")
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    assert open_root(str(tmp_path / "root")).leads_out("link/x")
    for root in (open_root(str(tmp_path / "root")), open_root("https://host/x")):
        assert not root.leads_out("a/b.txt")
        assert root.leads_out("../x")
        assert root.leads_out("/etc/passwd")
    assert open_root("https://host/x").leads_out("https://other/x")
