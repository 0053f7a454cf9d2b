"""``[dataset.rasters]``: the settings of pairs of imagery and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from benchmark.fields import FiniteFloat, Name, PathText, PixelValue
from benchmark.section import Section

MaskValue = Annotated[int, Field(ge=-(2**31), lt=2**32)] | Name
"""Value of a label raster, or of the field of vector labels, which may be a text."""
Metres = Annotated[FiniteFloat, Field(gt=0.0, le=1e7)]
MetresOrZero = Annotated[FiniteFloat, Field(ge=0.0, le=1e7)]
Values = Annotated[tuple[MaskValue, ...], Field(min_length=1, max_length=1000)]


def _values_of_classes(value: Any) -> Any:
    """Return a table of classes with a tuple of values for each; other values unchanged."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: tuple(given) if isinstance(given, (list, tuple)) else (given,)
        for name, given in value.items()
    }


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int and abs(value) < 2**53 else value


class RastersConfig(Section):
    """``[dataset.rasters]``: your own imagery with label rasters or polygons."""

    images: PathText | None = None
    """Pattern of the images below ``root``, e.g. ``naip/*.tif``; ``*`` matches a part of one
    name."""
    labels: PathText | None = None
    """Pattern of the label files, e.g. ``lc/*.tif``: an image and a label file belong together if
    ``*`` matches the same text in both. Without ``*``: one file of polygons for all images."""
    index: PathText | None = None
    """Instead of the patterns: a table below ``root`` (CSV or Parquet) with the columns image and
    label, and optionally scene, region and split; or STAC items (a JSON file or a folder)."""
    image_asset: Name = "image"
    """Asset of a STAC item that is the image."""
    label_asset: Name = "label"
    """Asset of a STAC item that is the label file."""
    classes: Annotated[Mapping[Name, Values], Field(max_length=250)] = {}
    """Classes in order, each with its value or values in the labels:
    ``{water = 1, trees = [2, 3]}``. Unset, for polygons: every text in ``label_field``."""
    ignore: Annotated[tuple[MaskValue, ...], Field(max_length=1000)] = ()
    """Label values that belong to no class, like nodata; any other unknown value is refused."""
    label_field: Name | None = None
    """Field of the polygons that holds the class, for labels in GeoPackage, Shapefile, GeoParquet
    or GeoJSON."""
    label_layer: Name | None = None
    """Layer of a GeoPackage, if it has several."""
    image_nodata: PixelValue | None = None
    """Pixel value of the images that means no data; unset: what each file says."""
    label_nodata: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    """Value of the label rasters that means no data; unset: what each file says."""
    stride: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Step between windows in px; unset: ``patch_size``, so that patches do not overlap."""
    gsd_m: Metres | None = None
    """Pixel size in m to which every scene is resampled; unset: pixels are used as they are."""
    block_m: Metres | None = None
    """Side in m of the blocks of ground that are drawn for train, val and test; unset: whole
    scenes are split."""
    buffer_m: MetresOrZero = 0.0
    """Distance in m that patches keep from blocks of other splits; patches that are nearer, touch
    or cross them are left out."""

    _classes_hold_values = field_validator("classes", mode="before")(_values_of_classes)
    _integers_are_floats = field_validator(
        "image_nodata", "gsd_m", "block_m", "buffer_m", mode="before"
    )(_as_float)
