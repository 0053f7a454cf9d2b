"""Rows of the catalogs for ``benchmark list``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark import derived
from benchmark.catalog.own.lookup import FORM, plugin_rows
from benchmark.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from benchmark.registry import Registry


def catalog_rows(catalog: str) -> list[dict[str, Any]]:
    """Return one row per entry of a catalog.

    Raises:
        UsageError: there is no such catalog.
    """
    if catalog == "datasets":
        from benchmark.catalog.datasets import DATASETS

        rows: list[dict[str, Any]] = [
            {"name": item.name, "description": item.description, "license": item.license or "-"}
            for item in DATASETS
        ]
        return [*rows, *_plugin_rows(DATASETS, rows[0])]
    if catalog == "backbones":
        from benchmark.catalog.backbones import BACKBONES

        rows = [
            {
                "name": item.name,
                "dim": item.dim or ("fitted" if item.fit else "2 per band"),
                "parameters": f"{item.num_parameters / 1e6:.1f} M",
                "input": f"{item.image_size} px" if item.image_size else "native",
                "bands": ", ".join(item.bands) if item.bands else "all",
                "source": item.source,
                "license": item.license,
            }
            for item in BACKBONES
        ]
        return [*rows, *_plugin_rows(BACKBONES, rows[0])]
    if catalog == "heads":
        from benchmark.catalog.heads import HEADS

        rows = [{"name": item.name, "description": item.description} for item in HEADS]
        return [*rows, *_plugin_rows(HEADS, rows[0])]
    if catalog == "metrics":
        from benchmark.catalog.metrics import METRICS

        rows = [
            {"name": item.name, "better": item.direction, "description": item.description}
            for item in METRICS
        ]
        return [*rows, *_plugin_rows(METRICS, rows[0])]
    known = ("datasets", "backbones", "heads", "metrics")
    raise UsageError(f"list: unknown catalog '{catalog}'.{did_you_mean(catalog, known)}")


def _plugin_rows(registry: Registry[Any], like: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per entry point of an installed package, without importing any."""
    text = "description" if "description" in like else "source"
    return [
        {**dict.fromkeys(like, "-"), "name": name, text: f"{value} of {distribution}"}
        for name, value, distribution in plugin_rows(registry)
    ]


def source_lines(catalog: str) -> list[str]:
    """Return lines on the names of other sources that a catalog takes, with their meaning."""
    from benchmark.catalog import backbones, datasets

    found: dict[str, tuple[str, Mapping[str, str]]] = {
        "backbones": ("Models of these sources", backbones.SOURCES),
        "datasets": ("Data sets of these sources", datasets.SOURCES),
    }
    if catalog not in found:
        return []
    what, known = found[catalog]
    sources = {**known, FORM: "own code: docs/OWN_CODE.md"}
    if catalog == "backbones":
        sources[derived.FORM] = derived.MEANING
    width = max(map(len, sources))
    return [
        f"\n{what} can also be named in an experiment file:",
        *(f"{name:<{width}}  {text}" for name, text in sources.items()),
    ]
