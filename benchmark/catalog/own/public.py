"""The part of the Python interface for entries of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.catalog.own import lookup

if TYPE_CHECKING:
    from benchmark.catalog.contracts.checks import Checked
    from benchmark.catalog.own.making import Kind
    from benchmark.specs import Backbone, Dataset, Head, Metric

CATALOGS = (BACKBONES, HEADS, METRICS, DATASETS)


def register(entry: Backbone | Head | Metric | Dataset) -> None:
    """Add an entry of one's own for this process; experiments can name it.

    It replaces a registered entry of the same name. Its functions may be those of a notebook; what
    they reach is part of the fingerprint.

    Args:
        entry: a ``bm.Backbone``, ``bm.Head``, ``bm.Metric`` or ``bm.Dataset``.

    Raises:
        UsageError: it is no entry, or its name is taken by another one.

    Example:
        >>> def count_errors(found):
        ...     return found.counts.sum(axis=(-2, -1)) - found.counts.trace(axis1=-2, axis2=-1)
        >>> text = "Number of wrong patches."
        >>> metric = bm.Metric(name="errors", description=text, compute=count_errors)
        >>> bm.register(metric)
    """
    lookup.register(entry, CATALOGS)


def check(
    entry: Backbone | Head | Metric | Dataset | str,
    *,
    kind: Kind | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Checked]:
    """Run the contract tests of an entry, as scikit-learn's ``check_estimator`` does.

    Args:
        entry: an entry, or a name as in an experiment file.
        kind: ``backbone``, ``head``, ``metric`` or ``dataset``; None: found from the entry.
        settings: keyword arguments of its function; for a data set also those of ``[dataset]``.

    Returns: one result for each check: ``name``, ``is_ok`` and ``reason``.

    Raises:
        UsageError: the name is unknown, or the code or a setting is wrong.

    Example:
        >>> [item.name for item in bm.check("accuracy") if not item.is_ok]
        []
    """
    from benchmark.catalog.contracts.checking import check_entry

    return check_entry(entry, CATALOGS, kind=kind, settings=settings or {})
