"""The manifests for Kubernetes, the image and the Slurm script, offline.

The schema in ``resources`` knows only what the manifests use; the whole CRDs of KubeRay (2.3 MB)
are checked as well where their folder is given:

    KUBERAY_CRDS=kuberay/helm-chart/kuberay-operator/crds pytest tests/clusters/test_kubernetes.py
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters" / "kubernetes"
KINDS = {"raycluster": "RayCluster", "rayjob": "RayJob"}
PART_OF = {"app.kubernetes.io/part-of": "backbone-benchmark"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def document(name: str) -> dict[str, Any]:
    (content,) = documents(name)
    return content


def cluster_of(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = document(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def num_bytes(quantity: str) -> int:
    number = re.fullmatch(r"(\d+)Gi", quantity)
    assert number is not None
    return int(number[1]) * 2**30


def own_errors(content: dict[str, Any]) -> list[str]:
    schema = json.loads((ROOT / "tests/resources/kuberay.schema.json").read_text())
    kind = {"$defs": schema["$defs"], "$ref": f"#/$defs/{content['kind']}"}
    return [error.message for error in jsonschema.Draft202012Validator(kind).iter_errors(content)]


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_accepts_it(name: str) -> None:
    content = document(name)
    assert content["kind"] == KINDS[name]
    assert own_errors(content) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("authOptions", "mode"), "tokens", "'tokens' is not one of"),
        (("authoptions",), {"mode": "token"}, "'authoptions' was unexpected"),
        (("workerGroupSpecs", 0, "maxReplicas"), "4", "'4' is not of type 'integer'"),
        (("workerGroupSpecs", 0, "groupname"), "cpu", "'groupname' was unexpected"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 2, "2 is not of type 'string'"),
    ],
)
def test_the_schema_refuses_a_broken_copy(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    content = copy.deepcopy(document("rayjob"))
    place: Any = content["spec"]["rayClusterSpec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(message in error for error in own_errors(content))


def closed(schema: Any) -> Any:
    """Let a CRD refuse unknown keys, as the server does with strict field validation."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder")
@pytest.mark.parametrize("name", KINDS)
def test_the_whole_crd_accepts_it(name: str) -> None:
    path = Path(os.environ["KUBERAY_CRDS"]) / f"ray.io_{name}s.yaml"
    crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    content = document(name)
    (version,) = [
        item
        for item in crd["spec"]["versions"]
        if f"{crd['spec']['group']}/{item['name']}" == content["apiVersion"]
    ]
    schema = closed(version["schema"]["openAPIV3Schema"])
    # Of every kind alike, and not in a CRD.
    schema["properties"]["metadata"] = {"type": "object"}
    errors = jsonschema.Draft7Validator(schema).iter_errors(content)
    assert [error.message for error in errors] == []


def test_both_clusters_differ_only_where_they_must() -> None:
    standing, once = cluster_of("raycluster"), cluster_of("rayjob")
    # KubeRay reads the state of a job from the job server, and starts a job when workers are up.
    assert standing["headGroupSpec"]["rayStartParams"].pop("dashboard-host") == "127.0.0.1"
    for group in standing["workerGroupSpecs"]:
        assert (group.pop("replicas"), group.pop("minReplicas")) == (0, 0)
    for group in once["workerGroupSpecs"]:
        assert (group.pop("replicas"), group.pop("minReplicas")) == (2, 2)
    assert standing == once


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_on_and_statistics_off(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    for group in groups(cluster):
        assert group["rayStartParams"].get("dashboard-host", "127.0.0.1") == "127.0.0.1"
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    assert "0.0.0.0" not in yaml.safe_dump(cluster)


@pytest.mark.parametrize("name", KINDS)
def test_ray_is_that_of_the_image(name: str) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster_of(name)["rayVersion"] == pinned[1]


@pytest.mark.parametrize("name", KINDS)
def test_pods_are_not_root_and_hold_no_secret(name: str) -> None:
    for group in groups(cluster_of(name)):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["serviceAccountName"] == "benchmark"
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["envFrom"] == [
            {"secretRef": {"name": "benchmark-store", "optional": True}}
        ]
        assert container["image"] == "<IMAGE>"
    kinds = {item["kind"] for path in FOLDER.glob("*.yaml") for item in documents(path.stem)}
    assert "Secret" not in kinds


@pytest.mark.parametrize("name", KINDS)
def test_objects_fit_and_spill(name: str) -> None:
    for group in groups(cluster_of(name)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        params = group["rayStartParams"]
        mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
        volumes = {item["name"]: item for item in pod["volumes"]}
        assert set(mounts.values()) == set(volumes)

        shared = volumes[mounts["/dev/shm"]]["emptyDir"]
        limits = container["resources"]["limits"]
        assert shared["medium"] == "Memory"
        assert int(params["object-store-memory"]) < num_bytes(shared["sizeLimit"])
        assert num_bytes(shared["sizeLimit"]) < num_bytes(limits["memory"]) / 2
        assert "emptyDir" in volumes[mounts[params["object-spilling-directory"]]]


@pytest.mark.parametrize("name", KINDS)
def test_workers_of_both_kinds_scale(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["enableInTreeAutoscaling"] is True
    cpu, gpu = cluster["workerGroupSpecs"]
    for group in (cpu, gpu):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    tolerated = {item["key"] for item in gpu["template"]["spec"]["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= tolerated
    (container,) = cpu["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


def test_what_the_manifests_name_exists() -> None:
    account, claim, policy = documents("access")
    assert (account["kind"], account["metadata"]["name"]) == ("ServiceAccount", "benchmark")
    assert claim["kind"] == "PersistentVolumeClaim"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert policy["spec"]["podSelector"] == {"matchLabels": PART_OF}
    for name in KINDS:
        for group in groups(cluster_of(name)):
            template = group["template"]
            assert template["metadata"]["labels"] == PART_OF
            claims = [
                item["persistentVolumeClaim"]["claimName"]
                for item in template["spec"]["volumes"]
                if "persistentVolumeClaim" in item
            ]
            assert claims == [claim["metadata"]["name"]]
    named = re.findall(r"/opt/backbone-benchmark/(\S+)", document("rayjob")["spec"]["entrypoint"])
    assert named == ["experiments/quickstart.toml"]
    assert (ROOT / named[0]).is_file()


def test_only_the_job_server_is_open_to_others() -> None:
    policy = documents("access")[2]
    inside, outside = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": PART_OF}}]}
    assert outside["ports"] == [{"port": 8265, "protocol": "TCP"}]
    assert all(source["podSelector"]["matchLabels"] for source in outside["from"])


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def values(name: str) -> list[str]:
    return [value for key, value in instructions() if key == name]


def test_the_image_is_pinned_and_installs_with_constraints() -> None:
    (base,) = values("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    installs = [line for line in values("RUN") if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line and "--no-cache-dir" in line for line in installs)


def test_the_image_does_not_run_as_root_and_opens_nothing() -> None:
    names = [name for name, _ in instructions()]
    user = values("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert names.index("USER") > max(n for n, name in enumerate(names) if name == "RUN")
    assert not {"EXPOSE", "ADD"} & set(names)
    for group in groups(cluster_of("rayjob")):
        assert str(group["template"]["spec"]["securityContext"]["runAsUser"]) in user.split(":")


def test_the_image_holds_no_secret() -> None:
    text = "\n".join(values("ENV") + values("ARG") + values("RUN"))
    assert not re.search(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY|0\.0\.0\.0", text, re.IGNORECASE)


def test_the_image_gets_what_it_copies_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {Path(item).name for line in values("COPY") for item in line.split()[:-1]}
    assert copied == sent
    for name in copied:
        assert (ROOT / name).exists(), name
    assert {"pyproject.toml", "constraints.txt", "benchmark", "jobs"} <= copied


SCRIPT = ROOT / "clusters" / "slurm.sbatch"


def test_the_slurm_script_parses() -> None:
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


def test_slurm_starts_ray_on_all_nodes_and_joins_it(tmp_path: Path) -> None:
    bin_dir = tmp_path / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    stubs = {
        "scontrol": "printf 'n07\\nn08\\n'",
        "srun": '[[ $* == *hostname* ]] && echo "10.0.0.7 172.17.0.1" || echo "srun $*"',
        "ray": '[[ $* == "get-auth-token --generate" ]] && touch "$HOME/made"',
    }
    for name, line in stubs.items():
        (bin_dir / name).write_text(f"#!/bin/bash\n{line}\n")
        (bin_dir / name).chmod(0o755)
    (bin_dir / "activate").write_text(f'PATH="{bin_dir}:$PATH"\n')
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "n[07-08]",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
    }

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", SCRIPT, *arguments], env=env, capture_output=True, text=True, timeout=10
        )

    done = start("x.toml", "--set", "name=a b")
    assert (done.returncode, done.stderr) == (0, "")
    options, _, command = done.stdout.strip().partition(" -- ")
    assert options.startswith(
        "srun --nodes=2 --ntasks-per-node=1 --cpus-per-task=16 ray symmetric-run"
    )
    assert options.endswith("--address 10.0.0.7:23456 --min-nodes 2 --num-cpus 16")
    # Without an address the run would start a Ray of its own, on one node.
    assert command == "benchmark run x.toml --set name=a b --address 10.0.0.7:23456"
    assert (tmp_path / "made").exists()

    done = start()
    assert done.returncode == 2
    assert "usage: sbatch clusters/slurm.sbatch EXPERIMENT.toml" in done.stderr


def test_ray_has_the_command_of_the_slurm_script() -> None:
    from ray.scripts.symmetric_run import symmetric_run

    taken = {option for parameter in symmetric_run.params for option in parameter.opts}
    assert {"--address", "--min-nodes"} <= taken
