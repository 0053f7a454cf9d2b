"""The command line: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import logging
import math
import os
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from benchmark.cli import (  # noqa: F401  # add their commands
    beginning,
    checking,
    comparing,
    describing,
    embedding,
    mapping,
    publishing,
    querying,
    reproducing,
    running,
    upkeep,
)
from benchmark.cli.app import (
    ExperimentArg,
    ExperimentsArg,
    JsonOption,
    LogFormatOption,
    SetOption,
    StoreOption,
    app,
)
from benchmark.cli.printing import (
    LogFormat,
    complain,
    find_log_format,
    format_stderr,
    open_stderr_progress,
    open_stdout,
    print_json,
    say,
)
from benchmark.cli.status import WATCH_EVERY_S, Asked, show_status, watch_status
from benchmark.cluster.headwatch import end_process
from benchmark.cluster.importing import check_imports
from benchmark.errors import BenchmarkError, Interrupted, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

HANG_UP = getattr(signal, "SIGHUP", signal.SIGTERM)
"""Windows has no such signal."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code (the console script).

    SIGTERM, sent by `ray job stop`, ends a command like Ctrl-C, and so does SIGHUP, sent when a
    terminal or an ssh session closes; `nohup` keeps a command running.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(HANG_UP) is not signal.SIG_IGN:
        signal.signal(HANG_UP, _interrupt)
    end_process(invoke(sys.argv[1:] if arguments is None else arguments))


def _interrupt(number: int, _: object) -> NoReturn:
    # A second signal ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    if number == HANG_UP:
        _leave_terminal()
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Write to nowhere instead of to a terminal that is gone, where each write would fail."""
    with Path(os.devnull).open("wb") as nowhere:
        for stream in (1, 2):
            with suppress(OSError):
                if stat.S_ISCHR(os.fstat(stream).st_mode):
                    os.dup2(nowhere.fileno(), stream)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 a cell failed, 2 usage error."""
    logging.getLogger("benchmark").addHandler(logging.NullHandler())
    with format_stderr(find_log_format(arguments)):
        return _invoke(arguments)


def _invoke(arguments: Sequence[str]) -> int:
    # The base class of all errors of typer's parser.
    parser_error = typer.BadParameter.__mro__[2]
    try:
        check_imports()
        code = app(list(arguments), standalone_mode=False, prog_name="benchmark")
    except BenchmarkError as error:
        return complain(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = Interrupted.exit_code
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if isinstance(error, OSError) and "--install-completion" in arguments:
            return complain(f"the completion cannot be installed: {one_line(error)}", 2)
        if not isinstance(error, parser_error):
            raise
        message = getattr(error, "format_message", str(error).__str__)()
        if type(error).__name__ == "NoArgsIsHelpError":
            # No command was given: the message is the help text.
            sys.stderr.write(f"{message}\n")
            return 2
        return complain(" ".join(message.split()), 2)
    if code == Interrupted.exit_code:
        # Typer returns this code after Ctrl-C without a message.
        return complain("interrupted; complete cells are kept, run again to go on", code)
    return code if isinstance(code, int) else 0


@app.command("list")
def list_catalog(
    catalog: Annotated[str, typer.Argument(metavar="datasets|backbones|heads|metrics")],
    as_json: JsonOption = False,
) -> None:
    """List the entries of a catalog."""
    from benchmark.cli.listing import catalog_rows, source_lines

    rows = catalog_rows(catalog)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    open_stdout().print(table)
    for line in source_lines(catalog):
        say(line)


@app.command()
def status(
    experiments: ExperimentsArg,
    settings: SetOption = None,
    store: StoreOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Repeat until every cell is complete or failed.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="--watch: interval; default 2."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every file of complete cells, to find damaged ones."),
    ] = False,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> int:
    """Show every cell: complete, stale, missing, failed or left out, with its path."""
    from benchmark import api

    if every is not None and not watch:
        raise UsageError("status: --every applies to --watch only; add --watch or omit --every")
    if every is not None and math.isnan(every):
        raise UsageError("status: '--every' is nan; give a number of seconds from 0.1 to 86400")
    if verify and watch:
        raise UsageError("status: --verify does not apply to --watch; give one of them")
    if watch and len(experiments) > 1:
        raise UsageError(f"status: --watch shows one experiment, not {len(experiments)}; give one")
    loaded = [api.load(path, settings or ()) for path in experiments]
    asked = [Asked(item, store, as_json, verify=verify) for item in loaded]
    if not watch:
        return show_status(asked)
    return watch_status(asked[0], every_s=WATCH_EVERY_S if every is None else every)


@app.command()
def submit(
    experiment: ExperimentArg,
    settings: SetOption = None,
    store: StoreOption = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Job server of the cluster: http://HOST:8265.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the log until the run ends; exit with its code.")
    ] = False,
    runtime_env: Annotated[
        str,
        typer.Option(metavar="none|pip|uv", help="Packages that the cluster installs first."),
    ] = "none",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the cluster; submit nothing.")
    ] = False,
    as_json: JsonOption = False,
    log_format: LogFormatOption = LogFormat.text,
) -> int:
    """Check a Ray cluster, then run all stages on it as a job."""
    from benchmark.cli.submit import Options, submit_experiment

    return submit_experiment(
        experiment,
        Options(
            settings=tuple(settings or ()),
            store=store,
            address=address,
            follow=follow,
            runtime_env=runtime_env,
            dry_run=dry_run,
            as_json=as_json,
            log_format=log_format,
        ),
    )


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the scenes.")],
    scenes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Scenes per state.")
    ] = None,
    regions: Annotated[
        str | None, typer.Option(metavar="de,pa", help="chesapeake: copy only these states.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="URI", help="chesapeake: folder or URI of unpacked data to copy."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=256, metavar="PX", help="synthetic: side of a scene in px."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="S", help="synthetic: seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Download or copy the source scenes of a data set, or write them for `synthetic`."""
    from benchmark.catalog.datasets import find_dataset

    entry = find_dataset(dataset, where="prepare")
    if entry.prepare is None:
        raise UsageError(f"prepare: the data set '{dataset}' is your own data and needs no prepare")
    states = None if regions is None else [item.strip() for item in regions.split(",")]
    given = {"scenes": scenes, "size": size, "seed": seed, "regions": states, "source": source}
    options = {key: value for key, value in given.items() if value is not None}
    for key in sorted(options.keys() - entry.prepare_options):
        raise UsageError(f"prepare: --{key} does not apply to the data set '{dataset}'; omit it")
    with open_stderr_progress() as progress:
        path = entry.prepare(root, progress=progress, **options)
    if as_json:
        print_json({"dataset": dataset, "root": str(path)})
    else:
        say(str(path))


@app.command()
def export(
    experiment: ExperimentArg,
    backbone: Annotated[str, typer.Option(metavar="NAME", help="A backbone of the experiment.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    method: Annotated[
        str,
        typer.Option(
            "--method", metavar="METHOD", help="finetune, finetune-MODE, or a head on embeddings."
        ),
    ] = "finetune",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="A seed of the experiment; default: the first.")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="folder|onnx", help="onnx: one graph.")
    ] = "folder",
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Also upload to this repository of the hub.")
    ] = None,
    settings: SetOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model as a folder, which works without this package where it can."""
    from benchmark import api

    loaded = api.load(experiment, settings or ())
    folder, address = api.export(
        loaded,
        backbone=backbone,
        method=method,
        seed=seed,
        out=out,
        format=format,
        repo=push,
        store=store,
    )
    kind, summary = api.describe_export(folder)
    if as_json:
        print_json({"path": str(folder), "kind": kind, "pushed": address})
        return
    say(summary)
    if address:
        say(address)
    say(str(folder))
