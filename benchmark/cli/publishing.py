"""The command ``figures``: the report's figures and tables as files for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import ExperimentArg, JsonOption, SetOption, StoreOption, app
from benchmark.cli.printing import print_json, say


@app.command()
def figures(
    experiment: ExperimentArg,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the files.")],
    settings: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write every figure as PDF, SVG and PNG, and every table as Markdown, LaTeX and CSV."""
    from benchmark import api, finished

    files = finished.write_figures(api.load(experiment, settings or ()), out, store=store)
    if as_json:
        print_json({"path": str(out), "files": [path.name for path in files]})
        return
    say(f"{len(files)} files")
    say(str(out))
