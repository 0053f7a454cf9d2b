"""Rows of the catalogs for ``benchmark list``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmark.errors import UsageError, did_you_mean


def catalog_rows(catalog: str) -> list[dict[str, Any]]:
    """Return one row per entry of a catalog.

    Raises:
        UsageError: there is no such catalog.
    """
    if catalog == "datasets":
        from benchmark.catalog.datasets import DATASETS

        return [
            {"name": item.name, "description": item.description, "license": item.license or "-"}
            for item in DATASETS
        ]
    if catalog == "backbones":
        from benchmark.catalog.backbones import BACKBONES

        return [
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
    if catalog == "heads":
        from benchmark.catalog.heads import HEADS

        return [{"name": item.name, "description": item.description} for item in HEADS]
    if catalog == "metrics":
        from benchmark.catalog.metrics import METRICS

        return [
            {"name": item.name, "better": item.direction, "description": item.description}
            for item in METRICS
        ]
    known = ("datasets", "backbones", "heads", "metrics")
    raise UsageError(f"list: unknown catalog '{catalog}'.{did_you_mean(catalog, known)}")


def source_lines() -> Iterator[str]:
    """Yield the name patterns of models of other sources, with their meaning."""
    from benchmark.catalog.backbones import SOURCES

    width = max(map(len, SOURCES))
    for name, text in SOURCES.items():
        yield f"{name:<{width}}  {text}"
