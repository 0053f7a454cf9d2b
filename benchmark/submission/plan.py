"""Plan an experiment as a job of a Ray cluster, check it there, and send it."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
import tomllib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmark import config
from benchmark.catalog.roots.address import is_remote
from benchmark.config import Experiment
from benchmark.derived import sources_of
from benchmark.errors import UsageError
from benchmark.store.uris import check_uri
from benchmark.submission.jobserver import JobServer
from benchmark.submission.preflight import Finding, check
from benchmark.submission.probing import describe_python
from benchmark.submission.shipping import SOURCES, Shipment

RuntimeEnv = Literal["none", "pip", "uv"]

PROBE_TIMEOUT_S = 120.0
INSTALL_TIMEOUT_S = 1200.0
"""For clusters that install packages first."""
STOP_WAIT_S = 20
"""Between the SIGTERM and the SIGKILL of ``ray job stop``; Ray's default is 3 s."""


@dataclass(frozen=True)
class Plan:
    """A run as it will be submitted."""

    experiment: Experiment
    store: str
    entrypoint: str
    submission_id: str
    runtime_env: RuntimeEnv


def plan(
    path: Path,
    *,
    settings: Sequence[str] = (),
    store: str | None = None,
    runtime_env: str = "none",
    log_format: str = "text",
) -> Plan:
    """Check what can be checked on this machine.

    Args:
        path: the experiment file.
        settings: ``KEY=VALUE``.
        store: overrides the experiment's.
        runtime_env: ``none`` uses the cluster's image; ``pip`` or ``uv`` install packages.
        log_format: of the job's log: ``text`` or ``json``.

    Raises:
        UsageError: the experiment is wrong, or names something that a job cannot find.
    """
    if runtime_env not in ("none", "pip", "uv"):
        raise UsageError(f"--runtime-env {runtime_env}: write none, pip or uv")
    experiment = load(path, settings)
    place = store or experiment.store
    check_uri(place)
    _refuse_relative(experiment, place)
    arguments = [item for value in settings for item in ("--set", value)]
    arguments += ["--log-format", log_format] if log_format != "text" else []
    command = ["python", "-m", "jobs.run", f"experiments/{path.name}", "--store", place, *arguments]
    return Plan(
        experiment=experiment,
        store=place,
        entrypoint=shlex.join(command),
        submission_id=name_job(experiment.name),
        runtime_env=runtime_env,  # type: ignore[arg-type]
    )


def load(path: Path, settings: Iterable[str]) -> Experiment:
    """Load an experiment; models of other sources are checked where the job runs.

    Raises:
        UsageError: the file, a setting or a name of the catalog is wrong.
    """
    from benchmark.catalog.names import check_names

    experiment = config.load(path, settings)
    ours = tuple(
        name
        for name in experiment.backbones
        if not any(model.startswith(SOURCES) for model in sources_of(experiment, name))
    )
    if ours == experiment.backbones:
        check_names(experiment)
    else:
        # They may be missing on this machine: they are checked when the job begins.
        check_names(experiment.model_copy(update={"backbones": ours, "finetune": None}))
    return experiment


def name_job(experiment: str) -> str:
    """Return a new submission id, e.g. ``quickstart-20260131-120000-1f0c``."""
    return f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def build_runtime_env(kind: RuntimeEnv, shipment: Shipment) -> dict[str, Any]:
    """Return Ray's runtime environment: the shipped folder, and packages where asked for."""
    found: dict[str, Any] = {
        "working_dir": str(shipment.folder),
        "env_vars": {
            # Without it the log of a job comes in blocks.
            "PYTHONUNBUFFERED": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        },
    }
    if kind != "none":
        found[kind] = {"packages": list_packages(shipment.folder)}
    return found


def list_packages(folder: Path) -> list[str]:
    """Return the package's requirements except Ray, which the cluster has.

    A checkout lists them in pyproject.toml, pinned by constraints.txt; an installed package in its
    metadata.
    """
    project, constraints = folder / "pyproject.toml", folder / "constraints.txt"
    if project.is_file():
        needed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        needed = [
            item for item in metadata.requires("backbone-benchmark") or [] if "extra ==" not in item
        ]
    pins: dict[str, str] = {}
    if constraints.is_file():
        lines = constraints.read_text(encoding="utf-8").splitlines()
        pairs = [line.strip().partition("==") for line in lines]
        pins = {canonicalize_name(name): version for name, at, version in pairs if at}
    found = []
    for requirement in needed:
        name = Requirement(requirement).name
        if canonicalize_name(name) != "ray":
            pin = pins.get(canonicalize_name(name))
            found.append(f"{name}=={pin}" if pin else requirement)
    if pins:
        # Ray caches an installation by the text of these lines; new pins must change it.
        digest = hashlib.blake2b(constraints.read_bytes(), digest_size=8).hexdigest()
        found.append("-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt")
        found.append(f"# of {digest}")
    return found


def ask_cluster(server: JobServer, plan: Plan, runtime_env: dict[str, Any]) -> list[Finding]:
    """Submit the probe, wait for its answer and judge it.

    Raises:
        UsageError: the cluster does not run the probe.
    """
    marker = f"probe-{uuid.uuid4().hex[:8]}"
    models = dict.fromkeys(map(plan.experiment.model_of, plan.experiment.backbones))
    asked: dict[str, Any] = {
        "marker": marker,
        "store": plan.store,
        "root": plan.experiment.dataset.root,
        "models": [name for name in models if name.startswith(SOURCES[:2])],
    }
    timeout_s = PROBE_TIMEOUT_S
    if plan.runtime_env != "none":
        # The head installs first, then every other node.
        timeout_s, asked["timeout_s"] = INSTALL_TIMEOUT_S, INSTALL_TIMEOUT_S / 2
    server.submit(
        marker,
        entrypoint=shlex.join(["python", "-m", "jobs.probe", json.dumps(asked)]),
        runtime_env=runtime_env,
    )
    try:
        end = server.wait(marker, timeout_s=timeout_s)
        log = server.logs(marker)
    finally:
        server.remove(marker)
    where = f"--address {server.address}"
    if end is None:
        raise UsageError(f"{where}: the probe job did not end within {timeout_s:.0f} s")
    answer = read_answer(log, marker)
    if answer is None:
        said = end.reason or next(reversed(log.strip().splitlines()), end.status)
        raise UsageError(f"{where}: the probe job failed: {said}")
    return check(describe_python(), answer, plan.experiment, store=plan.store)


def read_answer(log: str, marker: str) -> dict[str, Any] | None:
    """Return the probe's answer from its log, which may hold lines of Ray too."""
    for line in reversed(log.splitlines()):
        if line.startswith('{"probe"'):
            answer: dict[str, Any] = json.loads(line)
            if answer["probe"] == marker:
                return answer
    return None


def send(server: JobServer, plan: Plan, runtime_env: dict[str, Any]) -> None:
    """Submit the run."""
    server.submit(
        plan.submission_id,
        entrypoint=plan.entrypoint,
        runtime_env=runtime_env,
        metadata={"experiment": plan.experiment.name, "store": plan.store},
    )


def _refuse_relative(experiment: Experiment, store: str) -> None:
    """Refuse relative paths: a job's own folder is deleted with its content."""
    where = experiment.path
    if "://" not in store and not Path(store).is_absolute():
        raise UsageError(
            f"{where}: store = '{store}' is relative, and a job has a folder of its own: give a "
            "path or URI that every node can reach, e.g. --store s3://BUCKET/PREFIX"
        )
    root = experiment.dataset.root
    if not (is_remote(root) or Path(root).is_absolute()):
        raise UsageError(
            f"{where} [dataset]: root = '{root}' is relative, and data are not shipped: give their "
            "path on the nodes with --set dataset.root=/PATH"
        )
    labels = experiment.dataset.labels
    if labels is not None and not Path(labels).is_absolute():
        raise UsageError(
            f"{where} [dataset]: labels = '{labels}' is relative, and tables are not shipped: give "
            "its path on the nodes with --set dataset.labels=/PATH"
        )
    for name in map(experiment.model_of, experiment.backbones):
        source, _, path = name.partition(":")
        is_place = source == "embeddings" or (source == "hf" and Path(path).is_dir())
        if is_place and not (is_remote(path) or Path(path).is_absolute()):
            raise UsageError(
                f"{where}: backbone '{name}' is on this machine alone, and is not shipped: "
                "copy it to where every node can read it and give that absolute path"
            )
