"""The layouts of known raster products: how their values become vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from benchmark.catalog.roots.address import split_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmark.catalog.products.headers import Header

ALPHAEARTH_BANDS = tuple(f"A{number:02d}" for number in range(64))
ALPHAEARTH_NODATA = -128.0
UNIT_TOLERANCE = 0.05
"""Most by which a vector of unit length may be longer or shorter: int8 gives up to 0.01."""

PER_PIXEL = "per_pixel_scale"
"""What Zarr's ``geoemb:quantization`` calls a factor for each pixel."""

_YEAR = re.compile(r"(?:year=)?((?:19|20)\d\d)")
_YEAR_AT_END = re.compile(r".*[_-]((?:19|20)\d\d)")
_ZONE = re.compile(r"\d{1,2}[NS]")
_TESSERA = re.compile(r"grid_-?\d+(?:\.\d+)?_-?\d+(?:\.\d+)?_\d{4}\.tiff?")
_COPERNICUS = re.compile(r"embed_map_.*\.tiff?")
_ESD = re.compile(r"SDC30_EBD_.*\.tiff?")


class Layout(NamedTuple):
    """How the values of a raster product become vectors."""

    name: str
    words: str
    """Description of the values, for users."""
    dequantise: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    """None: by the scale and offset of the file."""
    is_unit: bool = False
    """Whether vectors have unit length."""
    nodata: float | None = None
    """Value that means no data, where the file tells none."""
    refusal: str | None = None
    """Why its values are no vectors, and what to do."""


def _dequantise(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return AlphaEarth's vectors: sign(x) (x / 127.5)^2.

    Source: developers.google.com/earth-engine/guides/aef_on_gcs_readme.
    """
    shares = values / 127.5
    return shares * abs(shares)


ALPHAEARTH = Layout(
    "AlphaEarth",
    "in AlphaEarth's layout: sign(x) (x / 127.5)^2, of unit length",
    _dequantise,
    is_unit=True,
    nodata=ALPHAEARTH_NODATA,
)
TESSERA = Layout("TESSERA", "in TESSERA's layout: as stored")
TESSERA_INT8 = Layout("TESSERA", "in TESSERA's layout: int8 times the factor of each pixel")
COPERNICUS = Layout(
    "Copernicus-Embed", "in Copernicus-Embed's layout: as stored; zeros are empty cells", nodata=0.0
)
ESD = Layout(
    "Embedded Seamless Data",
    "numbers of codes",
    refusal=(
        "is named as those of Embedded Seamless Data, whose integers are numbers of codes: their "
        "mean means nothing; decode them into one band per dimension (torchgeo's ESDQuantizer)"
    ),
)
SCALED = Layout("raster", "times the factor of each pixel")
PLAIN = Layout("raster", "as stored, with the scale and offset of the file")


def find_layout(header: Header, address: str) -> Layout:
    """Return the layout that the header and the path of a raster tell.

    Args:
        header: of the raster.
        address: path or URI of the product, whose last folders are a part of the layout.
    """
    parts = [*_folders(address), *header.path.split("/")]
    if header.num_bands == len(ALPHAEARTH_BANDS) and header.dtype == "int8":
        is_named = header.names == ALPHAEARTH_BANDS
        is_placed = len(parts) > 2 and _YEAR.fullmatch(parts[-3]) and _ZONE.fullmatch(parts[-2])
        if header.nodata in (None, ALPHAEARTH_NODATA) and (is_named or is_placed):
            return ALPHAEARTH
    if header.num_bands == 128 and header.dtype == "float32" and _TESSERA.fullmatch(parts[-1]):
        return TESSERA
    if header.dtype.startswith("float") and _COPERNICUS.fullmatch(parts[-1]):
        return COPERNICUS
    if "int" in header.dtype and _ESD.fullmatch(parts[-1]):
        return ESD
    if header.is_scaled:
        is_tessera = header.num_bands == 128 and header.dtype == "int8"
        return TESSERA_INT8 if is_tessera else SCALED
    return PLAIN


def _folders(address: str) -> list[str]:
    """Return the parts of an address; settings of a URI are none."""
    return split_settings(address)[0].rstrip("/").split("/")


def year_of(path: str, address: str) -> int | None:
    """Return the year that the name or the folders of a file tell; None: they tell none.

    Args:
        path: below the product.
        address: of the product; of its own folders, only the last one and the one above a UTM zone
            are looked at.
    """
    *folders, name = path.split("/")
    if found := _YEAR_AT_END.fullmatch(name.rpartition(".")[0]):
        return int(found[1])
    last = _folders(address)[-2:]
    if not _ZONE.fullmatch(last[-1]):
        last = last[-1:]
    for folder in reversed([*last, *folders]):
        if found := _YEAR.fullmatch(folder):
            return int(found[1])
    return None
