"""The entry points, alone and as jobs, a stranger's package too, of a real head with tokens."""

from __future__ import annotations

import json
import re
import runpy
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark as bm
from benchmark.stages import STAGES
from tests.jobs.heads import (
    BIN,
    JOB_TIMEOUT_S,
    ROOT,
    START_TIMEOUT_S,
    Head,
    run,
    start_head,
    status_of,
)
from tests.machines import kernel_settings
from tests.secrets_of_tests import SECRETS, command_lines, files_below, find_secrets
from tests.strangers import EXPERIMENT, FILES, forgotten, write, write_arrays

COMMANDS = ["run", *(entry.name for entry in STAGES)]


def test_every_command_that_computes_has_one_job() -> None:
    files = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert files == {"__init__", "probe", *COMMANDS}


@pytest.mark.parametrize("command", [*COMMANDS, "probe"])
def test_a_job_is_short_and_opens_with_its_command(command: str) -> None:
    text = (ROOT / "jobs" / f"{command}.py").read_text()
    assert len(text.splitlines()) <= 25
    docstring = text.split('"""')[1]
    assert f"python -m jobs.{command} " in docstring
    assert "Cost: " in docstring


def run_here(command: str, *arguments: str) -> int:
    """Run an entry point as `python -m` does, in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [command, *arguments])
        runpy.run_module(f"jobs.{command}", run_name="__main__", alter_sys=True)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_a_mistake_that_is_one_line_and_exits_with_2(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(command, "--help") == 0
    entry = next((entry for entry in STAGES if entry.name == command), None)
    assert (entry.help if entry else "Run all stages") in capsys.readouterr().out

    assert run_here(command, "nowhere.toml") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"benchmark: nowhere\.toml: .*\n", said.err)


def test_an_unknown_option_exits_with_2() -> None:
    done = run(sys.executable, "-m", "jobs.run", "nowhere.toml", "--stoer", "x")
    assert done.returncode == 2
    assert "--stoer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Secrets of the head and its users must not leak.
    secrets = {name: text for name, text in SECRETS.items() if "RAY" not in name}
    with start_head(env=secrets | kernel_settings(), is_forking=True) as found:
        yield found


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path)


def write_experiment(root: Path) -> Path:
    """Write an experiment and 24 small pictures in two classes that differ in brightness."""
    generator = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 180)):
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for index in range(12):
            texture = generator.integers(0, 60, (32, 32, 3)) + brightness
            Image.fromarray(texture.astype(np.uint8)).save(folder / f"{index:02}.png")
    path = root / "tiny.toml"
    path.write_text(
        f"""
        name = "tiny"
        backbones = ["mean_color"]
        heads = ["majority", "knn"]

        [dataset]
        name = "folder"
        root = "{root / "images"}"
        patch_size = 32

        [embed]
        num_actors = 1

        [tune]
        num_trials = 2
        max_concurrent = 1

        [evaluate]
        num_resamples = 50
        """
    )
    return path


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + JOB_TIMEOUT_S)
def test_a_failing_run_fails_its_job_with_one_line(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    code, log = head.submit(
        *("python", "-m", "jobs.run", str(experiment)),
        *("--store", str(tmp_path / "store"), "--set", "heads=['knnn']"),
    )
    assert code != 0
    # `ray job submit` streams the log, and shows it once more if the job fails.
    (said,) = {line for line in log.splitlines() if line.startswith("benchmark: ")}
    assert said == f"benchmark: {experiment}: unknown head 'knnn'. Did you mean 'knn'?"
    assert "exit code 2" in log
    assert "Traceback" not in log
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 60)
def test_without_the_token_nothing_is_submitted(head: Head, tmp_path: Path) -> None:
    assert status_of(f"{head.url}/api/jobs/") == 401
    stranger = head.env | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    proof = tmp_path / "proof"
    code, log = head.submit("touch", str(proof), env=stranger)
    assert code != 0
    assert "401" in log or "uthenticat" in log, log
    assert not proof.exists()


def manifests(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.glob("*/*/_manifest.json")}


def token_of(head: Head) -> str:
    return (head.home / ".ray" / "auth_token").read_text().strip()


def ask(head: Head, path: str = "") -> bytes:
    """Return the answer of the job server to its own token."""
    request = urllib.request.Request(
        f"{head.url}/api/jobs/{path}", headers={"Authorization": f"Bearer {token_of(head)}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def log_of(head: Head, job: str) -> str:
    return str(json.loads(ask(head, f"{job}/logs"))["logs"])


@dataclass(frozen=True)
class Resumed:
    """A run that was submitted, stopped during the tuning, and submitted again until its end."""

    folder: Path
    """Holds a stranger's package and ``own.toml``, and is where the stranger submits."""
    first: str
    """JSON document of the first submission."""
    stopped_log: str
    kept: dict[Path, int]
    """Manifests in the store when the run was stopped."""
    out: str
    err: str

    @property
    def store(self) -> Path:
        return self.folder.parent / "store"


SUBMIT = ("submit", "own.toml", "--set", "seeds=[3]", "--address")


@pytest.fixture(scope="module")
def resumed(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    root = tmp_path_factory.mktemp("resumed")
    folder, store = root / "work", root / "store"
    write_arrays(root / "images", num_scenes=12)
    experiment = EXPERIMENT.format(store=store, root=root / "images")
    write(folder, {**FILES, "own.toml": experiment})
    submit = (*SUBMIT, head.url)
    # Patches and embeddings do not depend on the trials, which would take hours.
    endless = ("--set", "tune.num_trials=20000", "--json")
    code, first, err = head.call(*submit, *endless, folder=folder)
    assert code == 0, err
    job = json.loads(first)["submission_id"]
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while "\ntune: " not in log_of(head, job):
        assert time.monotonic() < deadline, log_of(head, job)
        time.sleep(0.2)
    done = run(str(BIN / "ray"), "job", "stop", job, "--address", head.url, env=head.env)
    assert "was stopped" in done.stdout + done.stderr
    stopped_log, kept = log_of(head, job), manifests(store)
    code, out, err = head.call(*submit, "--follow", folder=folder)
    assert code == 0, err
    return Resumed(folder, first, stopped_log, kept, out, err)


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 4 * JOB_TIMEOUT_S)
def test_a_submitted_run_that_was_stopped_goes_on_to_the_scores_of_a_local_run(
    resumed: Resumed, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark import api

    store = resumed.store
    document = json.loads(resumed.first)
    assert re.fullmatch(r"own-\d{8}-\d{6}-[0-9a-f]{4}", document["submission_id"])
    assert {item["level"] for item in document["checks"]} == {"ok"}
    assert document["shipped"]["num_bytes"] < 5_000_000
    assert "benchmark: interrupted; complete cells are kept" in resumed.stopped_log
    assert {path.parts[-3] for path in resumed.kept} >= {"patches", "embed"}

    assert resumed.out.splitlines()[-1] == str(store)
    assert "Traceback" not in resumed.err
    assert re.search(r"shipping .*experiments/", resumed.err)
    assert resumed.kept.items() <= manifests(store).items()
    (report,) = re.findall(rf"^({re.escape(str(store))}/report/\S+\.html)$", resumed.err, re.M)
    assert "<html" in Path(report).read_text()

    monkeypatch.chdir(resumed.folder)
    with forgotten():
        local = api.load(Path("own.toml"), ["seeds=[3]"])
        for stage in ("patches", "embed", "tune", "evaluate"):
            api.run_stage(stage, local, store=str(tmp_path / "local"))
        # The rows lead to the cells of their own store.
        scores = bm.scores(local, store=str(store)).drop(columns="artefact")
        elsewhere = bm.scores(local, store=str(tmp_path / "local"))
    assert scores.equals(elsewhere.drop(columns="artefact"))
    own = scores.xs(("test", "stranger.metrics:worst_recall"), level=("split", "metric"))["value"]
    assert (own.xs("majority", level="method") == 0).all()
    assert (own.xs("stranger.heads:Forest", level="method") > 0).all()


def complete(store: Path, stage: str) -> set[str]:
    return {path.parent.name for path in store.glob(f"{stage}/*/_manifest.json")}


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 5 * JOB_TIMEOUT_S)
def test_a_change_in_a_strangers_package_is_noticed_and_its_error_is_told(
    head: Head, resumed: Resumed
) -> None:
    store, submit = resumed.store, (*SUBMIT, head.url, "--follow")
    first = {stage: complete(store, stage) for stage in ("patches", "embed", "tune")}
    assert {stage: len(found) for stage, found in first.items()} == {
        **{"patches": 1, "embed": 2, "tune": 4}
    }

    # Only the cells of the changed network are computed again.
    path = resumed.folder / "stranger/layers.py"
    path.write_text(path.read_text().replace("x.mean(", "x.amax("))
    code, _, err = head.call(*submit, folder=resumed.folder)
    assert code == 0, err
    added = {stage: complete(store, stage) - first[stage] for stage in first}
    assert {stage: len(found) for stage, found in added.items()} == {
        **{"patches": 0, "embed": 1, "tune": 2}
    }
    assert all("stranger.nets-build" in name for name in added["embed"] | added["tune"])

    # Its own error, with file and line; the exit code is that of the run.
    path.write_text(path.read_text().replace("return x", "return x.nothing"))
    code, out, err = head.call(*submit, "--json", folder=resumed.folder)
    assert code == 1, err
    assert "stranger/layers.py, line 6: AttributeError: 'Tensor' object has no attribute" in err
    assert re.search("cells? failed", err)
    assert "Traceback" not in err
    document = json.loads(out)
    assert (document["status"], document["exit_code"]) == ("FAILED", 1)


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + JOB_TIMEOUT_S)
def test_what_the_cluster_lacks_is_found_before_the_run_is_sent(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    code, out, err = head.call(
        *("submit", experiment, "--address", head.url, "--store", "/proc/store"),
        *("--set", "dataset.root=/nowhere", "--set", "embed.num_actors=99"),
    )
    assert code == 2
    assert out == ""
    said = err.splitlines()[-1]
    assert "store '/proc/store' cannot be written on " in said
    assert "[dataset] root = '/nowhere' does not exist on " in said
    assert "[embed] num_actors = 99: the cluster has 2 CPUs" in said
    assert "was submitted" not in err


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 60)
def test_a_wrong_token_and_a_missing_one_are_one_line(
    head: Head, experiment: Path, tmp_path: Path
) -> None:
    submit = ("submit", experiment, "--address", head.url, "--store", tmp_path / "store")
    for env, message in (
        ({"RAY_AUTH_TOKEN": "s3cr3t" * 8}, "rejects our token"),
        ({"RAY_AUTH_MODE": "disabled"}, "needs a token: set RAY_AUTH_MODE=token"),
    ):
        code, out, err = head.call(*submit, env=env)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith(f"benchmark: --address {head.url}: the job server {message}")
        assert "s3cr3t" not in line


class OtherVersion(BaseHTTPRequestHandler):
    """Forwards requests to a head, but reports another version of Ray."""

    head: Head

    def do_GET(self) -> None:
        request = urllib.request.Request(f"{self.head.url}{self.path}", headers=dict(self.headers))
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        if self.path == "/api/version":
            content = json.dumps({**json.loads(content), "ray_version": "2.1.0"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 60)
def test_a_cluster_of_another_ray_is_refused(head: Head, experiment: Path, tmp_path: Path) -> None:
    handler = type("Handler", (OtherVersion,), {"head": head})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        code, out, err = head.call(
            *("submit", experiment, "--address", url, "--store", tmp_path / "store")
        )
        server.shutdown()
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert re.match(
        r"benchmark: submit: Ray is \S+ here and 2\.1\.0 on the cluster: they must be", last
    )
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.timeout(START_TIMEOUT_S + 4 * JOB_TIMEOUT_S)
def test_no_secret_of_the_environment_is_in_what_the_cluster_writes_and_shows(
    head: Head, resumed: Resumed
) -> None:
    """Check the whole run and, because this test is the last, all earlier submissions."""
    token, shown = token_of(head), ask(head)
    assert json.loads(resumed.first)["submission_id"].encode() in shown
    written = [("stdout", f"{resumed.first}{resumed.out}".encode())]
    written += [("stderr", resumed.err.encode()), ("the job server", shown)]
    written += [*command_lines(head.home), *files_below(head.home, resumed.folder.parent)]
    assert any("/logs/job-driver-" in place for place, _ in written)
    assert find_secrets(written) == []
    assert [place for place, content in written if token.encode() in content] == []
