"""The commands ``describe`` and ``footprints``: what the patches are, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from benchmark.cli.printing import LogFormat, open_stderr_progress, print_json, say


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
    cells: Annotated[
        list[str] | None,
        typer.Option(
            "--cell",
            metavar="BACKBONE/METHOD[/seedN]",
            help="Whose predictions are joined; default: all complete cells of the first seed.",
        ),
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> None:
    """Write the outlines of the patches, with predictions and errors, as GeoParquet.

    The patches are sampled first if they are not in the store.
    """
    from benchmark import api
    from benchmark.stages.footprints import check_path, summarise, write_footprints

    check_path(out)
    loaded = api.load(experiment, settings or ())
    with open_stderr_progress() as progress:
        frame = api.footprints(loaded, cells=cells, store=store, address=address, progress=progress)
    write_footprints(frame, out)
    found = summarise(frame)
    if as_json:
        print_json({"path": str(out), **found})
        return
    cells_text = (
        f"predictions of {', '.join(found['cells'])}" if found["cells"] else "no predictions"
    )
    unplaced = f", {found['num_unplaced']:,} without coordinates" if found["num_unplaced"] else ""
    say(f"{found['num_patches']:,} patches as {found['shapes']}{unplaced}, with {cells_text}")
    say(str(out))
