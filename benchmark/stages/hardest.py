"""Scenes and regions of test, ranked by the errors of one cell."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark.errors import UsageError, one_line
from benchmark.experiment.cells import TextTable
from benchmark.statistics.intervals import quantile_of, wilson

KINDS = ("scene", "region")
MOST_SHOWN = 10
"""Rows of a table on the terminal; the file has all."""


def rank_hardest(frame: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the scenes and the regions of the test patches, hardest first.

    The rank is that of ``ci_low``, so that a few patches which are wrong by chance do not lead.

    Args:
        frame: of ``footprints.read_footprints``, with a cell.
        confidence: of the intervals.

    Returns:
        One row per scene and per region: ``kind`` ("scene" or "region"), ``rank`` within its kind,
        ``name``, ``num_patches``, ``num_errors``, ``error_rate``, ``ci_low`` and ``ci_high``
        (Wilson's interval, which takes the patches for independent), ``expected_rate`` (the error
        rate if each class were as hard as in all of test) and ``common_error`` ("CLASS as
        PREDICTED", the most frequent one; empty without errors).
    """
    test = frame[(frame["split"] == "test") & frame["is_error"].notna()]
    test = test.assign(
        is_error=test["is_error"].astype(bool),
        confusion=test["class_name"] + " as " + test["predicted"],
    )
    test["expected"] = test.groupby("class_name")["is_error"].transform("mean")
    quantile = quantile_of(confidence)
    return pd.concat([_rank(test, kind, quantile) for kind in KINDS], ignore_index=True)


def _rank(test: pd.DataFrame, kind: str, quantile: float) -> pd.DataFrame:
    found = test.groupby(kind).agg(
        num_patches=("is_error", "size"),
        num_errors=("is_error", "sum"),
        error_rate=("is_error", "mean"),
        expected_rate=("expected", "mean"),
    )
    low, high = wilson(found["num_errors"], found["num_patches"], quantile)
    pairs = test[test["is_error"]].groupby([kind, "confusion"]).size().reset_index(name="count")
    # Of equally frequent ones the first in the alphabet.
    common = pairs.sort_values("count", ascending=False, kind="stable").drop_duplicates(kind)
    found = found.assign(
        ci_low=low,
        ci_high=high,
        common_error=common.set_index(kind)["confusion"].reindex(found.index).fillna(""),
    ).sort_values(["ci_low", "error_rate"], ascending=False, kind="stable")
    found.insert(0, "rank", range(1, len(found) + 1))
    found.insert(0, "kind", kind)
    return found.rename_axis("name").reset_index()[
        [
            *("kind", "rank", "name", "num_patches", "num_errors", "error_rate", "ci_low"),
            *("ci_high", "expected_rate", "common_error"),
        ]
    ]


def hardest_tables(ranked: pd.DataFrame, cell: str) -> list[TextTable]:
    """Return a table of the hardest scenes and one of the hardest regions for the terminal."""
    tables = []
    for kind in KINDS:
        rows = ranked[ranked["kind"] == kind]
        if rows.empty:
            continue
        more = f", {MOST_SHOWN} of {len(rows):,}" if len(rows) > MOST_SHOWN else ""
        tables.append(
            TextTable(
                title=f"Hardest {kind}s of test for {cell}{more}",
                columns=(kind, "patches", "errors", "error %", "interval", "by class %", "often"),
                rows=[
                    (
                        row.name,
                        str(row.num_patches),
                        str(row.num_errors),
                        f"{100 * row.error_rate:.1f}",
                        f"[{100 * row.ci_low:.1f}, {100 * row.ci_high:.1f}]",
                        f"{100 * row.expected_rate:.1f}",
                        row.common_error or "-",
                    )
                    for row in rows.head(MOST_SHOWN).itertuples(index=False, name="Row")
                ],
            )
        )
    return tables


def write_hardest(ranked: pd.DataFrame, beside: Path) -> Path:
    """Write the ranking as ``NAME-hardest.csv`` beside the file ``NAME.parquet``; return its path.

    Raises:
        UsageError: it cannot be written.
    """
    path = beside.with_name(f"{beside.stem}-hardest.csv")
    try:
        ranked.to_csv(path, index=False)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {one_line(error)}") from None
    return path
