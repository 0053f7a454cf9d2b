"""What a Ray cluster says about itself before it is given work; runs there, as ``jobs.probe``.

It must run wherever Python and Ray do, also where packages are missing: nothing is imported
before it is needed, and what goes wrong becomes part of the answer.
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

from benchmark.errors import CellError
from benchmark.submission.growth import describe_growth

if TYPE_CHECKING:
    from benchmark.store.files import Files

PACKAGES = (
    "ray", "torch", "transformers", "timm", "torchgeo", "scikit-learn", "optuna", "pyarrow", "numpy"
)  # fmt: skip
"""Whose versions are compared."""

MAX_NODES = 16
"""That are asked, one of each kind first."""
NODE_TIMEOUT_S = 45.0
"""For the answers of all nodes, where they install nothing first."""
HUB_TIMEOUT_S = 5.0
NUM_TRIES = 1
"""Of each operation on the store; Arrow's client repeats its requests by itself."""


def describe_python() -> dict[str, Any]:
    """Return the versions of Python and of the key packages; None: it is not installed."""
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

    Returns: ``resources`` of the cluster, ``growth`` (what ``describe_growth`` says), and of
        each asked node its versions and what it can reach; ``num_nodes`` counts also those that
        were not asked.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # As the driver of a run, which opens the store here and hands it to the nodes.
    asked = {**asked, "connection": _connection(asked["store"])}
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"]]
    chosen = choose_nodes(alive)

    def on_all(work: Callable[..., Any], *arguments: Any) -> list[Any]:
        # Without CPUs, so that a node which is full answers too.
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
                # A store that was not written is told by its own name.
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
    """Return what tells kinds of nodes apart, e.g. ``head, 8 CPU`` or ``4 CPU, 1 GPU``."""
    head = ["head"] if "node:__internal_head__" in resources else []
    return ", ".join([*head, *(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))])


def examine(node_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions on this node and what it can reach; writes its marker into the store."""
    models = list(asked["models"])
    made: list[str] = []
    return {
        **describe_python(),
        "store": _attempt(lambda: _write_marker(asked, node_id, made)),
        "made_by": "".join(made),
        "has_root": Path(asked["root"]).exists(),
        "reaches_hub": reaches_hub() if models else None,
        "missing_models": [name for name in models if not is_cached(name)],
    }


def list_markers(node_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes whose markers this node can read."""
    del node_id
    found: list[str] = []

    def read() -> None:
        files, folder = _open(asked), _marker_folder(asked)
        found.extend(files.read(f"{folder}/{name}").decode() for name in files.sizes(folder))

    return {"markers": found, "error": _attempt(read)}


def clear_markers(node_id: str, asked: Mapping[str, Any], makers: list[str]) -> dict[str, Any]:
    """Remove the markers, and the folder of a store that this node made for them."""

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
    """Return whether a model of the hub lies in this machine's cache, or is a folder here."""
    source, _, name = backbone.partition(":")
    if source == "hf" and Path(name).is_dir():
        return True
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    repository = f"timm/{name}" if source == "timm" else name.partition("@")[0]
    folder = "models--" + repository.replace("/", "--")
    # A name of timm without its tag means the default one.
    return any(cache.glob(folder if source == "hf" else f"{folder}*"))


def main(argument: str) -> None:
    """Answer on stdout with one line of JSON."""
    asked = json.loads(argument)
    answer: dict[str, Any] = {"probe": asked["marker"], **describe_python()}
    try:
        answer |= probe(asked)
    except Exception as error:
        answer["error"] = _line(error)
    sys.stdout.write(json.dumps(answer) + "\n")


def _connection(uri: str) -> dict[str, str] | None:
    """Return how this machine reaches the store; None: as each node does by itself."""
    try:
        from benchmark.store.files import Files

        return Files(uri).connection
    except Exception:
        # Whatever it is, a package that is missing or a wrong URI: the nodes will name it.
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
        # The finding names the store, and its marker is of no interest.
        reason = str(error).removeprefix(f"{join(files.uri, path)} cannot be written: ")
        raise CellError(reason) from None


def _result(reference: Any, timeout_s: float) -> dict[str, Any]:
    import ray

    try:
        return dict(ray.get(reference, timeout=0.1))
    except ray.exceptions.GetTimeoutError:
        return {"error": f"it does not answer within {timeout_s:.0f} s"}
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
