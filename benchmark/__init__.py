"""Which pretrained backbone for your patches, frozen or fine-tuned, and is the difference real?

import benchmark as bm

exp = bm.load("experiments/quickstart.toml")
bm.run(exp)
bm.scores(exp)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.api import RunResult, aggregate, load, load_head, run, scores, status
    from benchmark.catalog.own.public import check, register
    from benchmark.catalog.own.records import Records
    from benchmark.config import Experiment
    from benchmark.errors import BenchmarkError, CellError, UsageError
    from benchmark.specs import Backbone, Dataset, Found, Head, Images, Metric, Problem

__all__ = [
    "Backbone",
    "BenchmarkError",
    "CellError",
    "Dataset",
    "Experiment",
    "Found",
    "Head",
    "Images",
    "Metric",
    "Problem",
    "Records",
    "RunResult",
    "UsageError",
    "aggregate",
    "check",
    "load",
    "load_head",
    "register",
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
    "Experiment": "config",
    "UsageError": "errors",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `benchmark list` must not import Arrow and pandas.
    if name not in __all__:
        raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
    return getattr(import_module(f"benchmark.{_MODULES.get(name, 'api')}"), name)
