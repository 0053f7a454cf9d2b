"""The command line's parser, its own options, and the arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.printing import LOG_FORMAT_OPTION, LOG_FORMAT_VARIABLE, LogFormat, say

app = typer.Typer(
    name="benchmark",
    help="Which pretrained backbone for your patches, frozen or fine-tuned, and is the "
    "difference real?",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ExperimentArg = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment file.")
]
ExperimentsArg = Annotated[
    list[Path],
    typer.Argument(
        metavar="EXPERIMENT.toml...", help="One experiment file, or several, run in this order."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: embed.batch_size=64."),
]
StoreOption = Annotated[
    str | None, typer.Option(metavar="URI", help="Store of the artefacts: a folder or s3://...")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="A Ray cluster; default: this machine."),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show the status of every cell and what is left; compute nothing."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        LOG_FORMAT_OPTION,
        metavar="text|json",
        envvar=LOG_FORMAT_VARIABLE,
        help="json: each line of stderr is one JSON object.",
    ),
]
"""Only checked by the parser: ``invoke`` applies it, so that errors of the parser are JSON, too."""


def _show_version(asked: bool) -> None:
    if not asked:
        return
    import platform

    from benchmark.store.provenance import code_revision, library_versions

    revision = code_revision()
    code = f" (git {revision})" if revision else ""
    version = library_versions().get("backbone-benchmark", "unknown")
    say(f"benchmark {version}{code}, Python {platform.python_version()}")
    raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Which pretrained backbone for your patches, and is the difference real?"""
