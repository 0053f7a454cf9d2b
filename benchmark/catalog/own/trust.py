"""Which types of a saved head may be built when it is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from benchmark.catalog.own.loading import append_folder, used_packages
from benchmark.catalog.own.source import parse

ESTIMATORS = "benchmark.catalog.estimators."


def foreign_types(names: Iterable[str], trusted: Iterable[str] = ()) -> list[str]:
    """Return the types of a saved head that are not trusted.

    Classes of scikit-learn are: skops trusts its estimators, but not their parts, e.g. the trees of
    a forest. Its functions are not. This package's estimators are. Own classes are if their top
    package is one of ``trusted``, or if this process has imported it because its user named it in
    an experiment.

    Args:
        names: full names of the types.
        trusted: packages, or names like ``package.module:attribute``.
    """
    tops = set(used_packages())
    for name in trusted:
        target = parse(name)
        tops.add(target.top if target else name.partition(".")[0])
        if target:
            append_folder(str(Path.cwd()))
    return [
        name
        for name in names
        if name.partition(".")[0] not in tops
        and not name.startswith(ESTIMATORS)
        and not _is_of_sklearn(name)
    ]


def _is_of_sklearn(name: str) -> bool:
    if not name.startswith("sklearn.") or name.startswith("sklearn.externals."):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    # Modules also hold classes that they import from elsewhere.
    return isinstance(found, type) and found.__module__.startswith("sklearn.")
