"""Roots on Google Cloud Storage and Azure, against servers of their kind on this machine.

They run where the servers are: `npm install -g azurite` and `pip install adlfs azure-storage-blob`;
`pip install gcp-storage-emulator`.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.roots.root import open_root
from benchmark.errors import UsageError
from benchmark.products import PlacedProduct
from tests.scenes import write_raster

BUCKET = "bucket"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account and the key that every Azurite has."""

NEEDS = {
    "gs": ("gcp_storage_emulator",),
    "az": ("adlfs", "azure.storage.blob"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 300, 300), np.uint8)
    write_raster(root / "a" / "x 1.tif", pixels, 300_000, 4_300_000)
    (root / "a.txt").write_text("höhe")
    return root


@pytest.fixture(params=list(NEEDS))
def address(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a root that holds the files of the folder."""
    missing = [name for name in NEEDS[request.param] if not _is_there(name)]
    if request.param == "az" and shutil.which("azurite-blob") is None:
        missing.append("azurite-blob")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if request.param == "az":
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={url};"
        )
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        command = ["azurite-blob", "--silent", "--loose", "--skipApiVersionCheck"]
        command += ["--location", str(tmp_path), "--blobPort", str(port)]
        send = _to_azure(connection)
        found = f"az://{BUCKET}/data"
    else:
        command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
        command += ["--port", str(port), "--host", "127.0.0.1", "--default-bucket", BUCKET]
        send = _to_google(f"http://127.0.0.1:{port}")
        found = f"gs://anonymous@{BUCKET}/data?endpoint_override=127.0.0.1:{port}&scheme=http"
    with _running(command, port):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                send(f"data/{path.relative_to(folder).as_posix()}", path.read_bytes())
        yield found


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert server.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < deadline, f"{command[0]} does not answer"
                time.sleep(0.1)
            yield
        finally:
            server.terminate()


def _to_azure(connection: str) -> Callable[[str, bytes], None]:
    def send(name: str, content: bytes) -> None:
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient.from_connection_string(connection)
        if not service.get_container_client(BUCKET).exists():
            service.create_container(BUCKET)
        service.get_blob_client(BUCKET, name).upload_blob(content)

    return send


def _to_google(url: str) -> Callable[[str, bytes], None]:
    def send(name: str, content: bytes) -> None:
        query = f"uploadType=media&name={quote(name, safe='')}"
        request = urllib.request.Request(
            f"{url}/upload/storage/v1/b/{BUCKET}/o?{query}",
            data=content,
            headers={"Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200

    return send


def test_files_of_a_bucket_are_those_of_the_folder(
    address: str, folder: Path, tmp_path: Path
) -> None:
    there = pickle.loads(pickle.dumps(open_root(address)))
    there.check_answer()
    assert there.has("a.txt")
    assert not there.has("b.txt")
    assert there.read_text("a.txt", most_bytes=10) == "höhe"
    with pytest.raises(FileNotFoundError):
        there.read_text("none", most_bytes=10)
    assert there.list("**/*.t*") == ["a.txt", "a/x 1.tif"]
    there.copy("a/x 1.tif", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "a" / "x 1.tif").read_bytes()
    with there.open("a/x 1.tif") as mine, open_root(str(folder)).open("a/x 1.tif") as other:
        np.testing.assert_array_equal(mine.read(), other.read())
    found = there.identify(["a.txt", "none"])
    assert found.keys() == {"a.txt"}
    assert found["a.txt"].split()[0] == "5"
    assert len(found["a.txt"].split()[1]) > 5


def test_rasters_of_a_bucket_are_a_product(address: str, folder: Path) -> None:
    product = find_backbone(f"embeddings:{address}").product
    here = find_backbone(f"embeddings:{folder}").product
    assert isinstance(product, PlacedProduct)
    assert isinstance(here, PlacedProduct)
    found, expected = product.open(), here.open()
    for mine, other in zip(*(it.requests(it.middles()) for it in (found, expected)), strict=True):
        np.testing.assert_array_equal(found.sample(mine), expected.sample(other))


WRONG_KEY = """
from benchmark.catalog.roots.root import open_root
from benchmark.errors import UsageError
root = open_root("{address}")
asked = root.check_answer, lambda: root.list("*"), lambda: root.identify(["a.txt"])
for ask in (*asked, lambda: root.has("a.txt")):
    try:
        raise SystemExit(f"{{ask()}}")
    except Exception as error:
        print(type(error).__name__, "access denied" in str(error))
try:
    with root.open("a/x 1.tif"):
        pass
except Exception as error:
    print(type(error).__name__, "is missing" in str(error))
"""


def test_a_wrong_key_is_no_missing_file(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow took the refusal for the answer that there is no such file."""
    if not address.startswith("az"):
        pytest.skip("the emulator knows no keys")
    name = "AZURE_STORAGE_CONNECTION_STRING"
    monkeypatch.setenv(name, os.environ[name].replace("AccountKey=Eby8", "AccountKey=AAAA"))
    # In a process of its own: the driver remembers its connections.
    command = [sys.executable, "-c", WRONG_KEY.format(address=address)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [
        *("UsageError", "True") * 3,
        *("CellError", "True"),
        *("Unreadable", "False"),
    ]


def test_a_server_that_is_not_there() -> None:
    root = open_root(f"gs://anonymous@{BUCKET}/x?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(UsageError, match=r"root = 'gs://.*"):
        root.check_answer()
