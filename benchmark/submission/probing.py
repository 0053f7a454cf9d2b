"""Report the versions, resources and limits of a Ray cluster; runs there, as ``jobs.probe``.

It must run wherever Python and Ray do, even if packages are missing: every import waits until it
is needed, and errors become part of the answer.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError, CellError

if TYPE_CHECKING:
    from benchmark.store.files import Files

PACKAGES = (
    "ray", "torch", "transformers", "timm", "torchgeo", "scikit-learn", "optuna", "pyarrow", "numpy"
)  # fmt: skip
"""Packages whose versions are compared."""

MAX_NODES = 16
"""Nodes to ask at most, one of each kind first."""
NODE_TIMEOUT_S = 45.0
"""For the answers of all nodes, if they install no packages first."""
HUB_TIMEOUT_S = 5.0
NUM_TRIES = 1
"""Of each operation on the store; Arrow's client itself retries its requests."""
BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"
"""The cluster file that ``ray up`` leaves on a head, read by its autoscaler."""


def describe_python() -> dict[str, Any]:
    """Return the versions of Python and of the key packages; None: not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"python": platform.python_version(), "packages": versions}


def probe(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Ask every kind of node of the cluster of this job.

    Args:
        asked: ``store`` (URI), ``marker`` (a name that is new in it), ``root`` (of the data
            set), ``models`` (backbones of the hub), ``timeout_s`` (optional, for the nodes).

    Returns: ``resources`` of the cluster, ``growth`` (from ``describe_growth``), and for each
        asked node its versions and what it can reach; ``num_nodes`` counts all nodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Like the driver of a run: open the store here and hand the connection to the nodes.
    asked = {**asked, "connection": _connection(asked["store"])}
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"]]
    chosen = choose_nodes(alive)

    def on_all(work: Callable[..., Any], *arguments: Any) -> list[Any]:
        # Books no CPU, so that a fully booked node answers too.
        task = ray.remote(num_cpus=0, max_retries=0)(work)
        waiting = [
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(node["NodeID"], asked, *arguments)
            for node in chosen
        ]
        timeout_s = asked.get("timeout_s", NODE_TIMEOUT_S)
        ray.wait(waiting, num_returns=len(waiting), timeout=timeout_s)
        return [_result(item, timeout_s) for item in waiting]

    answers = on_all(examine)
    seen = on_all(list_markers)
    makers = [answer["made_by"] for answer in answers if answer.get("made_by")]
    on_all(clear_markers, makers)
    nodes = []
    for node, answer, markers in zip(chosen, answers, seen, strict=True):
        nodes.append(
            {
                **answer,
                "node": node["NodeManagerAddress"],
                "id": node["NodeID"],
                "kind": describe_kind(node["Resources"]),
                "sees": markers.get("markers", []),
                # A store that cannot be written is reported as ``store`` already.
                "error": _first(answer, {} if answer.get("store") else markers),
            }
        )
    total = ray.cluster_resources()
    shapes = [[float(node["Resources"].get(name, 0)) for name in ("CPU", "GPU")] for node in alive]
    return {
        "resources": {
            **{name: float(total.get(name, 0)) for name in ("CPU", "GPU", "memory")},
            "node_cpus": max((cpus for cpus, _ in shapes), default=0.0),
            "shapes": shapes,
        },
        "growth": describe_growth(),
        "num_nodes": len(alive),
        "nodes": nodes,
    }


def choose_nodes(alive: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the nodes to ask: one of each kind, then others, at most ``MAX_NODES``."""
    first: dict[str, Mapping[str, Any]] = {}
    for node in alive:
        first.setdefault(describe_kind(node["Resources"]), node)
    others = [node for node in alive if node not in first.values()]
    return [*first.values(), *others][:MAX_NODES]


def describe_kind(resources: Mapping[str, float]) -> str:
    """Return the kind of a node, e.g. ``head, 8 CPU`` or ``4 CPU, 1 GPU``."""
    head = ["head"] if "node:__internal_head__" in resources else []
    return ", ".join([*head, *(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))])


def examine(node_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return this node's versions and what it can reach; write its marker into the store."""
    models = list(asked["models"])
    made: list[str] = []
    return {
        **describe_python(),
        "store": _attempt(lambda: _write_marker(asked, node_id, made)),
        "made_by": "".join(made),
        "has_root": has_root(asked["root"]),
        "reaches_hub": reaches_hub() if models else None,
        "missing_models": [name for name in models if not is_cached(name)],
    }


def has_root(root: str) -> bool:
    """Return whether this node has the folder of the data, or its server answers."""
    from benchmark.catalog.roots.address import is_remote
    from benchmark.catalog.roots.root import open_root

    if not is_remote(root):
        return Path(root).exists()
    try:
        open_root(root).check_answer()
    except BenchmarkError:
        return False
    return True


def list_markers(node_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes whose markers this node can read."""
    del node_id
    found: list[str] = []

    def read() -> None:
        files, folder = _open(asked), _marker_folder(asked)
        found.extend(files.read(f"{folder}/{name}").decode() for name in files.sizes(folder))

    return {"markers": found, "error": _attempt(read)}


def clear_markers(node_id: str, asked: Mapping[str, Any], makers: list[str]) -> dict[str, Any]:
    """Remove the markers, and the store's folder if this node made it for them."""

    def clear() -> None:
        files, folder = _open(asked), _marker_folder(asked)
        for name in files.sizes(folder):
            files.delete(f"{folder}/{name}")
        files.remove_empty(folder)
        if files.is_local and node_id in makers:
            Path(files.root).rmdir()

    _attempt(clear)
    return {}


def reaches_hub() -> bool:
    """Return whether this machine reaches the Hugging Face hub."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def is_cached(backbone: str) -> bool:
    """Return whether a model of the hub is cached on this machine, or is a folder here."""
    source, _, name = backbone.partition(":")
    if source == "hf" and Path(name).is_dir():
        return True
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    repository = f"timm/{name}" if source == "timm" else name.partition("@")[0]
    folder = "models--" + repository.replace("/", "--")
    # A timm name without a tag means the default tag.
    return any(cache.glob(folder if source == "hf" else f"{folder}*"))


def describe_growth() -> dict[str, float] | None:
    """Return the resources of the largest cluster that this head's autoscaler may make.

    Ray reports them to no client: they are in the cluster file that ``ray up`` leaves on the
    head. KubeRay keeps them elsewhere, and only the head's start command shows that it scales.

    Returns: ``CPU``, ``GPU``, ``memory`` and ``node_cpus`` of the largest cluster; an empty
        mapping if unknown; None without an autoscaler.
    """
    file = Path(BOOTSTRAP_FILE).expanduser()
    if file.is_file():
        import yaml

        try:
            return largest_cluster(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            return {}
    # KubeRay's autoscaler runs beside the head and replaces Ray's monitor.
    return {} if "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "") else None


def largest_cluster(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the resources of the largest cluster that a cluster file allows."""
    names = ("CPU", "GPU", "memory")
    total, left = dict.fromkeys((*names, "node_cpus"), 0.0), int(config["max_workers"])
    head = config["head_node_type"]
    kinds = config["available_node_types"]
    # Types with the most GPUs first: the limit on all workers may exclude the others.
    order = sorted(kinds, key=lambda kind: -float(kinds[kind].get("resources", {}).get("GPU", 0)))
    for kind in order:
        resources = kinds[kind].get("resources", {})
        count = 1 if kind == head else min(left, int(kinds[kind].get("max_workers", left)))
        left -= 0 if kind == head else count
        for name in names:
            total[name] += count * float(resources.get(name, 0))
        if count:
            total["node_cpus"] = max(total["node_cpus"], float(resources.get("CPU", 0)))
    return total


def main(argument: str) -> None:
    """Write the answer to stdout as one line of JSON."""
    asked = json.loads(argument)
    answer: dict[str, Any] = {"probe": asked["marker"], **describe_python()}
    try:
        answer |= probe(asked)
    except Exception as error:
        answer["error"] = _line(error)
    sys.stdout.write(json.dumps(answer) + "\n")


def _connection(uri: str) -> dict[str, str] | None:
    """Return how this machine reaches the store; None: each node finds its own way."""
    try:
        from benchmark.store.files import Files

        return Files(uri).connection
    except Exception:
        # Any error, e.g. a missing package or a wrong URI: the nodes will report it.
        return None


def _open(asked: Mapping[str, Any]) -> Files:
    from benchmark.store.files import Files

    return Files(asked["store"], asked.get("connection"), num_tries=NUM_TRIES)


def _marker_folder(asked: Mapping[str, Any]) -> str:
    return f".preflight-{asked['marker']}"


def _write_marker(asked: Mapping[str, Any], node_id: str, made: list[str]) -> None:
    from benchmark.store.filesystems import join

    files, path = _open(asked), f"{_marker_folder(asked)}/{node_id}"
    if files.is_local and not Path(files.root).exists():
        made.append(node_id)
    try:
        files.write(path, node_id.encode())
    except CellError as error:
        # The finding names the store; leave the marker's path out.
        reason = str(error).removeprefix(f"{join(files.uri, path)} cannot be written: ")
        raise CellError(reason) from None


def _result(reference: Any, timeout_s: float) -> dict[str, Any]:
    import ray

    try:
        return dict(ray.get(reference, timeout=0.1))
    except ray.exceptions.GetTimeoutError:
        return {"error": f"no answer within {timeout_s:.0f} s"}
    except Exception as error:
        return {"error": _line(error)}


def _attempt(work: Callable[[], None]) -> str:
    try:
        work()
    except Exception as error:
        return _line(error)
    return ""


def _first(*answers: Mapping[str, Any]) -> str:
    return next((str(item["error"]) for item in answers if item.get("error")), "")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return lines[-1] if lines else type(error).__name__
