"""Rows of the catalogs for ``benchmark list``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

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


def source_lines() -> Iterator[str]:
    """Yield the name patterns of models of other sources, with their meaning."""
    from benchmark.catalog.backbones import SOURCES

    sources = {**SOURCES, FORM: "own code: docs/OWN_CODE.md"}
    width = max(map(len, sources))
    for name, text in sources.items():
        yield f"{name:<{width}}  {text}"
