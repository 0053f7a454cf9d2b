"""The command ``submit``: check a cluster, send a run to it and, if asked, follow the run."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.printing import complain, note, print_json, say
from benchmark.errors import Interrupted, UsageError
from benchmark.experiment.file import describe_change
from benchmark.submission import plan as submission
from benchmark.submission import shipping
from benchmark.submission.jobserver import JobServer
from benchmark.submission.preflight import compare_ray
from benchmark.submission.probing import describe_python

if TYPE_CHECKING:
    from benchmark.submission.plan import Plan
    from benchmark.submission.preflight import Finding
    from benchmark.submission.shipping import Shipment


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    settings: tuple[str, ...] = ()
    store: str | None = None
    address: str | None = None
    follow: bool = False
    runtime_env: str = "none"
    dry_run: bool = False
    as_json: bool = False
    log_format: str = "text"


def submit_experiment(path: Path, options: Options) -> int:
    """Run the command and return its exit code.

    Raises:
        UsageError: the experiment, the address or the cluster cannot be used.
    """
    plan = submission.plan(
        path,
        settings=options.settings,
        store=options.store,
        runtime_env=options.runtime_env,
        log_format=options.log_format,
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-submit-") as folder:
        store = [] if "://" in plan.store else [Path(plan.store)]
        shipment = shipping.stage(plan.experiment, Path(folder), leave_out=store)
        server = JobServer(options.address)
        note(f"shipping {shipment}")
        compare_ray(str(describe_python()["packages"]["ray"]), server.ray_version)
        runtime_env = submission.build_runtime_env(plan.runtime_env, shipment)
        findings = submission.ask_cluster(server, plan, runtime_env)
        _judge(findings)
        if not options.dry_run:
            submission.send(server, plan, runtime_env)
    document = _describe(server, plan, shipment, findings)
    if options.dry_run:
        document |= dict.fromkeys(("submission_id", "follow", "stop"))
        return _end(document, options, "dry run: nothing was submitted")
    if not options.follow:
        again = ["benchmark", "submit", str(path), "--address", server.address]
        again += ["--store", plan.store, "--runtime-env", plan.runtime_env]
        again += [word for item in options.settings for word in ("--set", item)]
        text = (
            f"{plan.submission_id} was submitted\n"
            f"follow   {document['follow']}\n"
            f"stop     {document['stop']}\n"
            f"again    {shlex.join(again)}    (goes on where it ended)"
        )
        return _end(document, options, text)
    return _follow(server, plan, document, options)


def _follow(server: JobServer, plan: Plan, document: dict[str, Any], options: Options) -> int:
    job = plan.submission_id
    note(f"{job} was submitted")

    def write(piece: str) -> None:
        sys.stderr.write(piece)
        sys.stderr.flush()

    end = server.follow(
        job,
        write,
        on_interrupt=lambda: note(
            f"\n{job} goes on; stop it with: {server.command('stop', job)}; Ctrl-C again leaves it"
        ),
    )
    if end is None:
        raise Interrupted(f"left {job}, which goes on; follow it with: {document['follow']}")
    document |= {"status": end.status, "exit_code": end.exit_code}
    if end.reason:
        complain(f"{job}: {end.reason}", end.exit_code)
    if text := describe_change(plan.experiment):
        note(text)
    _end(document, options, f"{job}: {end.status.lower()}\n{plan.store}")
    return end.exit_code


def _judge(findings: list[Finding]) -> None:
    for level, text in findings:
        if level != "error":
            note(f"{'check' if level == 'ok' else level}: {text}")
    if errors := [text for level, text in findings if level == "error"]:
        raise UsageError(f"submit: {'; '.join(errors)}")


def _describe(
    server: JobServer, plan: Plan, shipment: Shipment, findings: list[Finding]
) -> dict[str, Any]:
    job = plan.submission_id
    return {
        "submission_id": job,
        "address": server.address,
        "store": plan.store,
        "status": None,
        "exit_code": None,
        "entrypoint": plan.entrypoint,
        "shipped": {"num_files": len(shipment.sizes), "num_bytes": shipment.num_bytes},
        "checks": [{"level": level, "text": text} for level, text in findings],
        "follow": server.command("logs --follow", job),
        "stop": server.command("stop", job),
    }


def _end(document: dict[str, Any], options: Options, text: str) -> int:
    if options.as_json:
        print_json(document)
    else:
        say(text)
    return 0
