"""Find reasons why a cluster cannot take a run, before the run is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from benchmark.catalog.roots.address import is_remote
from benchmark.cluster.connection import Node, Resources, count_of
from benchmark.cluster.pools import plan_pool
from benchmark.cluster.teams import plan_team
from benchmark.config import Experiment
from benchmark.errors import UsageError

NUM_NAMED = 3


class Finding(NamedTuple):
    """One line of the check; an error prevents the submission."""

    level: Literal["ok", "warning", "error"]
    text: str


def compare_ray(here: str, there: str) -> None:
    """Refuse a cluster whose version of Ray differs from ours.

    Raises:
        UsageError: with both versions and what to do.
    """
    if here != there:
        raise UsageError(
            f"submit: Ray is {here} here and {there} on the cluster: they must be equal; "
            f'pip install "ray[default,data,train,tune]=={there}" here, or use an image with {here}'
        )


def check(
    here: Mapping[str, Any], there: Mapping[str, Any], experiment: Experiment, *, store: str
) -> list[Finding]:
    """Return the findings for an experiment from the answers of a cluster.

    Args:
        here: ``probing.describe_python()`` of this machine.
        there: the answer of ``jobs.probe``.
        experiment: as it would be run.
        store: the URI of its artefacts.
    """
    python = [_compare_python(here["python"], {"the head": there["python"]})]
    if "error" in there:
        # The probe of the nodes failed, e.g. as a package is missing; the head's are known.
        found = [*python, *_compare_packages(here, [{"node": "the head", **there}])]
        if not any(item.level == "error" for item in found):
            found.append(Finding("error", f"the cluster could not be probed: {there['error']}"))
        return found
    nodes = [node for node in there["nodes"] if "python" in node]
    if not nodes:
        return [*python, *_check_nodes(there)]
    return [
        *_check_nodes(there),
        _compare_python(here["python"], {node["node"]: node["python"] for node in nodes}),
        *_compare_packages(here, nodes),
        *_check_resources(there["resources"], there.get("growth"), experiment),
        *_check_store(nodes, store),
        *_check_root(nodes, experiment.dataset.root),
        *_check_models(nodes),
    ]


def _check_nodes(there: Mapping[str, Any]) -> Iterator[Finding]:
    nodes, total = there["nodes"], there["num_nodes"]
    kinds = " and ".join(dict.fromkeys(f"[{node['kind']}]" for node in nodes))
    asked = "" if total == len(nodes) else f", {len(nodes)} of them probed"
    yield Finding("ok", f"{count_of(total, 'node')}{asked}: {kinds}")
    for node in nodes:
        if node["error"]:
            yield Finding("error", f"node {node['node']} cannot be used: {node['error']}")


def _compare_python(here: str, there: Mapping[str, str]) -> Finding:
    minor = here.split(".")[:2]
    for node, version in there.items():
        if version.split(".")[:2] != minor:
            wanted = ".".join(minor)
            return Finding(
                "error",
                f"Python is {here} here and {version} on {node}: submit from an environment with "
                f"Python {'.'.join(version.split('.')[:2])}, or use an image with {wanted}",
            )
    return Finding("ok", f"Python {', '.join(dict.fromkeys(there.values()))}")


def _compare_packages(
    here: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    differing = 0
    for name, version in here["packages"].items():
        lacking = [node["node"] for node in nodes if node["packages"].get(name) is None]
        if lacking:
            differing += 1
            yield Finding(
                "error",
                f"{name} is missing on {_some(lacking)} ({version} here): install it there, or "
                "submit with --runtime-env pip",
            )
            continue
        others = {node["packages"][name]: node["node"] for node in nodes}
        for other, node in others.items():
            if other != version:
                differing += 1
                level: Literal["warning", "error"] = "error" if name == "ray" else "warning"
                yield Finding(level, f"{name} {version or 'is missing'} here, {other} on {node}")
    if not differing:
        yield Finding("ok", "packages: the same versions as here")


def _check_resources(
    now: Mapping[str, Any], growth: Mapping[str, float] | None, experiment: Experiment
) -> Iterator[Finding]:
    """Compare an experiment's request with the resources that are up, and that may come.

    Args:
        now: the resources that are up, with ``shapes``, the CPUs and GPUs of each node.
        growth: of the largest cluster that an autoscaler may make; empty: unknown; None:
            no autoscaler.
        experiment: makes the request.
    """
    text = f"{count_of(now['CPU'], 'CPU')}, {count_of(now['GPU'], 'GPU')}"
    if growth:
        text += f"; with the autoscaler up to {growth['CPU']:g} and {growth['GPU']:g}"
    lack = _lack(now, experiment)
    if not lack:
        yield Finding("ok", text)
    elif growth is None:
        yield Finding("error", lack)
    elif growth and (lack_then := _lack(growth, experiment)):
        yield Finding("error", f"{lack_then}, even at the maximum of its autoscaler")
    else:
        yield Finding(
            "warning",
            f"{lack}; its autoscaler may start more, but they must be up when the stage begins: "
            "request them first (docs/CLUSTERS.md)",
        )


def _lack(resources: Mapping[str, Any], experiment: Experiment) -> str:
    """Return why an experiment's request does not fit a cluster; empty if it fits.

    Args:
        resources: of the cluster.
        experiment: makes the request.
    """
    found = Resources(
        num_cpus=resources["CPU"],
        num_gpus=resources["GPU"],
        memory=resources["memory"],
        node_cpus=resources["node_cpus"],
        nodes=tuple(Node(*shape) for shape in resources.get("shapes", ())),
    )
    embed = experiment.embed
    actors = None if embed.num_actors == "auto" else embed.num_actors
    training = experiment.finetune
    try:
        plan_pool(found, num_actors=actors, num_gpus=embed.gpus_of_actor)
        if training is not None:
            workers = None if training.num_workers == "auto" else training.num_workers
            plan_team(found, num_workers=workers, num_trials=1)
    except UsageError as error:
        return str(error)
    return ""


def _check_store(nodes: Sequence[Mapping[str, Any]], store: str) -> Iterator[Finding]:
    advice = "choose one that every node can read and write, e.g. --store s3://BUCKET/PREFIX"
    for node in nodes:
        if node["store"]:
            yield Finding(
                "error",
                f"store '{store}' cannot be written on {node['node']}: {node['store']}; {advice}",
            )
            return
    for node in nodes:
        for other in nodes:
            if other["id"] not in node["sees"]:
                yield Finding(
                    "error",
                    f"store '{store}' is not shared: {node['node']} cannot read what "
                    f"{other['node']} writes; {advice}",
                )
                return
    yield Finding("ok", f"store '{store}': written and read on every node")


def _check_root(nodes: Sequence[Mapping[str, Any]], root: str) -> Iterator[Finding]:
    lacking = [node["node"] for node in nodes if not node["has_root"]]
    if is_remote(root):
        if lacking:
            text = f"[dataset] root = '{root}' cannot be reached from {_some(lacking)}"
            yield Finding("error", f"{text}: check the network and the credentials there")
        else:
            yield Finding("ok", f"data: '{root}' is reached from every node")
    elif lacking:
        yield Finding(
            "error",
            f"[dataset] root = '{root}' does not exist on {_some(lacking)}: put the data where "
            "every node finds them, and give that path with --set dataset.root=PATH",
        )
    else:
        yield Finding("ok", f"data: '{root}' exists on every node")


def _check_models(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    asked = [node for node in nodes if node["reaches_hub"] is not None]
    for node in asked:
        if node["missing_models"] and not node["reaches_hub"]:
            yield Finding(
                "warning",
                f"{node['node']} does not reach the Hugging Face hub, and its cache lacks "
                f"{_some(node['missing_models'])}",
            )
            return
    if asked:
        yield Finding("ok", "models: cached, or the hub is reachable")


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
