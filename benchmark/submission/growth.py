"""How large a Ray cluster may become: its autoscaler's limits, as the head knows them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"
"""What ``ray up`` leaves on a head: the cluster file, from which its autoscaler works."""


def describe_growth() -> dict[str, float] | None:
    """Return what the autoscaler of the cluster of this head may grow it to.

    Ray tells no client how large that is: it stands in the cluster file that ``ray up`` leaves
    on the head. KubeRay keeps it outside, and only its command tells that it scales.

    Returns: ``CPU``, ``GPU``, ``memory`` and ``node_cpus`` of the largest cluster; an empty
        mapping where that is not known; None where there is no autoscaler.
    """
    file = Path(BOOTSTRAP_FILE).expanduser()
    if file.is_file():
        import yaml

        try:
            return largest_cluster(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            return {}
    # KubeRay's autoscaler runs beside the head, and takes the place of Ray's monitor.
    return {} if "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "") else None


def largest_cluster(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the resources of the largest cluster that a cluster file allows."""
    names = ("CPU", "GPU", "memory")
    total, left = dict.fromkeys((*names, "node_cpus"), 0.0), int(config["max_workers"])
    head = config["head_node_type"]
    kinds = config["available_node_types"]
    # Those with the most GPUs first: the limit on all workers may keep others away.
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
