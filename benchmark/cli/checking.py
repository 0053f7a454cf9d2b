"""The command ``check``: the contract tests of an entry."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.app import JsonOption, app
from benchmark.cli.printing import complain, print_json, say
from benchmark.errors import tidy


@app.command()
def check(
    entry: Annotated[
        str, typer.Argument(metavar="NAME", help="package.module:attribute, or a catalog's entry.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(metavar="backbone|head|metric|dataset", help="Default: as its code tells."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of its function: width=64."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run the contract tests on a backbone, head, metric or data set of your own."""
    from benchmark.catalog.contracts.checking import iterate_checks
    from benchmark.catalog.own.public import CATALOGS
    from benchmark.fields import apply_override

    given: dict[str, object] = {}
    for item in settings or ():
        apply_override(given, item)
    results = []
    for result in iterate_checks(entry, CATALOGS, kind=kind, settings=given):  # type: ignore[arg-type]
        results.append(result)
        if not as_json:
            what = f"{'ok    ' if result.is_ok else 'failed'}  {result.name}"
            say(what if result.is_ok else f"{what}: {result.reason}")
    failed = [item for item in results if not item.is_ok]
    if as_json:
        print_json({"entry": entry, "checks": [item.to_json() for item in results]})
    if not failed:
        return 0
    return complain(tidy(f"{len(failed)} of {len(results)} checks of '{entry}' failed"), 1)
