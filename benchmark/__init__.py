"""Which pretrained backbone for your patches, frozen or fine-tuned, and is the difference real?

import benchmark as bm

exp = bm.load("experiments/quickstart.toml")
bm.run(exp)
bm.scores(exp)
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.api import build
    from benchmark.catalog.arrays.data import from_arrays
    from benchmark.catalog.own.public import check, register
    from benchmark.catalog.own.records import Records
    from benchmark.config import Experiment
    from benchmark.errors import BenchmarkError, CellError, UsageError
    from benchmark.exporting.predicting import predict
    from benchmark.exporting.saved import load_head
    from benchmark.finished import compare, figures, leaderboard, query, reproduce
    from benchmark.frames import aggregate
    from benchmark.interactive import (
        describe,
        export,
        footprints,
        load,
        prepare,
        report,
        run,
        scores,
        status,
    )
    from benchmark.mapping.embedding import embed_scenes
    from benchmark.mapping.predicting import predict_maps
    from benchmark.results import CellResults, DataCard, Report, RunResult
    from benchmark.specs import Backbone, Dataset, Found, Head, Images, Metric, Problem

    __version__: str

__all__ = [
    "Backbone",
    "BenchmarkError",
    "CellError",
    "CellResults",
    "DataCard",
    "Dataset",
    "Experiment",
    "Found",
    "Head",
    "Images",
    "Metric",
    "Problem",
    "Records",
    "Report",
    "RunResult",
    "UsageError",
    "aggregate",
    "build",
    "check",
    "compare",
    "describe",
    "embed_scenes",
    "export",
    "figures",
    "footprints",
    "from_arrays",
    "leaderboard",
    "load",
    "load_head",
    "predict",
    "predict_maps",
    "prepare",
    "query",
    "register",
    "report",
    "reproduce",
    "run",
    "scores",
    "status",
]

_MODULES = {
    **dict.fromkeys(("Backbone", "Dataset", "Found", "Head", "Images"), "specs"),
    **dict.fromkeys(("Metric", "Problem"), "specs"),
    "Records": "catalog.own.records",
    "check": "catalog.own.public",
    "register": "catalog.own.public",
    "BenchmarkError": "errors",
    "CellError": "errors",
    "CellResults": "results",
    "DataCard": "results",
    "Experiment": "config",
    "Report": "results",
    "RunResult": "results",
    "UsageError": "errors",
    "aggregate": "frames",
    "build": "api",
    **dict.fromkeys(("compare", "figures", "leaderboard"), "finished"),
    **dict.fromkeys(("query", "reproduce"), "finished"),
    "describe": "interactive",
    "embed_scenes": "mapping.embedding",
    "export": "interactive",
    "footprints": "interactive",
    "from_arrays": "catalog.arrays.data",
    "load": "interactive",
    "load_head": "exporting.saved",
    "predict": "exporting.predicting",
    "predict_maps": "mapping.predicting",
    "prepare": "interactive",
    "report": "interactive",
    "run": "interactive",
    "scores": "interactive",
    "status": "interactive",
}
"""The module of each public name."""

LIGHT = frozenset({"config", "errors"})
"""Modules that import no package that a file beside the data could hide."""


def __getattr__(name: str) -> Any:
    # Imported on first use: `benchmark list` must not import Arrow and pandas.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("backbone-benchmark")
        except PackageNotFoundError:
            return "unknown"
    if name not in __all__:
        raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
    module = f"benchmark.{_MODULES[name]}"
    if _MODULES[name] in LIGHT:
        return getattr(import_module(module), name)
    check_imports = import_module("benchmark.cluster.importing").check_imports
    check_imports()
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        check_imports(sys.stdlib_module_names)
        raise


def __dir__() -> list[str]:
    """Return the public names, for completion and ``help``; modules are not among them."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__")), "__version__"])
