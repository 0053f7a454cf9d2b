"""The command ``embed-scenes``: grids of embeddings of whole scenes."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.app import AddressOption, JsonOption, LogFormatOption, app
from benchmark.cli.mapping import (
    BandsOption,
    ScenesArg,
    TrustCodeOption,
    ValueRangeOption,
    split_bands,
)
from benchmark.cli.printing import LogFormat, open_stderr_progress, print_json, say


@app.command("embed-scenes")
def embed(
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE",
            help="A name of `benchmark list`, hf:..., timm:..., or a folder of `benchmark export`.",
        ),
    ],
    scenes: ScenesArg,
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder of the outputs.")],
    stride: Annotated[int, typer.Option(metavar="PX", help="Distance of two windows.")],
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Side of a window; default: the backbone's input, or an exported model's patch.",
        ),
    ] = None,
    bands: BandsOption = None,
    value_range: ValueRangeOption = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="cog|geoparquet|neuco_csv",
            help="A raster with a band per dimension, outlines with a list, or NeuCo-Bench's CSV.",
        ),
    ] = "cog",
    dtype: Annotated[
        str,
        typer.Option(
            metavar="float32|float16|int8", help="Of a raster; int8 has a scale per band."
        ),
    ] = "float32",
    trust_code: TrustCodeOption = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
    _log_format: LogFormatOption = LogFormat.text,
) -> int:
    """Embed windows of whole scenes with a backbone: a grid of vectors of each."""
    from benchmark.mapping.embedding import embed_scenes

    with open_stderr_progress() as progress:
        results = embed_scenes(
            backbone,
            scenes,
            out=out,
            address=address,
            progress=progress,
            stride=stride,
            size=size,
            bands=split_bands(bands),
            value_range=value_range,
            format=format,
            dtype=dtype,
            trust_code=trust_code,
        )
    if as_json:
        print_json({"embeddings": [result.to_json() for result in results]})
    else:
        for result in results:
            if result.status == "failed":
                say(f"{result.scene}: failed: {result.reason}")
                continue
            say(
                f"{result.out}: {result.num_embedded} windows of {result.dim} dimensions, "
                f"{result.num_empty} without data, {result.seconds:.1f} s"
            )
    return int(any(result.status == "failed" for result in results))
