"""Overlays of cluster.yaml, offline: Ray's own schema, and what clouds say of machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from clusters.merge import BASE, FOLDER, ClusterFileError, build, dump, main, merge, read
from tests.clusters.test_cluster_yaml import commands, validate

ROOT = Path(__file__).parents[2]
NAMES = {
    "gcp": {"PROJECT": "a-project"},
    "azure": {"SUBSCRIPTION": "00000000-0000-0000-0000-000000000000", "GROUP": "a-group"},
}
TYPES = ("head", "cpu_worker", "gpu_worker")


@pytest.fixture(params=sorted(NAMES))
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def merged(cloud: str) -> dict[str, Any]:
    return build([cloud], NAMES[cloud])


def machines(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: config["available_node_types"][name]["node_config"] for name in TYPES}


def write(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


def test_every_overlay_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)


def test_ray_accepts_it(merged: dict[str, Any], cloud: str) -> None:
    prepared = validate(merged)
    assert prepared["provider"]["type"] == cloud
    assert set(prepared["available_node_types"]) == set(TYPES)


def test_what_users_get_reads_back_as_the_same(merged: dict[str, Any]) -> None:
    # Ray reads it with PyYAML.
    assert yaml.safe_load(dump(merged)) == merged


def test_an_overlay_holds_only_what_differs(merged: dict[str, Any], cloud: str) -> None:
    base = read(BASE)
    assert set(read(FOLDER / f"{cloud}.yaml")) == {
        "provider",
        "available_node_types",
        "head_setup_commands",
    }
    for name in TYPES:
        ours, theirs = merged["available_node_types"][name], base["available_node_types"][name]
        assert {**ours, "node_config": None} == {**theirs, "node_config": None}


def test_nothing_of_another_cloud_is_left(merged: dict[str, Any]) -> None:
    text = dump(merged)
    assert not re.findall(r"InstanceType|ImageId|IamInstance|us-west-2|\[aws\]|<[A-Z]+>", text)


def test_no_command_is_of_rays_own(merged: dict[str, Any], cloud: str) -> None:
    from ray.autoscaler._private.util import _get_default_config

    defaults = commands(_get_default_config({"type": cloud}))
    assert any("dashboard-host=0.0.0.0" in line for line in defaults)
    prepared = commands(validate(merged))
    # Azure's silences a message of Ubuntu, and is harmless.
    assert set(prepared) & set(defaults) <= {"touch ~/.sudo_as_admin_successful"}
    assert "0.0.0.0" not in "\n".join(prepared)


def test_the_extra_exists_and_is_pinned(merged: dict[str, Any], cloud: str) -> None:
    assert f'".[{cloud}]"' in "\n".join(merged["head_setup_commands"])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    pins = {
        item.name.lower().replace("_", "-"): item.specifier
        for item in map(Requirement, (ROOT / "constraints.txt").read_text().split("\n")[1:-1])
    }
    for item in map(Requirement, extras[cloud]):
        (pin,) = pins[item.name.lower().replace("_", "-")]
        assert item.specifier.contains(pin.version), item


def test_gpus_are_spot_and_all_machines_have_one_image() -> None:
    aws = machines(read(BASE))
    assert aws["gpu_worker"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert len({item["ImageId"] for item in aws.values()}) == 1

    gcp = machines(build(["gcp"], NAMES["gcp"]))
    assert gcp["gpu_worker"]["scheduling"]["provisioningModel"] == "SPOT"
    assert all(item["disks"] == gcp["head"]["disks"] for item in gcp.values())

    azure = {
        name: item["azure_arm_parameters"]
        for name, item in machines(build(["azure"], NAMES["azure"])).items()
    }
    assert azure["gpu_worker"]["priority"] == "Spot"
    images = [{k: v for k, v in item.items() if k[:5] == "image"} for item in azure.values()]
    assert images == [images[0]] * 3
    for others in (aws, gcp, azure):
        assert not {"InstanceMarketOptions", "scheduling", "priority"} & set(others["cpu_worker"])


def test_aws_knows_every_key_of_a_machine() -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    for config in machines(read(BASE)).values():
        report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, "ImageID": "x"}, shape)
    assert report.has_errors()


def test_azure_knows_every_key_of_a_machine() -> None:
    import ray.autoscaler

    folder = Path(ray.autoscaler.__file__).parent / "_private" / "_azure"
    template = json.loads((folder / "azure-vm-template.json").read_text())
    for config in machines(build(["azure"], NAMES["azure"])).values():
        assert set(config["azure_arm_parameters"]) <= set(template["parameters"])


def test_the_zone_of_google_is_one() -> None:
    text = (FOLDER / "gcp.yaml").read_text()
    assert set(re.findall(r"us-central1-\w", text)) == {"us-central1-a"}


def test_merge() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3, "e": 4}
    assert merge(base, {"a": {"b": None, "c": [9], "f": {"g": 5}}, "e": None}) == {
        "a": {"c": [9], "f": {"g": 5}},
        "d": 3,
    }
    assert base["a"] == {"b": 1, "c": [1, 2]}


def test_a_marked_mapping_replaces(tmp_path: Path) -> None:
    own = write(tmp_path, "provider: !replace {type: local, head_ip: 10.0.0.1}\n")
    assert build([own])["provider"] == {"type": "local", "head_ip": "10.0.0.1"}


def test_a_file_of_ones_own_is_laid_over_others(tmp_path: Path) -> None:
    own = write(tmp_path, "max_workers: 2\nworker_setup_commands: ['echo <WORD>']\n")
    config = build(["gcp", own], {**NAMES["gcp"], "WORD": "yes"})
    assert (config["provider"]["type"], config["max_workers"]) == ("gcp", 2)
    assert config["worker_setup_commands"] == ["echo yes"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: NO\n", r"own\.yaml, line 1: NO can be read in two ways, write \"NO\""),
        ("b: 1\na: 1e-4\n", r"line 2: 1e-4 can be read"),
        ("a: 0755\n", "0755 can be read"),
        ("a: 12:30\n", "12:30 can be read"),
        ("a: 2026-11-24\n", "2026-11-24 can be read"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("[1, 2]\n", "holds no mapping"),
        ("a: [\n", r"own\.yaml is no YAML"),
        ("a: <WORD>\n", r"<WORD> has no value: add WORD=\.\.\. to the command"),
    ],
)
def test_what_could_be_misread_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ClusterFileError, match=message):
        build([write(tmp_path, text)])


def test_quoted_words_and_plain_truths_are_taken(tmp_path: Path) -> None:
    own = write(tmp_path, "metadata: {a: 'NO', b: true, c: '1e-4', d: 1.5, e: 10.0.0.1}\n")
    assert build([own])["metadata"] == {
        "a": "NO",
        "b": True,
        "c": "1e-4",
        "d": 1.5,
        "e": "10.0.0.1",
    }


def test_the_base_has_no_such_words() -> None:
    assert read(BASE) == yaml.safe_load(BASE.read_text())


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gcp", "PROJECT=p"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# Made by: python -m clusters.merge gcp PROJECT=p\n")
    assert yaml.safe_load(out)["provider"]["project_id"] == "p"

    for arguments, message in (
        (["gcp"], "<PROJECT> has no value"),
        (["gcp", "PROJECT=p", "PROJEKT=p"], "no <PROJEKT> in these overlays, which take PROJECT"),
        (["gpc"], "Overlays are azure, gcp, or the path of a file of your own"),
        ([], "python -m clusters.merge gcp"),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err


def shell_blocks(text: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in blocks if not language]


PAGES = ("docs/CLUSTERS.md", "SECURITY.md", "README.md")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:clusters|docs|experiments|jobs)/[\w/.-]*\w\.\w+", text))
    assert named
    # The names of examples.
    missing = {name for name in named if not (ROOT / name).exists()} - {"experiments/x.toml"}
    assert not missing


def test_the_commands_of_the_page_parse() -> None:
    blocks = shell_blocks((ROOT / "docs" / "CLUSTERS.md").read_text())
    assert len(blocks) >= 8
    for block in blocks:
        done = subprocess.run(
            ["bash", "-n"], input=block, capture_output=True, text=True, timeout=10
        )
        assert (done.returncode, done.stderr) == (0, ""), block


def test_the_file_of_ones_own_on_the_page_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "CLUSTERS.md").read_text()
    (own,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    prepared = validate(build([write(tmp_path, own)]))
    assert prepared["max_workers"] == 4
    assert len(prepared["initialization_commands"]) == 1


@pytest.mark.parametrize("page", PAGES)
def test_no_command_of_a_page_opens_the_dashboard(page: str) -> None:
    assert "0.0.0.0" not in "\n".join(shell_blocks((ROOT / page).read_text()))


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clusters.merge", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0
    assert "ray up -y cluster-gcp.yaml" in done.stdout
