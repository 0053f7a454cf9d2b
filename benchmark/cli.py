"""The command line: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.errors import BenchmarkError, UsageError, did_you_mean
from benchmark.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmark.config import Experiment
    from benchmark.context import CellResult
    from benchmark.stages.base import TextTable

app = typer.Typer(
    name="benchmark",
    help="Which pretrained backbone for your patches, frozen or fine-tuned, and is the "
    "difference real?",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExperimentArg = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: embed.batch_size=64."),
]
StoreOption = Annotated[
    str | None, typer.Option(metavar="URI", help="Where artefacts go: a folder or s3://...")
]
AddressOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster; without it, this machine.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the grid and what is complete; compute nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def main() -> None:
    """Run the command line and exit with its code (the console script)."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 a cell failed, 2 usage."""
    logging.getLogger("benchmark").addHandler(logging.NullHandler())
    # Every error of typer's parser derives from the base of its usage errors.
    parser_error = typer.BadParameter.__mro__[2]
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="benchmark")
    except BenchmarkError as error:
        return _complain(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted; what is complete is kept, run again to go on", 130)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if not isinstance(error, parser_error):
            raise
        message = getattr(error, "format_message", str(error).__str__)()
        if type(error).__name__ == "NoArgsIsHelpError":
            # No command was given: its message is the help.
            sys.stderr.write(f"{message}\n")
            return 2
        return _complain(" ".join(message.split()), 2)
    return code if isinstance(code, int) else 0


@app.command("list")
def list_catalog(
    catalog: Annotated[str, typer.Argument(metavar="datasets|backbones|heads|metrics")],
    as_json: JsonOption = False,
) -> None:
    """List what can be benchmarked."""
    rows = _catalog_rows(catalog)
    if as_json:
        _print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    _stdout().print(table)
    if catalog == "backbones":
        _say_sources()


@app.command()
def run(
    experiment: ExperimentArg,
    settings: SetOption = None,
    store: StoreOption = None,
    address: AddressOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Run all stages in order; complete artefacts are skipped."""
    from benchmark import api

    loaded = api.load(experiment, settings or ())
    if dry_run:
        return _show_status(loaded, store, as_json, prefix="dry run: ")
    began = time.monotonic()
    with _progress() as progress:
        result = api.run(loaded, store=store, address=address, progress=progress)
    if as_json:
        _print_json(result.to_json())
    else:
        _print_tables(result.tables)
        num_done = sum(item.status == "complete" for item in result.cells)
        _say(
            f"{num_done} of {len(result.cells)} cells complete in {result.store}, "
            f"{time.monotonic() - began:.1f} s"
        )
        _say(result.report or result.store)
    return _exit_code(result.failed)


def _stage_command(name: str, summary: str) -> Callable[..., int]:
    def command(
        experiment: ExperimentArg,
        settings: SetOption = None,
        store: StoreOption = None,
        address: AddressOption = None,
        dry_run: DryRunOption = False,
        as_json: JsonOption = False,
    ) -> int:
        from benchmark import api

        loaded = api.load(experiment, settings or ())
        if dry_run:
            return _show_status(loaded, store, as_json, prefix="dry run: ", stage=name)
        with _progress() as progress:
            result, path = api.run_stage(
                name, loaded, store=store, address=address, progress=progress
            )
        if as_json:
            cells = [item.to_json() for item in result.cells]
            _print_json({"store": store or loaded.store, "path": path, "cells": cells})
        else:
            _print_tables(result.tables)
            _say(path)
        return _exit_code([item for item in result.cells if item.status == "failed"])

    command.__doc__ = summary
    return command


for _entry in STAGES:
    app.command(_entry.name)(_stage_command(_entry.name, _entry.help))


@app.command()
def status(
    experiment: ExperimentArg,
    settings: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show every cell: complete, stale, missing or failed, with its path."""
    from benchmark import api

    return _show_status(api.load(experiment, settings or ()), store, as_json)


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where the scenes go.")],
    scenes: Annotated[
        int | None, typer.Option(min=3, metavar="N", help="synthetic: scenes per state.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=256, metavar="PX", help="synthetic: side of a scene in px.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="S", help="synthetic: seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Download, or for `synthetic` write, the source scenes of a data set."""
    from benchmark.catalog.datasets import DATASETS

    entry = DATASETS.get(dataset, where="prepare")
    if entry.prepare is None:
        raise UsageError(f"prepare: the data set '{dataset}' is your own; there is nothing to do")
    given = {"scenes": scenes, "size": size, "seed": seed}
    options = {key: value for key, value in given.items() if value is not None}
    if options and dataset != "synthetic":
        raise UsageError(f"prepare: --{next(iter(options))} applies to synthetic only")
    with _progress() as progress:
        path = entry.prepare(root, progress=progress, **options)
    if as_json:
        _print_json({"dataset": dataset, "root": str(path)})
    else:
        _say(str(path))


@app.command()
def export(
    experiment: ExperimentArg,
    backbone: Annotated[str, typer.Option(metavar="NAME", help="One of the experiment's.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="finetune, or a head on frozen embeddings.")
    ] = "finetune",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="One of the experiment's; the first.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload to this hub repository as well.")
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model as a folder that others can use without this package."""
    from benchmark import api

    loaded = api.load(experiment, settings or ())
    folder, address = api.export(
        loaded, backbone=backbone, method=method, seed=seed, out=out, repo=push, store=store
    )
    if as_json:
        _print_json({"path": str(folder), "pushed": address})
        return
    if address:
        _say(address)
    _say(str(folder))


def _catalog_rows(catalog: str) -> list[dict[str, Any]]:
    if catalog == "datasets":
        from benchmark.catalog.datasets import DATASETS

        return [
            {"name": item.name, "description": item.description, "license": item.license or "-"}
            for item in DATASETS
        ]
    if catalog == "backbones":
        from benchmark.catalog.backbones import BACKBONES

        return [
            {
                "name": item.name,
                "dim": item.dim or ("fitted" if item.fit else "2 per band"),
                "parameters": f"{item.num_parameters / 1e6:.1f} M",
                "input": f"{item.image_size} px" if item.image_size else "native",
                "bands": ", ".join(item.bands) if item.bands else "all",
                "source": item.source,
                "license": item.license,
            }
            for item in BACKBONES
        ]
    if catalog == "heads":
        from benchmark.catalog.heads import HEADS

        return [{"name": item.name, "description": item.description} for item in HEADS]
    if catalog == "metrics":
        from benchmark.catalog.metrics import METRICS

        return [
            {"name": item.name, "better": item.direction, "description": item.description}
            for item in METRICS
        ]
    known = ("datasets", "backbones", "heads", "metrics")
    raise UsageError(f"list: unknown catalog '{catalog}'.{did_you_mean(catalog, known)}")


def _say_sources() -> None:
    from benchmark.catalog.backbones import SOURCES

    _say("\nand any model of these sources, by its name in an experiment file:")
    width = max(map(len, SOURCES))
    for name, text in SOURCES.items():
        _say(f"{name:<{width}}  {text}")


def _show_status(
    experiment: Experiment,
    store: str | None,
    as_json: bool,
    *,
    prefix: str = "",
    stage: str | None = None,
) -> int:
    from benchmark import api

    results = [
        item
        for item in api.status(experiment, store=store)
        if stage is None or item.cell.stage == stage
    ]
    if as_json:
        _print_json(
            {
                "store": store or experiment.store,
                "cells": [item.to_json() for item in results],
            }
        )
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "cell", "status", "artefact"):
        table.add_column(column, overflow="fold", no_wrap=column != "artefact")
    for item in results:
        state = f"{item.status}: {item.reason}" if item.reason else item.status
        table.add_row(
            item.cell.stage, Text(item.cell.label), Text(state), Text(item.cell.artefact.uri)
        )
    _stdout().print(table)
    complete = sum(item.status == "complete" for item in results)
    _say(f"{prefix}{complete} of {len(results)} cells complete")
    _say(store or experiment.store)
    return 0


def _progress() -> Any:
    from rich.console import Console

    from benchmark.console import open_progress

    return open_progress(Console(stderr=True))


def _print_tables(tables: Sequence[TextTable]) -> None:
    from rich.table import Table
    from rich.text import Text

    for item in tables:
        table = Table(
            title=Text(item.title),
            title_justify="left",
            box=None,
            header_style="bold",
            pad_edge=False,
        )
        for index, column in enumerate(item.columns):
            numeric = index > 0 and all(_is_number(row[index]) for row in item.rows)
            table.add_column(Text(column), justify="right" if numeric else "left")
        for row in item.rows:
            table.add_row(*(Text(value) for value in row))
        console = _stdout()
        console.print(table)
        for note in item.notes:
            console.print(Text(note))
        console.print()


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("-", "").strip().isdigit() or text == "-"


def _exit_code(failed: Sequence[CellResult]) -> int:
    if failed:
        reasons = dict.fromkeys(item.reason for item in failed)
        first = next(iter(reasons))
        more = f" (and {len(reasons) - 1} other reasons: see status)" if len(reasons) > 1 else ""
        _complain(f"{len(failed)} cells failed: {first}{more}", 1)
    return 1 if failed else 0


def _stdout() -> Any:
    from rich.console import Console

    # A pipe has no width: lines must not be folded there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 500, soft_wrap=False)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"benchmark: {' '.join(text.splitlines())}\n")
    return code
