"""Patches as outlines on the ground, with the predictions and errors of methods."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.errors import BenchmarkError, UsageError, did_you_mean, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.fields import shown
from benchmark.specs import LocatedSource, slug_of
from benchmark.tables import find_common, vectors_array

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray

CRS = "EPSG:4326"
COLUMNS = ("patch_id", "label", "split", "region", "scene", "row", "col", "lon", "lat", "purity")
SUFFIX = ".parquet"


def read_footprints(context: Context, cells: Sequence[Cell] = ()) -> gpd.GeoDataFrame:
    """Return the complete patches of an experiment as a frame of shapes, sorted by ``patch_id``.

    Args:
        context: of the experiment.
        cells: complete cells whose predictions are joined.

    Returns:
        One row per patch: its columns in the table ``patches`` without pixels, ``class_name``,
        ``is_synthetic``, and for each cell ``pred_CELL`` (name of the predicted class),
        ``confidence_CELL`` (its score, 0 to 1) and ``error_CELL`` (whether it is wrong), null where
        the cell predicts nothing, as on train; CELL is ``BACKBONE_METHOD``. ``geometry`` (EPSG:4326)
        is a polygon of the patch's corners, or its centre if the data set tells no corners; None
        where neither is known.

    Raises:
        UsageError: no patch has coordinates.
        CellError: a scene or a file of the store cannot be read.
    """
    import geopandas as gpd

    manifest = context.patches.manifest()
    table = context.patches.read_table(columns=list(COLUMNS))
    classes = np.array(manifest["classes"], object)
    labels = table["label"].to_numpy()
    frame = table.to_pandas()
    frame.insert(1, "class_name", classes[labels])
    frame["is_synthetic"] = bool(manifest["is_synthetic"])
    ids = table["patch_id"].to_numpy()
    for suffix, cell in _suffixes(cells).items():
        found = cell.artefact.read_table()
        at, rows = find_common(ids, found["patch_id"].to_numpy())
        predicted = found["y_pred"].to_numpy()[rows]
        scores = vectors_array(found["y_score"])[rows].max(axis=1)
        columns = {
            "pred": pd.Series(classes[predicted], at, "string"),
            "confidence": pd.Series(scores, at, "Float32"),
            "error": pd.Series(predicted != labels[at], at, "boolean"),
        }
        for name, column in columns.items():
            frame[f"{name}_{suffix}"] = column.reindex(frame.index)
    return gpd.GeoDataFrame(frame, geometry=_shapes(context, table), crs=CRS)


def find_cells(context: Context, wanted: Sequence[str] | None) -> list[Cell]:
    """Return the cells whose predictions are asked for.

    Args:
        context: of the experiment.
        wanted: ``BACKBONE/METHOD`` for the first seed, or ``BACKBONE/METHOD/seedN``; None: all
            complete cells of the first seed, or none if the weights of a backbone are missing.

    Raises:
        UsageError: there is no such cell, or it is not complete.
    """
    first = context.experiment.seeds[0]
    if wanted is None:
        # Where only patches were computed, the weights that identify cells may be missing.
        with suppress(BenchmarkError):
            cells = context.prediction_cells()
            return [cell for cell in cells if cell.seed == first and cell.artefact.is_complete]
        return []
    known = {f"{c.backbone}/{c.method}/seed{c.seed}": c for c in context.prediction_cells()}
    found = {}
    for name in wanted:
        cell = known.get(name) or known.get(f"{name}/seed{first}")
        if cell is None:
            raise UsageError(
                f"{context.experiment.path}: there is no cell {shown(name, 200)}; give "
                f"BACKBONE/METHOD or BACKBONE/METHOD/seedN.{did_you_mean(name, known)}"
            )
        if not cell.artefact.is_complete:
            raise UsageError(
                f"{context.experiment.path}: cell '{name}' has no predictions: "
                f"{context.why_missing(cell.artefact)}"
            )
        found[cell.artefact.path] = cell
    return list(found.values())


def check_path(path: str | Path) -> Path:
    """Return the path of a GeoParquet file.

    Raises:
        UsageError: its name has another ending, or it is a folder.
    """
    target = Path(path)
    if target.suffix != SUFFIX or target.is_dir():
        raise UsageError(f"footprints: {shown(str(path))} is no name of a file *{SUFFIX}; give one")
    return target


def summarise(frame: gpd.GeoDataFrame) -> dict[str, Any]:
    """Return what a frame of shapes holds: counts, the kind of shapes, and the cells."""
    kinds = frame.geometry.geom_type.dropna().unique().tolist()
    return {
        "num_patches": len(frame),
        "num_unplaced": int(frame.geometry.isna().sum()),
        "shapes": "polygons" if kinds == ["Polygon"] else "points",
        "crs": CRS,
        "cells": [name.removeprefix("pred_") for name in frame.columns if name.startswith("pred_")],
    }


def write_footprints(frame: gpd.GeoDataFrame, path: str | Path) -> Path:
    """Write a frame of shapes as GeoParquet 1.1, whole or not at all.

    Raises:
        UsageError: the path does not end in ``.parquet`` or cannot be written.
    """
    target = check_path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The column of bounding boxes lets readers skip rows outside a view.
            frame.to_parquet(part, index=False, schema_version="1.1.0", write_covering_bbox=True)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {one_line(error)}") from None
    return target


def _suffixes(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return the ends of the names of columns; a seed is named where cells differ in it alone."""
    names = [slug_of(f"{cell.backbone}_{cell.method}") for cell in cells]
    found: dict[str, Cell] = {}
    for name, cell in zip(names, cells, strict=True):
        name = f"{name}_seed{cell.seed}" if names.count(name) > 1 else name
        # Names of backbones may differ in characters that a column does not keep.
        number = sum(other == name or other.startswith(f"{name}_no") for other in found)
        found[f"{name}_no{number + 1}" if number else name] = cell
    return found


def _shapes(context: Context, table: pa.Table) -> NDArray[Any]:
    """Return a shape of each patch: polygons, or points, or None where nothing is known.

    Raises:
        UsageError: nothing is known of any patch.
    """
    import shapely

    shapes = np.full(table.num_rows, None, object)
    source: Any = context.source
    if isinstance(source, LocatedSource):
        corners = source.corners(table)
        known = np.isfinite(corners).all(axis=(1, 2))
        shapes[known] = shapely.polygons(corners[known])
    if not any(shape is not None for shape in shapes):
        lon, lat = (table[name].to_numpy(zero_copy_only=False) for name in ("lon", "lat"))
        known = np.isfinite(lon) & np.isfinite(lat)
        shapes[known] = shapely.points(lon[known], lat[known])
    if not any(shape is not None for shape in shapes):
        raise UsageError(
            f"{context.experiment.path} [dataset]: the patches of '{context.dataset.name}' have no "
            "coordinates; footprints need scenes, or GeoTIFF images with a coordinate reference "
            "system"
        )
    return shapes
