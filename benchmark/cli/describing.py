"""The command ``describe``: what the patches are, before anything is embedded."""

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
