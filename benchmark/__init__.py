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
    from benchmark.api import RunResult, aggregate, build, load, load_head, run, scores, status
    from benchmark.catalog.arrays.data import from_arrays
    from benchmark.config import Experiment
    from benchmark.errors import BenchmarkError, CellError, UsageError

__all__ = [
    "BenchmarkError",
    "CellError",
    "Experiment",
    "RunResult",
    "UsageError",
    "aggregate",
    "build",
    "from_arrays",
    "load",
    "load_head",
    "run",
    "scores",
    "status",
]

_MODULES = {
    "BenchmarkError": "errors",
    "CellError": "errors",
    "Experiment": "config",
    "UsageError": "errors",
    "from_arrays": "catalog.arrays.data",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `benchmark list` must not import Arrow and pandas.
    if name not in __all__:
        raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
    if name in _MODULES:
        return getattr(import_module(f"benchmark.{_MODULES[name]}"), name)
    check_imports = import_module("benchmark.cluster.importing").check_imports
    check_imports()
    try:
        return getattr(import_module("benchmark.api"), name)
    except (ImportError, AttributeError):
        check_imports(sys.stdlib_module_names)
        raise
