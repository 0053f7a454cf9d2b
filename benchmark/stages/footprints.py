"""Patches as outlines on the ground, with the predictions and errors of one cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.errors import BenchmarkError, UsageError, did_you_mean, one_line
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.fold_sets import pooled_set
from benchmark.experiment.train_sets import ALL, UNUSED, ChosenPatches
from benchmark.fields import shown
from benchmark.specs import LocatedSource
from benchmark.stages.pooling import pool_predictions, pooled_cells
from benchmark.store.names import beside
from benchmark.tables import find_common, vectors_array

if TYPE_CHECKING:
    import geopandas as gpd  # type: ignore[import-untyped]
    from numpy.typing import NDArray

CRS = "EPSG:4326"
COLUMNS = ("patch_id", "label", "split", "region", "scene", "row", "col", "lon", "lat", "purity")
SUFFIXES = (".parquet", ".gpkg")
"""GeoParquet, and GeoPackage for programs that do not read it."""


def read_footprints(context: Context, cell: Cell | None = None) -> gpd.GeoDataFrame:
    """Return the complete patches of an experiment as a frame of shapes, sorted by ``patch_id``.

    Args:
        context: of the experiment.
        cell: complete; its predictions are joined.

    Returns:
        One row per patch: its columns in the table ``patches`` without pixels, ``class_name`` and
        ``is_synthetic``; with a cell also ``cell`` (its name), ``predicted`` (name of a class),
        ``confidence`` (score of that class, 0 to 1) and ``is_error``, the last three null where the
        cell predicts nothing, as on train, while ``split`` is the role of the patch in the cell,
        None if it has none. ``geometry`` (EPSG:4326) is a polygon of the patch's corners, in two
        parts if it lies across the 180th meridian, or its centre if the data set tells no corners;
        None where neither is known.

    Raises:
        UsageError: no patch has coordinates.
        CellError: a scene or a file of the store cannot be read.
    """
    import geopandas as gpd

    manifest = context.patches.manifest()
    table = context.patches.read_table(columns=list(COLUMNS))
    classes = np.array(manifest["classes"], object)
    frame = table.to_pandas()
    frame.insert(1, "class_name", classes[frame["label"]])
    frame["is_synthetic"] = bool(manifest["is_synthetic"])
    shapes = _shapes(context, table)
    if cell is not None:
        found, rows = _read_cell(context, cell)
        frame["split"] = pd.Series(rows.roles, dtype=object).mask(rows.roles == UNUSED, None)
        frame = frame.assign(cell=_name(cell), **_join_predictions(found, frame, classes))
    return gpd.GeoDataFrame(frame, geometry=shapes, crs=CRS)


def _read_cell(context: Context, cell: Cell) -> tuple[pa.Table, ChosenPatches]:
    """Return the predictions of a cell, or of all its folds, and the patches as it sees them."""
    parts = pooled_cells(context, context.scores()).get(cell)
    if parts is None:
        return cell.artefact.read_table(), context.rows_of(cell)
    whole = ChosenPatches(context.patches, pooled_set(len(parts)), 0)
    return pool_predictions(context, parts), whole


def _join_predictions(
    found: pa.Table, frame: pd.DataFrame, classes: NDArray[Any]
) -> dict[str, pd.Series]:
    """Return the columns of predictions, null where there is none."""
    at, rows = find_common(frame["patch_id"].to_numpy(), found["patch_id"].to_numpy())
    predicted = found["y_pred"].to_numpy()[rows]
    scores = vectors_array(found["y_score"])[rows].max(axis=1)
    is_error = predicted != frame["label"].to_numpy()[at]
    columns = {
        "predicted": pd.Series(classes[predicted], at, "string"),
        "confidence": pd.Series(scores, at, "Float32"),
        "is_error": pd.Series(is_error, at, "boolean"),
    }
    return {name: column.reindex(frame.index) for name, column in columns.items()}


def _name(cell: Cell) -> str:
    train_set = "" if cell.train_set == ALL.name else f"/{cell.train_set}"
    return f"{cell.backbone}/{cell.method}{train_set}/seed{cell.seed}"


def find_cell(context: Context, wanted: str | None = None) -> Cell | None:
    """Return the cell whose predictions are asked for.

    Args:
        context: of the experiment.
        wanted: ``BACKBONE/METHOD`` for the first seed, or ``BACKBONE/METHOD/seedN``, with another
            train set than ``all`` before the seed; None: the leader of the ranking, or no cell if
            the experiment is not evaluated.

    Raises:
        UsageError: there is no such cell, or it is not complete.
    """
    if wanted is None:
        return _find_leader(context)
    known = {_name(cell): cell for cell in (*_complete_pools(context), *context.prediction_cells())}
    # Without a train set and a seed: the fullest one and the first.
    first = next(iter(known.values()))
    ending = _name(first).removeprefix(f"{first.backbone}/{first.method}")
    cell = known.get(wanted) or known.get(f"{wanted}{ending}")
    if cell is None:
        raise UsageError(
            f"{context.experiment.path}: there is no cell {shown(wanted, 200)}; give "
            f"BACKBONE/METHOD or BACKBONE/METHOD/seedN.{did_you_mean(wanted, known)}"
        )
    if not cell.artefact.is_complete:
        raise UsageError(
            f"{context.experiment.path}: cell '{_name(cell)}' has no predictions: "
            f"{context.why_missing(cell.artefact)}"
        )
    return cell


def _find_leader(context: Context) -> Cell | None:
    """Return the first complete seed of the best method; None: nothing is evaluated."""
    try:
        scores = context.scores()
    except BenchmarkError:
        # Where only patches were computed, the weights that identify cells may be missing.
        return None
    if not scores.is_complete:
        return None
    best = scores.read_table(names=[beside("ranking")]).slice(0, 1).to_pylist()[0]
    return next(
        cell
        for cell in (*context.prediction_cells(), *_complete_pools(context))
        if (cell.backbone, cell.method) == (best["backbone"], best["method"])
        and cell.train_set == best["train_set"]
        and cell.artefact.is_complete
    )


def _complete_pools(context: Context) -> list[Cell]:
    """Return the cells that pool folds, if all of these are complete."""
    pools = pooled_cells(context, context.scores())
    return [
        whole for whole, parts in pools.items() if all(part.artefact.is_complete for part in parts)
    ]


def check_path(path: str | Path) -> Path:
    """Return the path of a GeoParquet or GeoPackage file.

    Raises:
        UsageError: its name has another ending, or it is a folder.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES or target.is_dir():
        names = " or ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise UsageError(f"footprints: {shown(str(path))} is no name of a file {names}; give one")
    return target


def summarise(frame: gpd.GeoDataFrame) -> dict[str, Any]:
    """Return what a frame of shapes holds: counts, the kind of shapes, and the cell."""
    kinds = frame.geometry.geom_type.dropna().unique().tolist()
    return {
        "num_patches": len(frame),
        "num_unplaced": int(frame.geometry.isna().sum()),
        "shapes": "points" if kinds == ["Point"] else "polygons",
        "crs": CRS,
        "cell": frame["cell"].iloc[0] if "cell" in frame else None,
    }


def write_footprints(frame: gpd.GeoDataFrame, path: str | Path) -> Path:
    """Write a frame of shapes as GeoParquet 1.1 or as GeoPackage, whole or not at all.

    Raises:
        UsageError: the path has another ending, or cannot be written.
    """
    target = check_path(path)
    part = target.with_name(f".part-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.suffix == ".gpkg":
                frame.to_file(part, driver="GPKG", layer="footprints", index=False)
            else:
                # The column of bounding boxes lets readers skip rows outside a view. GeoParquet
                # allows no box without a shape, and geopandas writes one.
                has_boxes = not frame.geometry.isna().any()
                frame.to_parquet(
                    part, index=False, schema_version="1.1.0", write_covering_bbox=has_boxes
                )
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {one_line(error)}") from None
    return target


def _shapes(context: Context, table: pa.Table) -> NDArray[Any]:
    """Return a shape of each patch: polygons, or points, or None where nothing is known.

    Raises:
        UsageError: nothing is known of any patch.
    """
    import shapely  # type: ignore[import-untyped]

    shapes = np.full(table.num_rows, None, object)
    source: Any = context.source
    if isinstance(source, LocatedSource):
        corners = source.corners(table)
        known = np.isfinite(corners).all(axis=(1, 2))
        shapes[known] = _cut_at_180(shapely.polygons(corners[known]))
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


def _cut_at_180(outlines: NDArray[Any]) -> NDArray[Any]:
    """Return outlines within -180 to 180 degrees: what lies beyond 180 becomes a second part."""
    import shapely

    is_across = shapely.bounds(outlines)[:, 2] > 180
    if is_across.any():
        across = outlines[is_across]
        west = shapely.intersection(across, shapely.box(-180, -90, 180, 90))
        east = shapely.intersection(across, shapely.box(180, -90, 540, 90))
        back = shapely.transform(east, lambda points: points - [360, 0])
        outlines[is_across] = shapely.union(west, back)
    return outlines
