"""The commands ``describe`` and ``footprints``: what the patches are, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.app import (
    AddressOption,
    ExperimentArg,
    JsonOption,
    LogFormatOption,
    SetOption,
    StoreOption,
    app,
)
from benchmark.cli.printing import LogFormat, open_stderr_progress, print_json, print_tables, say

if TYPE_CHECKING:
    from benchmark.experiment.cells import TextTable


@app.command()
def describe(
    experiment: ExperimentArg,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the two files.")] = Path(),
    settings: SetOption = None,
    store: StoreOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> None:
    """Write the data card: counts, purity, pixel values, duplicates, examples and a map.

    The patches are sampled first if they are not in the store; nothing is embedded.
    """
    from benchmark import api

    loaded = api.load(experiment, settings or ())
    with open_stderr_progress() as progress:
        card = api.describe(loaded, store=store, address=address, progress=progress)
    path = card.write(out)
    if as_json:
        print_json(card.content)
    else:
        say(str(path))


@app.command()
def footprints(
    experiment: ExperimentArg,
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="The GeoParquet file.")],
    cell: Annotated[
        str | None,
        typer.Option(
            metavar="BACKBONE/METHOD[/seedN]",
            help="Whose predictions are joined; default: the leader.",
        ),
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> None:
    """Write the outlines of the patches, with predictions and errors, as GeoParquet.

    The patches are sampled first if they are not in the store. With predictions, the hardest scenes
    and regions of test are ranked, here and in FILE-hardest.csv.
    """
    from benchmark import api
    from benchmark.stages.footprints import check_path, summarise, write_footprints
    from benchmark.stages.hardest import hardest_tables, rank_hardest, write_hardest

    check_path(out)
    loaded = api.load(experiment, settings or ())
    with open_stderr_progress() as progress:
        frame = api.footprints(loaded, cell=cell, store=store, address=address, progress=progress)
    write_footprints(frame, out)
    found: dict[str, Any] = {"path": str(out), **summarise(frame), "hardest": None}
    tables: list[TextTable] = []
    if found["cell"]:
        ranked = rank_hardest(frame, confidence=loaded.evaluate.confidence)
        tables = hardest_tables(ranked, found["cell"])
        found["hardest"] = str(write_hardest(ranked, out))
        found["ranking"] = ranked.to_dict("records")
    if as_json:
        print_json(found)
        return
    print_tables(tables)
    unplaced = f", {found['num_unplaced']:,} without coordinates" if found["num_unplaced"] else ""
    joined = (
        f"with predictions of {found['cell']}"
        if found["cell"]
        else "without predictions: the experiment is not evaluated (benchmark run, or --cell)"
    )
    say(f"{found['num_patches']:,} patches as {found['shapes']}{unplaced}, {joined}")
    if found["hardest"]:
        say(found["hardest"])
    say(str(out))
