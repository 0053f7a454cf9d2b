"""The command ``compare``: paired differences of two runs."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.app import JsonOption, app
from benchmark.cli.printing import print_json, print_tables

RUN_HELP = "An experiment file, a store, or STORE/evaluate/NAME-FINGERPRINT."


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=RUN_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same of the run to compare with A.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two runs on the test patches that both have: B minus A, with flip tests."""
    from benchmark import finished

    found = finished.compare(a, b)
    if as_json:
        print_json(found.content)
    else:
        print_tables([found.table()])
