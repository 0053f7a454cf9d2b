"""The commands ``compare`` and ``leaderboard``: two runs patch by patch, and many on one board."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.app import JsonOption, app
from benchmark.cli.printing import print_json, print_tables, say

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


@app.command()
def leaderboard(
    stores: Annotated[
        list[str] | None,
        typer.Argument(metavar="STORE...", help="Stores or experiment files whose runs are added."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.parquet", help="The board: rows that it lacks are appended to it."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the scores of many runs on one board, and append them to a file."""
    from benchmark import finished
    from benchmark.comparing.board import board_tables, to_json

    frame, num_added = finished.add_to_board(stores or [], out)
    if as_json:
        print_json({"path": out, "added": num_added, "rows": to_json(frame)})
        return
    print_tables(board_tables(frame))
    if out is not None:
        say(f"{num_added} rows added")
        say(out)
