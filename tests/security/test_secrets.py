"""Keys and tokens of the environment stand in nothing that a run writes: they are searched for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from benchmark.store.artefacts import MANIFEST, Store
from tests.machines import LAZY
from tests.object_store import BUCKET, DENIED, ObjectStore, serve_objects
from tests.scenes import SMALLEST, write_scenes
from tests.secrets_of_tests import SECRETS, command_lines, files_below, find_secrets

# All loggers of all libraries, at their most talkative.
DEBUGGED = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from benchmark.cli.commands import main
main(sys.argv[1:])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Ray's sockets lie below it, and a socket's path has at most 107 characters.
    path = Path(tempfile.mkdtemp(prefix="bs", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def objects() -> Iterator[ObjectStore]:
    with serve_objects() as found:
        yield found


def run(home: Path, objects: ObjectStore, *arguments: str) -> tuple[int, dict[str, bytes]]:
    """Run the command line with every secret in its environment.

    Returns: its exit code, and by name what it wrote to its streams and command lines.
    """
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        **LAZY,
        "AWS_ENDPOINT_URL": objects.endpoint,
        "AWS_REGION": "us-east-1",
        **SECRETS,
    }
    seen: dict[str, bytes] = {}
    with (home / "out").open("wb") as out, (home / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", DEBUGGED, *arguments], env=env, stdout=out, stderr=err
        )
        while process.poll() is None:
            seen |= dict(command_lines(home))
            time.sleep(0.2)
    for name in ("out", "err"):
        seen[f"{name} of {arguments[0]}"] = (home / name).read_bytes()
    return process.returncode, seen


def stored(objects: ObjectStore) -> Iterator[tuple[str, bytes]]:
    store = Store(objects.uri("runs", is_direct=True))
    for info in store.fs.get_file_info(pafs.FileSelector(store.root, recursive=True)):
        if info.is_file:
            yield info.path, store.read(info.path.removeprefix(f"{store.root}/"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_secret_is_in_what_a_run_writes_of_which_a_part_fails(
    home: Path, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = write_scenes(tmp_path / "scenes", num_scenes=1, windows=4)
    experiment = tmp_path / "small.toml"
    text = SMALLEST.format(root=scenes)
    experiment.write_text(text.replace('["mean_color"]', '["mean_color", "hog"]'))
    common = (str(experiment), "--store", f"s3://{BUCKET}/runs")

    # The cells of one backbone fail; everything else is computed, and shown on the page.
    objects.faults.refuse = lambda verb, path: (
        DENIED if verb == "PUT" and "hog" in path and MANIFEST in path else None
    )
    code, whole = run(home, objects, "run", *common, "--json")
    assert code == 1, whole["err of run"].decode()
    assert b"access denied" in whole["err of run"]
    objects.faults.reset()
    _, status = run(home, objects, "status", *common)
    assert b"5 of 7 cells complete" in status["out of status"], status

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRETS[name])
    content = dict(stored(objects))
    logs = dict(files_below(home))
    # What is searched is there: pages, manifests, copies of the experiment, failures, Ray's logs.
    for part in ("index.html", MANIFEST, "experiments/small-"):
        assert any(part in path for path in content), part
    assert any("raylet" in path for path in logs)
    assert b"DEBUG:" in whole["err of run"]
    everything = [*whole.items(), *status.items(), *content.items(), *logs.items()]
    assert find_secrets(everything) == []


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_found_however_it_is_written(name: str) -> None:
    import base64
    from urllib.parse import quote

    secret = SECRETS[name]
    for text in (secret, quote(secret, safe=""), secret.encode().hex()):
        assert find_secrets([("x", f"a {text} b".encode())]) == [f"{name} in x"]
    for before in ("", "k", "ke"):
        text = base64.b64encode(f"{before}{secret}:x".encode())
        assert f"{name} in x" in find_secrets([("x", text)])
