"""The command ``query``: SQL over the tables of a store."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.app import JsonOption, app
from benchmark.cli.printing import print_tables
from benchmark.errors import UsageError, tidy

if TYPE_CHECKING:
    from benchmark.comparing.queries import Answer

NUM_SHOWN = 100
"""Rows on a terminal; --csv and --json print all."""
MOST_SHOWN = 200
"""Characters of a value on a terminal."""


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads.")],
    source: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|STORE", help="An experiment file, or a store.")
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all rows as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Query scores, ranking, trials, predictions and patches in SQL; nothing is written.

    `benchmark query "SHOW TABLES" STORE` lists the tables, `"DESCRIBE scores"` the columns of one.
    """
    from benchmark import finished

    if as_csv and as_json:
        raise UsageError("query: --csv does not go with --json; give one of them")
    with finished.open_query(sql, source) as answer:
        if as_json:
            _print_json(answer)
        elif as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.columns)
            writer.writerows(answer.rows())
        else:
            _print_table(answer)


def _print_json(answer: Answer) -> None:
    """Print the document row by row, so that memory does not grow with their number."""
    write = sys.stdout.write
    write(f'{{\n  "columns": {json.dumps(answer.columns)},\n  "rows": [')
    for number, row in enumerate(answer.rows()):
        record = dict(zip(answer.columns, map(_plain, row), strict=True))
        write(f"{',' if number else ''}\n    {json.dumps(record, default=str)}")
    write("\n  ]\n}\n")


def _plain(value: Any) -> Any:
    """Return a value that JSON has: floats that are not finite become None, bytes hex digits."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _print_table(answer: Answer) -> None:
    from benchmark.experiment.cells import TextTable

    found = list(itertools.islice(answer.rows(), NUM_SHOWN + 1))
    rest = (f"and more: the first {NUM_SHOWN} rows are shown; --csv and --json print all",)
    rows = [["" if value is None else _short(value) for value in row] for row in found[:NUM_SHOWN]]
    notes = rest if len(found) > NUM_SHOWN else ()
    columns = tuple(tidy(name, MOST_SHOWN) for name in answer.columns)
    print_tables([TextTable("", columns, rows, notes)])


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return tidy(text, MOST_SHOWN)
