"""Reasons why a cluster cannot take a run are found in its answers, each in one line."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.config import build
from benchmark.errors import UsageError
from benchmark.submission.preflight import Finding, check, compare_ray
from benchmark.submission.probing import (
    PACKAGES,
    choose_nodes,
    clear_markers,
    describe_growth,
    describe_kind,
    describe_python,
    examine,
    has_root,
    is_cached,
    largest_cluster,
    list_markers,
    reaches_hub,
)
from tests.ranges import serve

ROOT = Path(__file__).parents[2]
VERSIONS = dict.fromkeys(PACKAGES, "1.2.3")
HERE = {"python": "3.11.7", "packages": VERSIONS}


def make_node(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "node": f"10.0.0.{number}", "id": f"id{number}", "kind": "2 CPU, 1 GPU", "error": "",
        "store": "", "sees": ["id1", "id2"], "has_root": True, "reaches_hub": None,
        "missing_models": [], **copy.deepcopy(HERE), **changes,
    }  # fmt: skip


def make_answer(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    nodes = nodes or (make_node(1), make_node(2))
    shapes = [[2.0, 1.0], [2.0, 1.0]]
    resources = {"CPU": 4.0, "GPU": 2.0, "memory": 1e10, "node_cpus": 2.0, "shapes": shapes}
    answer = {"probe": "x", "resources": resources, "num_nodes": len(nodes), "nodes": list(nodes)}
    return {**HERE, **answer, **changes}


def find(answer: dict[str, Any], level: str, **tables: Any) -> list[str]:
    content = {"name": "toy", "backbones": ["mean_color"]}
    experiment = build({**content, "dataset": {"name": "folder", "root": "/data"}, **tables})
    found = check(HERE, answer, experiment, store="/store")
    assert all(isinstance(item, Finding) and "\n" not in item.text for item in found)
    return [item.text for item in found if item.level == level]


def test_a_cluster_that_fits_is_described() -> None:
    answer = make_answer()
    assert find(answer, "error") == find(answer, "warning") == []
    assert find(answer, "ok") == [
        "2 nodes: [2 CPU, 1 GPU]",
        "Python 3.11.7",
        "packages: the same versions as here",
        "4 CPUs, 2 GPUs",
        "store '/store': written and read on every node",
        "data: '/data' exists on every node",
    ]


def test_another_minor_version_of_python_is_an_error_and_a_patch_is_none() -> None:
    assert find(make_answer(make_node(1, python="3.11.9", sees=["id1"])), "error") == []
    (text,) = find(make_answer(make_node(1), make_node(2, python="3.12.3")), "error")
    assert text == (
        "Python is 3.11.7 here and 3.12.3 on 10.0.0.2: submit from an environment with Python "
        "3.12, or use an image with 3.11"
    )


def test_another_ray_is_refused_before_anything_is_sent() -> None:
    compare_ray("2.60.0", "2.60.0")
    with pytest.raises(
        UsageError, match=r"Ray is 2\.60\.0 here and 2\.58\.0 on the cluster: .*pip in"
    ):
        compare_ray("2.60.0", "2.58.0")


def test_other_packages_are_warnings_and_missing_ones_errors() -> None:
    second = make_node(2)
    second["packages"] |= {"torch": "1.0.0", "timm": None}
    answer = make_answer(make_node(1), second)
    assert find(answer, "warning") == ["torch 1.2.3 here, 1.0.0 on 10.0.0.2"]
    (text,) = find(answer, "error")
    assert text.startswith("timm is missing on 10.0.0.2 (1.2.3 here): install it there, or")


def test_a_cluster_that_cannot_be_asked_says_what_is_known_of_its_head() -> None:
    alone = {"probe": "x", "python": "3.11.7", "error": "No module named 'pyarrow'"}
    lacking = {**alone, "packages": {**VERSIONS, "pyarrow": None}}
    assert find(lacking, "error")[0].startswith("pyarrow is missing on the head (1.2.3 here)")
    whole = {**alone, "packages": VERSIONS, "error": "the cluster is full"}
    assert find(whole, "error") == ["the cluster could not be probed: the cluster is full"]
    dead = make_answer(make_node(1, sees=["id1"]), {"node": "10.0.0.2", "id": "id2", "kind": "x",
                       "error": "the node died"})  # fmt: skip
    assert find(dead, "error") == ["node 10.0.0.2 cannot be used: the node died"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"embed": {"num_actors": 5}}, "[embed] num_actors = 5: the cluster has 2 GPUs"),
        (
            {"embed": {"num_actors": 3, "num_gpus": 1.0}},
            "[embed] num_actors = 3: the cluster has 2 GPUs",
        ),
        ({"embed": {"num_actors": 8, "num_gpus": 0.25}}, None),
        # One on each of two nodes.
        (
            {"embed": {"num_gpus": 2.0}},
            "[embed] num_gpus = 2: no node of the cluster has that",
        ),
        ({"finetune": {"num_workers": 3}}, "[finetune] num_workers = 3: the cluster has 2 GPUs"),
        ({"embed": {"num_actors": 2}, "finetune": {"num_workers": 2}}, None),
    ],
)
def test_more_gpus_than_there_are_are_refused(tables: dict[str, Any], message: str | None) -> None:
    found = find(make_answer(), "error", **tables)
    assert [text[: len(message or "")] for text in found] == ([message] if message else [])


def test_more_actors_than_gpus_need_a_share_that_is_asked_for() -> None:
    (refused,) = find(make_answer(), "error", embed={"num_actors": 3})
    assert refused == (
        "[embed] num_actors = 3: the cluster has 2 GPUs, one for each actor ([embed] num_gpus)"
    )
    assert find(make_answer(), "error", embed={"num_actors": 3, "num_gpus": 0.5}) == []


def grown(**changes: float) -> dict[str, float]:
    return {"CPU": 84.0, "GPU": 4.0, "memory": 0.0, "node_cpus": 16.0, **changes}


def test_what_an_autoscaler_may_start_counts() -> None:
    asked = {"embed": {"num_actors": 4}}
    text = "[embed] num_actors = 4: the cluster has 2 GPUs"
    (refused,) = find(make_answer(growth=None), "error", **asked)
    assert refused.startswith(text)
    for growth in (grown(), {}):
        answer = make_answer(growth=growth)
        assert find(answer, "error", **asked) == []
        (warned,) = find(answer, "warning", **asked)
        assert warned.startswith(text)
        assert "its autoscaler may start more" in warned
    (refused,) = find(make_answer(growth=grown(GPU=2.0)), "error", **asked)
    assert refused.endswith(", even at the maximum of its autoscaler")
    assert "4 CPUs, 2 GPUs; with the autoscaler up to 84 and 4" in find(
        make_answer(growth=grown()), "ok"
    )


def test_the_largest_cluster_is_that_of_the_cluster_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERAY_GEN_RAY_START_CMD", raising=False)
    assert describe_growth() is None
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --no-monitor --block")
    assert describe_growth() == {}
    file = tmp_path / "ray_bootstrap_config.yaml"
    shutil.copy(ROOT / "cluster.yaml", file)
    # A head of 4 cores, 4 workers of 16 and 4 of 4 with a GPU.
    assert describe_growth() == {"CPU": 84.0, "GPU": 4.0, "memory": 0.0, "node_cpus": 16.0}
    content = yaml.safe_load(file.read_text())
    content["max_workers"] = 5
    assert largest_cluster(content) == {"CPU": 36.0, "GPU": 4.0, "memory": 0.0, "node_cpus": 16.0}
    file.write_text("no: cluster")
    assert describe_growth() == {}


def test_a_store_that_only_one_node_sees_is_refused() -> None:
    answer = make_answer(make_node(1, sees=["id1"]), make_node(2, sees=["id2"]))
    (text,) = find(answer, "error")
    assert text.startswith(
        "store '/store' is not shared: 10.0.0.1 cannot read what 10.0.0.2 writes; choose one"
    )
    answer = make_answer(make_node(1), make_node(2, store="permission denied", sees=[]))
    (text,) = find(answer, "error")
    assert text.startswith("store '/store' cannot be written on 10.0.0.2: permission denied; choo")


def test_data_that_a_node_lacks_are_an_error_and_models_a_warning() -> None:
    answer = make_answer(make_node(1), make_node(2, has_root=False))
    assert find(answer, "error")[0].startswith(
        "[dataset] root = '/data' does not exist on 10.0.0.2: put the data where"
    )
    offline = {"reaches_hub": False, "missing_models": ["timm:resnet18"]}
    answer = make_answer(make_node(1, reaches_hub=True, missing_models=["a"]),
                         make_node(2, **offline))  # fmt: skip
    assert find(answer, "error") == []
    assert find(answer, "warning") == [
        "10.0.0.2 does not reach the Hugging Face hub, and its cache lacks timm:resnet18"
    ]


def test_data_on_a_server_must_be_reached_from_every_node(tmp_path: Path) -> None:
    dataset = {"name": "chesapeake", "root": "https://host/data"}
    answer = make_answer(make_node(1), make_node(2, has_root=False))
    assert find(answer, "error", dataset=dataset) == [
        "[dataset] root = 'https://host/data' cannot be reached from 10.0.0.2: check the network "
        "and the credentials there"
    ]
    found = find(make_answer(), "ok", dataset=dataset)
    assert "data: 'https://host/data' is reached from every node" in found
    with serve(tmp_path) as server:
        # A web server seldom shows a folder; its answer is enough.
        assert has_root(server.url)
    assert not has_root(server.url)
    assert not has_root("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http")


def ask(store: Path | str, **changes: Any) -> dict[str, Any]:
    return {"marker": "m", "store": str(store), "root": "/", "models": [], **changes}


def test_two_nodes_with_disks_of_their_own_do_not_see_each_other(tmp_path: Path) -> None:
    mine, shared = ask(tmp_path / "own"), ask(tmp_path / "shared")
    (tmp_path / "shared").mkdir()
    for asked, seen in ((mine, {"a"}), (shared, {"a", "b"})):
        answers = [examine(node, asked) for node in sorted(seen)]
        assert [answer["store"] for answer in answers] == [""] * len(seen)
        assert set(list_markers("a", asked)["markers"]) == seen
        for node in sorted(seen):
            clear_markers(node, asked, [item["made_by"] for item in answers])
    # Nothing is left, and a folder that was there stays.
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_node_says_what_it_cannot_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    answer = examine("a", ask(tmp_path / "file" / "store", root=str(tmp_path / "none")))
    assert answer["store"] == "Not a directory"
    assert answer["has_root"] is False
    assert answer["python"] == describe_python()["python"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (tmp_path / "models--org--net").mkdir()
    (tmp_path / "models--timm--resnet18.a1_in1k").mkdir()
    cached = ["hf:org/net@main", "timm:resnet18.a1_in1k", "timm:resnet18", f"hf:{tmp_path}"]
    assert [is_cached(name) for name in cached] == [True] * 4
    assert not is_cached("hf:org/nett")
    assert reaches_hub() is False


def test_one_node_of_each_kind_is_asked_first() -> None:
    head = {"Resources": {"CPU": 8.0, "node:__internal_head__": 1.0}}
    plain = {"Resources": {"CPU": 4.0}}
    gpu = {"Resources": {"CPU": 4.0, "GPU": 1.0}}
    chosen = choose_nodes([head, *[plain] * 30, gpu])
    assert chosen[:3] == [head, plain, gpu]
    assert len(chosen) <= 16
    assert describe_kind(head["Resources"]) == "head, 8 CPU, 0 GPU"
