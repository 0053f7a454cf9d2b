"""A submission is planned and judged before anything is sent; every mistake is one line."""

from __future__ import annotations

import json
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import submit as cli_submit
from benchmark.cli.commands import invoke
from benchmark.errors import UsageError
from benchmark.submission import jobserver
from benchmark.submission import plan as submission
from benchmark.submission.jobserver import JobEnd, JobServer, check_address
from benchmark.submission.shipping import Shipment
from tests.strangers import FILES, write

URL = "http://127.0.0.1:8265"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(
        'name = "toy"\nbackbones = ["mean_color"]\nstore = "/shared/runs"\n'
        '[dataset]\nname = "folder"\nroot = "/shared/images"\n'
    )
    return path


def test_a_job_runs_what_the_command_line_would(experiment: Path) -> None:
    plan = submission.plan(experiment, settings=["seeds=[1, 2]"], store="s3://bucket/a b")
    assert shlex.split(plan.entrypoint) == [
        *("python", "-m", "jobs.run", "experiments/toy.toml"),
        *("--store", "s3://bucket/a b", "--set", "seeds=[1, 2]"),
    ]
    assert plan.experiment.seeds == (1, 2)
    assert submission.plan(experiment).store == "/shared/runs"
    json_log = submission.plan(experiment, log_format="json").entrypoint
    assert json_log == f"{submission.plan(experiment).entrypoint} --log-format json"
    assert plan.submission_id != submission.plan(experiment).submission_id


def test_data_on_a_server_need_no_path_on_the_nodes(experiment: Path) -> None:
    settings = ("dataset.name=chesapeake", "dataset.root=https://host/data")
    plan = submission.plan(experiment, settings=settings)
    assert plan.experiment.dataset.root == "https://host/data"
    with pytest.raises(UsageError, match="root must not hold a password"):
        submission.plan(experiment, settings=("dataset.root=https://me:secret@host/data",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "runs"], r"store = 'runs' is relative, and a job has a folder of its own"),
        (
            ["--set", "dataset.name=folder", "--set", "dataset.labels=l.csv"],
            r"\[dataset\]: labels = 'l.csv' is relative, and tables are not shipped",
        ),
        (["--set", "dataset.root=data"], r"\[dataset\]: root = 'data' is relative, and data are"),
        (
            ["--set", "backbones=['hf:net']"],
            "'hf:net' is on this machine alone, and is not shipped",
        ),
        (
            ["--set", "backbones=['embeddings:a.csv']"],
            "a.csv' is on this machine alone",
        ),
        (["--set", "heads=['knnn']"], r"unknown head 'knnn'\. Did you mean 'knn'"),
        (["--store", "s3://key:s3cr3t@bucket/x"], "URI of a store must not hold credentials"),
        (["--runtime-env", "conda"], "--runtime-env conda: write none, pip or uv"),
        ([], "give the cluster's job server, e.g. --address http"),
        (["--address", "127.0.0.1:6379"], "--address 127.0.0.1:6379: not a job server; give the"),
        (["--address", "http://me:s3cr3t@host"], "--address holds a password"),
    ],
)
def test_a_mistake_is_one_line_before_anyone_is_asked(
    experiment: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path)
    assert invoke(["submit", str(experiment), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert re.search(message, err)
    assert "s3cr3t" not in err


def test_models_of_other_sources_are_left_to_the_cluster(experiment: Path) -> None:
    names = "backbones=['hf:org/not-here', 'mean_color']"
    assert len(submission.plan(experiment, settings=[names]).experiment.backbones) == 2
    with pytest.raises(UsageError, match="unknown backbone 'mean_colour'"):
        submission.plan(experiment, settings=["backbones=['hf:org/not-here', 'mean_colour']"])


def test_a_model_under_a_name_of_ones_own_is_left_to_the_cluster_too(experiment: Path) -> None:
    names = "backbones=['late', 'mean_color']"
    model = 'backbone.late.model="hf:org/not-here"'
    plan = submission.plan(experiment, settings=[names, model])
    assert plan.experiment.model_of("late") == "hf:org/not-here"
    with pytest.raises(UsageError, match="unknown backbone 'mean_colour'"):
        submission.plan(experiment, settings=["backbones=['late', 'mean_colour']", model])


def test_what_is_made_from_models_of_other_sources_is_left_to_the_cluster(experiment: Path) -> None:
    names = "backbones=['small', 'hf:org/not-here']"
    table = 'backbone.small={of = "hf:org/not-here", pca = 8}'
    plan = submission.plan(experiment, settings=[names, table])
    assert plan.experiment.backbones == ("small", "hf:org/not-here")


def test_own_code_is_checked_before_anyone_is_asked(experiment: Path, own_folder: Path) -> None:
    write(own_folder, FILES)
    settings = ["backbones=['stranger.nets:build']", "heads=['stranger.heads:Forest']"]
    plan = submission.plan(experiment, settings=settings)
    assert "stranger.nets:build" in plan.entrypoint
    with pytest.raises(UsageError, match=r"has no 'Forrest'\. Did you mean 'Forest'"):
        submission.plan(experiment, settings=[*settings[:1], "heads=['stranger.heads:Forrest']"])


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265/")
    assert check_address(None) == "http://head:8265"
    assert check_address(URL) == URL


def test_an_address_that_does_not_answer_is_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobserver, "ANSWER_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        # It takes connections, and says nothing.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"^--address {url}: no job server answers there; ch"):
            JobServer(url)
    with pytest.raises(UsageError, match=rf"^--address {url}: no job server answers there; check"):
        JobServer(url)


def make_shipment(folder: Path, *, is_checkout: bool) -> Shipment:
    if is_checkout:
        (folder / "pyproject.toml").write_text(
            '[project]\ndependencies = ["Ray[data]>=2", "scikit_learn>=1.6", "numpy>=2", "x>1"]\n'
        )
        (folder / "constraints.txt").write_text("# all\nscikit-learn==1.8.0\nnumpy==2.4.6\n")
    return Shipment(folder, {}, "experiments/toy.toml")


@pytest.mark.parametrize("kind", ["pip", "uv"])
def test_packages_are_installed_as_the_project_says_where_asked(tmp_path: Path, kind: Any) -> None:
    shipment = make_shipment(tmp_path, is_checkout=True)
    plain = submission.build_runtime_env("none", shipment)
    assert set(plain) == {"working_dir", "env_vars"}
    found = submission.build_runtime_env(kind, shipment)
    *packages, digest = found[kind]["packages"]
    assert packages == [
        *("scikit_learn==1.8.0", "numpy==2.4.6", "x>1"),
        "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt",
    ]
    assert digest.startswith("# of ")
    assert not any("TOKEN" in name for name in found["env_vars"])


@pytest.mark.parametrize("kind", ["pip", "uv"])
def test_other_constraints_are_installed_anew(tmp_path: Path, kind: Any) -> None:
    """Ray keeps an installation by its key, which does not look into the constraints."""
    from ray._private.runtime_env import pip, uv
    from ray.runtime_env import RuntimeEnv

    def key() -> str:
        found = submission.build_runtime_env(kind, shipment)
        # Uploaded, it has an address; another one would be another key of uv by itself.
        found["working_dir"] = "gcs://_ray_pkg_of_the_tests.zip"
        return str({"pip": pip, "uv": uv}[kind].get_uri(RuntimeEnv(**found)))

    shipment = make_shipment(tmp_path, is_checkout=True)
    first = key()
    assert key() == first
    with (tmp_path / "constraints.txt").open("a") as file:
        file.write("a-dependency-of-a-dependency==1.0\n")
    assert key() != first


def test_an_installed_package_names_its_own_requirements(tmp_path: Path) -> None:
    packages = submission.list_packages(make_shipment(tmp_path, is_checkout=False).folder)
    names = {item.replace("<", ">").split(">")[0] for item in packages}
    assert {"torch", "numpy", "optuna"} <= names
    assert not names & {"ray", "pytest"}


def test_the_answer_is_found_among_what_ray_says() -> None:
    log = '{"probe": "b"}\nWARN x\n{"probe": "a", "python": "3.11.7"}\n(raylet) bye\n'
    assert submission.read_answer(log, "a") == {"probe": "a", "python": "3.11.7"}
    assert submission.read_answer("Traceback\n", "a") is None


class Server:
    """A job server that answers the probe as it is told, and remembers what was sent."""

    address = URL
    ray_version = submission.describe_python()["packages"]["ray"]

    def __init__(self, *, findings: list[Any] | None = None, end: JobEnd | None = None) -> None:
        self.sent: list[str] = []
        self.findings, self.end = findings or [], end

    def submit(self, submission_id: str, **_: Any) -> None:
        self.sent.append(submission_id)

    def command(self, verb: str, submission_id: str) -> str:
        return f"ray job {verb} {submission_id}"

    def follow(self, submission_id: str, write: Any, *, on_interrupt: Any) -> JobEnd | None:
        write("half done\n")
        on_interrupt()
        return self.end


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(server: Server) -> Server:
        monkeypatch.setattr(cli_submit, "JobServer", lambda _: server)
        monkeypatch.setattr(submission, "ask_cluster", lambda *_: server.findings)
        return server

    return put


def test_another_ray_and_every_error_keep_the_run_from_being_sent(
    serve: Any, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.submission.preflight import Finding

    server = serve(Server())
    server.ray_version = "2.1.0"
    assert invoke(["submit", str(experiment), "--address", URL]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert " here and 2.1.0 on the cluster: they must be equal" in line
    server = serve(Server(findings=[Finding("error", "no"), Finding("error", "never")]))
    assert invoke(["submit", str(experiment), "--address", URL]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "benchmark: submit: no; never"
    assert server.sent == []


def test_a_dry_run_sends_nothing(
    serve: Any, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Server())
    assert invoke(["submit", str(experiment), "--address", URL, "--dry-run"]) == 0
    assert capsys.readouterr().out == "dry run: nothing was submitted\n"
    assert server.sent == []


def test_what_was_submitted_is_told_to_people_and_to_programs(
    serve: Any, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(Server())
    submit = ("submit", str(experiment), "--address", URL, "--set", "seeds=[1, 2]")
    assert invoke(submit) == 0
    lines = capsys.readouterr().out.splitlines()
    (job,) = server.sent
    assert lines == [
        f"{job} was submitted",
        f"follow   ray job logs --follow {job}",
        f"stop     ray job stop {job}",
        f"again    benchmark submit {experiment} --address {URL} --store /shared/runs "
        "--runtime-env none --set 'seeds=[1, 2]'    (goes on where it ended)",
    ]
    assert invoke([*submit, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["submission_id"] == server.sent[1]
    assert document["store"] == "/shared/runs"
    assert document["exit_code"] is None


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (JobEnd("SUCCEEDED", 0, ""), 0, ""),
        (JobEnd("FAILED", 2, ""), 2, ""),
        (JobEnd("STOPPED", 1, "it was stopped"), 1, ": it was stopped"),
        (None, 130, "benchmark: left toy-"),
    ],
)
def test_following_ends_with_the_code_of_the_run(
    serve: Any,
    experiment: Path,
    end: JobEnd | None,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(Server(end=end))
    assert invoke(["submit", str(experiment), "--address", URL, "--follow"]) == code
    out, err = capsys.readouterr()
    (job,) = server.sent
    assert f"{job} goes on; stop it with: ray job stop {job}; Ctrl-C again leaves it" in err
    assert said in err
    assert out == ("" if end is None else f"{job}: {end.status.lower()}\n/shared/runs\n")
