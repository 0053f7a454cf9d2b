"""Write a cluster file for another cloud: cluster.yaml with an overlay laid over it.

    python -m clusters.merge gcp PROJECT=my-project > cluster-gcp.yaml
    ray up -y cluster-gcp.yaml

Cost: less than a second. An overlay is a name in this folder (gcp, azure) or the path of a YAML
file of your own; several are laid over one another in the order given. It holds only what differs:
a mapping is merged key by key, unless it is marked !replace; null takes a key away; everything
else, lists too, replaces what was there. NAME=VALUE fills a <NAME> of the overlays; one that is
left is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
BASE = FOLDER.parent / "cluster.yaml"
PLACEHOLDER = re.compile(r"<([A-Z][A-Z0-9_]*)>")
# What YAML 1.1 (PyYAML, Ray) and 1.2 read differently: NO, 1e-4, 0755, 1_000, 12:30, 2026-11-24.
AMBIGUOUS = re.compile(
    r"(y|n|yes|no|on|off)|[-+]?\.?\d[\d.]*e[-+]?\d+|[-+]?0\d+|[-+]?\d[\d_]*_[\d_]*|"
    r"[-+]?\d+(:\d+)+(\.\d*)?|\d{4}-\d{1,2}-\d{1,2}.*",
    re.IGNORECASE,
)


class ClusterFileError(Exception):
    """A cluster file cannot be made; the message says why and what to do."""


class Replacement(dict[str, Any]):
    """A mapping that replaces another as a whole."""


class _Loader(yaml.SafeLoader):
    """Reads YAML without its traps: a key given twice, and what two versions read differently."""

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.style is None and AMBIGUOUS.fullmatch(node.value):
            raise ClusterFileError(
                f'{_place(node)}: {node.value} can be read in two ways, write "{node.value}"'
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise ClusterFileError(f"{_place(node)}: '{key}' is given twice in one mapping")
        return super().construct_mapping(node, deep)


def _construct_replacement(loader: _Loader, node: yaml.MappingNode) -> Replacement:
    return Replacement(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("!replace", _construct_replacement)


def _place(node: yaml.Node) -> str:
    mark = node.start_mark
    return f"{mark.name}, line {mark.line + 1}"


def read(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        ClusterFileError: there is no such file, or it can be misread, or is no mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_Loader)
    except OSError as error:
        known = ", ".join(sorted(item.stem for item in FOLDER.glob("*.yaml")))
        raise ClusterFileError(
            f"{path}: {error.strerror}. Overlays are {known}, or the path of a file of your own"
        ) from None
    except yaml.YAMLError as error:
        raise ClusterFileError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ClusterFileError(f"{path} holds no mapping")
    return content


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``overlay`` laid over it; neither is changed.

    Mappings are merged key by key, None takes a key away, everything else replaces: a
    ``Replacement`` too.
    """
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            if isinstance(value, Replacement) or not isinstance(below, Mapping):
                below = {}
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def fill(value: Any, names: Mapping[str, str]) -> Any:
    """Return ``value`` with each ``<NAME>`` in its strings replaced.

    Raises:
        ClusterFileError: a name has no value.
    """
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: _value(match[1], names), value)
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, names) for key, item in value.items()}
    return value


def _value(name: str, names: Mapping[str, str]) -> str:
    if name not in names:
        raise ClusterFileError(f"<{name}> has no value: add {name}=... to the command")
    return names[name]


def build(overlays: Sequence[str], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return cluster.yaml with overlays laid over it in their order.

    Args:
        overlays: names of files in this folder, without their suffix, or paths.
        names: what is written for each ``<NAME>``.

    Raises:
        ClusterFileError: an overlay cannot be read, or a name is missing or unknown.
    """
    config = read(BASE)
    for overlay in overlays:
        is_path = "/" in overlay or overlay.endswith((".yaml", ".yml"))
        config = merge(config, read(Path(overlay) if is_path else FOLDER / f"{overlay}.yaml"))
    names = names or {}
    wanted = set(PLACEHOLDER.findall(dump(config)))
    if unknown := sorted(set(names) - wanted):
        raise ClusterFileError(
            f"{unknown[0]}=...: no <{unknown[0]}> in these overlays, which take "
            f"{', '.join(sorted(wanted)) or 'none'}"
        )
    filled: dict[str, Any] = fill(config, names)
    return filled


class _Dumper(yaml.SafeDumper):
    """Writes each value out: no anchors."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def dump(config: Mapping[str, Any]) -> str:
    """Return a cluster file as YAML that ``ray up`` reads back as the same values."""
    text: str = yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False, width=1_000)
    return text


def main(arguments: Sequence[str]) -> int:
    """Write the merged file to stdout; return the exit code, 2 for a mistake of the user."""
    if not arguments or set(arguments) & {"-h", "--help"}:
        (sys.stdout if arguments else sys.stderr).write(f"{__doc__}\n")
        return 0 if arguments else 2
    pairs = [item.partition("=") for item in arguments if "=" in item]
    try:
        config = build(
            [item for item in arguments if "=" not in item],
            {name: value for name, _, value in pairs},
        )
    except ClusterFileError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"# Made by: python -m clusters.merge {' '.join(arguments)}\n{dump(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
