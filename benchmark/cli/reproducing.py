"""The command ``reproduce``: repeat the run of a page, and compare its scores."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from benchmark.cli.app import AddressOption, JsonOption, LogFormatOption, app
from benchmark.cli.printing import LogFormat, open_stderr_progress, print_json, print_tables, say
from benchmark.errors import UsageError

MOST_CHANGES = 60
"""Changes that are printed; --json has all."""


@app.command()
def reproduce(
    source: Annotated[
        str,
        typer.Argument(
            metavar="REPORT.html|MANIFEST.json", help="A page, or the manifest of scores."
        ),
    ],
    store: Annotated[
        str, typer.Option(metavar="URI", help="A fresh store: a new folder or s3://...")
    ],
    root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the data, if they have moved.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, metavar="X", help="Largest difference of equal scores."),
    ] = 1e-9,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Run although data or weights differ.")
    ] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> int:
    """Repeat the run of a report in a fresh store; exit with 1 where a score differs.

    Differences of data, weights, versions and code are named first. If data or weights differ,
    nothing is computed.
    """
    from benchmark import finished

    if math.isnan(tolerance):
        raise UsageError("reproduce: '--tolerance' is nan; give a number from 0 to 1")
    with open_stderr_progress() as progress:
        found = finished.repeat(
            source,
            store=store,
            root=root,
            tolerance=tolerance,
            anyway=anyway,
            address=address,
            progress=progress,
        )
    content = found.content
    if as_json:
        print_json(content)
        return int(not found.is_reproduced)
    for text in content["differences"][:MOST_CHANGES]:
        say(text)
    if len(content["differences"]) > MOST_CHANGES:
        say(f"and {len(content['differences']) - MOST_CHANGES} more: --json has all")
    if content["cells"]:
        print_tables([found.table()])
    say(found.sentence)
    say(content["store"])
    return int(not found.is_reproduced)
