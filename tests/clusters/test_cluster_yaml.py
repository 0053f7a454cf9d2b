"""cluster.yaml, offline: Ray's own schema, and what the schema cannot know."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# Where the nodes hold the files that are installed there.
REMOTE_ROOT = "~/backbone-benchmark/"


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """Check a cluster file as `ray up` does; return it with Ray's defaults filled in."""
    # Private in Ray: there is no public way to check a cluster file without a cloud account.
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return content


def commands(config: dict[str, Any]) -> list[str]:
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = validate(cluster)
    types = prepared["available_node_types"]
    assert set(types) == {"head", "cpu_worker", "gpu_worker"}
    assert types["head"]["max_workers"] == 0
    for name in ("cpu_worker", "gpu_worker"):
        assert types[name]["min_workers"] == 0
        assert 0 < types[name]["max_workers"] <= prepared["max_workers"]
    assert types["gpu_worker"]["resources"]["GPU"] > 0


def test_ray_refuses_a_broken_copy(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"]["head"]
    head["max_worker"] = head.pop("max_workers")
    with pytest.raises(jsonschema.ValidationError, match="'max_worker' was unexpected"):
        validate(cluster)


def test_ray_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    cluster["idle_timeout"] = cluster.pop("idle_timeout_minutes")
    with pytest.raises(jsonschema.ValidationError, match="'idle_timeout' was unexpected"):
        validate(cluster)


def test_ray_refuses_an_unknown_head(cluster: dict[str, Any]) -> None:
    cluster["head_node_type"] = "heads"
    with pytest.raises(ValueError, match="must be one of `available_node_types`"):
        validate(cluster)


def test_ray_version_is_that_of_the_package(cluster: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [Requirement(line) for line in project["dependencies"]]
    wanted = next(item for item in ours if item.name == "ray")
    quoted = re.findall(r'"(ray\[[^"]*)"', "\n".join(cluster["setup_commands"]))
    assert [Requirement(item) for item in quoted] == [wanted]

    pins = (ROOT / "constraints.txt").read_text()
    pinned = re.search(r"^ray==(\S+)$", pins, re.MULTILINE)
    assert pinned is not None
    assert wanted.specifier.contains(pinned[1])
    # Workers start no machines.
    assert "[aws]" not in "\n".join(cluster["setup_commands"])
    extras = re.findall(r'"\.\[(\w+)\]"', "\n".join(cluster["head_setup_commands"]))
    assert extras == ["aws"]
    assert set(extras) <= set(project["optional-dependencies"])


def test_nothing_of_rays_own_commands_is_left(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import _get_default_config

    defaults = commands(_get_default_config({"type": "aws"}))
    # The check is worth something only while Ray has such defaults.
    assert any("dashboard-host=0.0.0.0" in line for line in defaults)
    assert any("ray-wheels" in line for line in defaults)
    prepared = commands(validate(cluster))
    assert not set(prepared) & set(defaults)
    assert not any("ray-wheels" in line for line in prepared)


def test_the_dashboard_is_not_open(cluster: dict[str, Any]) -> None:
    hosts = re.findall(r"--dashboard-host[= ](\S+)", "\n".join(commands(validate(cluster))))
    assert hosts == ["127.0.0.1"]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_tokens_are_on_and_statistics_off(cluster: dict[str, Any], role: str) -> None:
    prepared = validate(cluster)
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    setup = "\n".join(prepared[f"{role}_setup_commands"])
    written = re.search(r"^printf (.*) > (\S+)$", setup, re.MULTILINE)
    assert written is not None
    assert {"RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"} <= set(written[1].split())
    # Without the file that was written there, Ray would start open to its network.
    starts = [line for line in prepared[f"{role}_start_ray_commands"] if "ray start" in line]
    assert starts
    assert all(line.startswith(f". {written[2]} && ") for line in starts)


@pytest.mark.parametrize("role", ["head", "worker"])
def test_objects_have_a_bound_and_a_place_to_spill(cluster: dict[str, Any], role: str) -> None:
    (start,) = [line for line in cluster[f"{role}_start_ray_commands"] if "ray start" in line]
    assert "mkdir -p ~/spill && " in start
    assert "--object-spilling-directory=$HOME/spill" in start
    bound = re.search(r"--object-store-memory=(.*)$", start)
    assert bound is not None
    # Multiplied by the shell: mawk, which Ubuntu has, ends integers at 2**31.
    done = subprocess.run(
        ["bash", "-c", f"echo {bound[1]}"], capture_output=True, text=True, timeout=10
    )
    assert int(done.stdout) == pytest.approx(0.3 * psutil.virtual_memory().total, rel=0.01)


def test_what_the_nodes_need_exists_and_is_sent(cluster: dict[str, Any]) -> None:
    mounts = {
        remote.removeprefix(REMOTE_ROOT): local
        for remote, local in cluster["file_mounts"].items()
        if remote.startswith(REMOTE_ROOT)
    }
    for remote, local in mounts.items():
        # The same place below the root, there as here: the package is installed from it.
        assert remote == local
        assert (ROOT / local).exists(), local
    setup = "\n".join(cluster["setup_commands"])
    assert f"cd {REMOTE_ROOT.rstrip('/')} &&" in setup
    named = set(re.findall(r"[\w./~-]+\.(?:txt|toml|sh|py|whl)\b", setup))
    assert named == {"constraints.txt"}
    assert {*named, "pyproject.toml", "benchmark", "jobs"} <= set(mounts)


def test_data_and_environments_are_not_sent(cluster: dict[str, Any]) -> None:
    # Ray reads all that is below a mount, whatever rsync_exclude says.
    heavy = {".git", ".venv", "data", "runs"}
    assert heavy <= set(cluster["rsync_exclude"])
    for local in cluster["file_mounts"].values():
        assert local not in {".", "./", *heavy}
