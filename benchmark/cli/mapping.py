"""The command ``predict``: maps of scenes by an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.app import AddressOption, JsonOption, LogFormatOption, app
from benchmark.cli.printing import LogFormat, open_stderr_progress, print_json, say

if TYPE_CHECKING:
    from benchmark.mapping.running import MapResult


ScenesArg = Annotated[
    list[str],
    typer.Argument(
        metavar="SCENE...",
        help="A GeoTIFF; or several, a folder, a glob, or a table with a column path.",
    ),
]
BandsOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="The scene's bands in the model's order, by number or name: 4,3,2."
    ),
]
ValueRangeOption = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LOW HIGH", help="Pixel values that become 0 and 255, if not uint8."),
]

TrustCodeOption = Annotated[
    bool, typer.Option("--trust-code", help="Run a model's program that others exported.")
]


def split_bands(bands: str | None) -> tuple[str, ...]:
    """Return the numbers or names of a list of bands."""
    return tuple(part.strip() for part in bands.split(",")) if bands else ()


@app.command("predict")
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder that `benchmark export` wrote.")
    ],
    scenes: ScenesArg,
    out: Annotated[
        Path, typer.Option(metavar="MAP.tif|DIR", help="The map of one scene, or a folder.")
    ],
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Distance of two patches; default: their size. Overlapping patches are averaged.",
        ),
    ] = None,
    bands: BandsOption = None,
    value_range: ValueRangeOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace maps that exist.")
    ] = False,
    trust_code: TrustCodeOption = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> int:
    """Classify whole scenes with an exported model: a georeferenced map of each."""
    from benchmark.mapping.predicting import predict_maps

    with open_stderr_progress() as progress:
        results = predict_maps(
            model,
            scenes,
            out=out,
            overwrite=overwrite,
            address=address,
            progress=progress,
            stride=stride,
            bands=split_bands(bands),
            value_range=value_range,
            trust_code=trust_code,
        )
    if as_json:
        print_json({"maps": [result.to_json() for result in results]})
    else:
        _print(results)
    return int(any(result.status == "failed" for result in results))


def _print(results: list[MapResult]) -> None:
    """Print the shares of the classes of each map, and its path."""
    for result in results:
        if result.status == "failed":
            say(f"{result.scene}: failed: {result.reason}")
            continue
        num = sum((result.pixels or {}).values())
        shares = ", ".join(
            f"{name} {100 * count / num:.1f} %"
            for name, count in sorted((result.pixels or {}).items(), key=lambda item: -item[1])
            if count
        )
        say(f"{result.map}: {result.num_patches} patches, {result.seconds:.1f} s: {shares}")
