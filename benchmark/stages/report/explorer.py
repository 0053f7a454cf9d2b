"""The section "Explorer" of the page: which patches it holds, and what methods say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.errors import CellError
from benchmark.experiment.cells import Cell
from benchmark.page.explorer import MOST_SHOWN, Explorer, draw_sheets, weigh
from benchmark.page.html import Picture
from benchmark.stages.pooling import pool_predictions
from benchmark.stages.report.explorer_maps import map_embeddings, name_regions
from benchmark.stages.report.patches import EXAMPLE_SEED, read_pictures
from benchmark.stages.report.results import Results
from benchmark.tables import SPLITS, find_common, find_rows, vectors_array

MAX_METHODS = 8
MAX_TESTED = 2500
"""Patches of test with a picture."""
MAX_OTHERS = 500
"""Patches of train and val with a picture, for the maps."""
MAX_SHEET_BYTES = 2_000_000
"""Of all pictures, as they are in the page."""
MIN_SHEET_BYTES = 300_000
MAX_PAGE_BYTES = 8_000_000
MAP_BYTES, TEXT_BYTES = 1_600_000, 1_700_000
"""What maps add to a page with the library that draws them, and all that is no figure."""
NO_MAPS = "Maps of embeddings are left out to keep the page below 8 MB."
SIDE_PX, SMALL_SIDE_PX, MAX_LARGE = 64, 48, 1000
"""Side of a picture, side where there are many, and how many are large."""
PER_MILLE = 1000
"""Probabilities are whole numbers in the page."""


class _Method(NamedTuple):
    """A method, its cells (several: folds) and its confusion counts (K, K) in the scores."""

    name: str
    cells: list[Cell]
    counts: NDArray[np.int64]


class _Tested(NamedTuple):
    """What methods say of the N patches of test; M methods."""

    ids: NDArray[Any]
    labels: NDArray[np.int32]
    predicted: NDArray[np.int32]
    """(M, N)"""
    confidence: NDArray[np.float32]
    """(M, N), the largest probability."""
    of_truth: NDArray[np.float32]
    """(N,), the mean over methods of the probability of the true class."""


class Chosen(NamedTuple):
    """The patches with a picture, those of test first."""

    tested: NDArray[np.intp]
    """Places among the patches of test."""
    ids: NDArray[Any]
    labels: NDArray[np.int32]
    splits: NDArray[np.intp]
    """Places in ``SPLITS``."""

    def first(self, count: int) -> Chosen:
        """Return the same with ``count`` patches of test, and as large a share of the others."""
        n = len(self.tested)
        others = np.arange(n, n + (len(self.ids) - n) * count // max(n, 1))
        at = np.concatenate([np.arange(count), others])
        return Chosen(self.tested[:count], self.ids[at], self.labels[at], self.splits[at])


def explore(results: Results, pictures: Sequence[Picture]) -> Explorer | None:
    """Return the explorer of the best methods, first seed; None: no method has a result.

    Args:
        results: complete.
        pictures: the figures of the page, which has ``MAX_PAGE_BYTES`` with the explorer.

    Raises:
        CellError: predictions do not fit their scores.
    """
    methods = _find_methods(results)
    if not methods:
        return None
    tested = _read_tested(results, methods)
    chosen = _choose(results, methods[0].cells, tested)
    images = read_pictures(results.context.patches, chosen.ids, _find_side(results, chosen))
    room = MAX_PAGE_BYTES - TEXT_BYTES - sum(len(picture.url) for picture in pictures)
    has_maps = room > MAP_BYTES + MIN_SHEET_BYTES
    most = min(MAX_SHEET_BYTES, max(room - has_maps * MAP_BYTES, MIN_SHEET_BYTES))
    chosen, sheets = draw_within(images, chosen, len(results.classes), most)
    maps, neighbours = map_embeddings(results, chosen.ids) if has_maps else ([], "")
    known = results.context.rows_of(methods[0].cells[0]).rows
    at = find_rows(known.ids, chosen.ids, what="the table of patches")
    names = tuple(method.name for method in methods)
    return Explorer(
        sentences=(*_describe(results, tested, chosen), *([] if has_maps else [NO_MAPS])),
        methods=names,
        maps=tuple(item["name"] for item in maps),
        sheets=sheets,
        data={
            **_values(results, methods, tested, chosen),
            **name_regions(known.regions[at]),
            "maps": maps,
            "neighbours": neighbours,
        },
    )


def draw_within(
    images: NDArray[np.uint8], chosen: Chosen, num_classes: int, max_bytes: int
) -> tuple[Chosen, tuple[bytes, ...]]:
    """Return the sheets of at most ``max_bytes`` in a page, without the last patches if need be.

    Args:
        images: uint8 (N, S, S, 3) of the chosen patches.
        chosen: N patches.
        num_classes: K, the number of sheets.
        max_bytes: of all sheets.
    """
    sheets = draw_sheets(images, chosen.labels, num_classes)
    while (weight := weigh(sheets)) > max_bytes and len(chosen.tested) > 1:
        fewer = chosen.first(max(1, int(0.95 * len(chosen.tested) * max_bytes / weight)))
        images = images[np.isin(chosen.ids, fewer.ids)]
        chosen, sheets = fewer, draw_sheets(images, fewer.labels, num_classes)
    return chosen, sheets


def choose_patches(
    is_wrong: NDArray[np.bool_], labels: NDArray[np.int32], count: int
) -> NDArray[np.intp]:
    """Return the places of at most ``count`` patches: wrong ones first, classes in turn.

    Args:
        is_wrong: (N,)
        labels: (N,)
        count: how many.
    """
    order = np.random.default_rng(EXAMPLE_SEED).permutation(len(labels))
    frame = pd.DataFrame({"is_right": ~is_wrong[order], "label": labels[order]})
    turn = frame.groupby(["is_right", "label"]).cumcount()
    at: NDArray[np.intp] = order[np.lexsort((frame["label"], turn, frame["is_right"]))][:count]
    return at


def _find_methods(results: Results) -> list[_Method]:
    """Return the best methods that are no floors, or else the floors."""
    best = results.ranking[~results.ranking["is_floor"]]
    found = []
    for row in (best if len(best) else results.ranking).head(MAX_METHODS).itertuples():
        name, counts, seed = results.first_confusion(row)
        cells = [
            cell
            for cell in results.manifests
            if (cell.backbone, cell.method, cell.seed) == (row.backbone, row.method, seed)
            and cell.train_set in results.cell_sets
        ]
        if cells:
            found.append(_Method(name, cells, counts))
    return found


def _read_tested(results: Results, methods: Sequence[_Method]) -> _Tested:
    tables = [_read_predictions(results, method.cells) for method in methods]
    every = [table["patch_id"].to_numpy() for table in tables]
    # Products that leave out patches: all methods are scored without these.
    for name, item in results.backbones.items():
        if item.product and item.product.drops_missing and name in results.embed:
            table = results.context.embeddings(item).read_table(columns=["patch_id"])
            every.append(table["patch_id"].to_numpy())
    ids = every[0]
    for others in every[1:]:
        ids = np.intersect1d(ids, others)
    known = results.context.rows_of(methods[0].cells[0]).rows
    labels = known.labels[find_rows(known.ids, ids, what="the table of patches")]
    predicted = np.empty((len(methods), len(ids)), np.int32)
    confidence = np.empty(predicted.shape, np.float32)
    of_truth = np.zeros(len(ids), np.float32)
    for place, (method, table) in enumerate(zip(methods, tables, strict=True)):
        at = find_rows(table["patch_id"].to_numpy(), ids, what=method.name)
        scores = vectors_array(table["y_score"])[at]
        predicted[place] = table["y_pred"].to_numpy()[at]
        confidence[place] = scores.max(axis=1)
        of_truth += scores[np.arange(len(ids)), labels] / len(methods)
        if not np.array_equal(_count(labels, predicted[place], len(method.counts)), method.counts):
            raise CellError(
                f"{method.cells[0].artefact.uri}: its predictions of test do not fit the scores: "
                f"delete {results.context.scores().uri} and run again"
            )
    return _Tested(ids, labels, predicted, confidence, of_truth)


def _read_predictions(results: Results, cells: Sequence[Cell]) -> pa.Table:
    """Return the predictions of test, sorted by ``patch_id``."""
    if len(cells) > 1:
        return pool_predictions(results.context, cells)
    rows, table = results.context.rows_of(cells[0]), cells[0].artefact.read_table()
    at, _ = find_common(table["patch_id"].to_numpy(), rows.rows.ids[rows.roles == "test"])
    return table.take(at)


def _choose(results: Results, cells: Sequence[Cell], tested: _Tested) -> Chosen:
    """Return the hardest patches, then wrong ones, then right ones; some of train and val."""
    is_wrong = (tested.predicted != tested.labels).any(axis=0)
    hardest = np.argsort(tested.of_truth, kind="stable")[:MOST_SHOWN]
    drawn = choose_patches(is_wrong, tested.labels, len(tested.ids))
    at = np.concatenate([hardest, drawn[~np.isin(drawn, hardest)]])[:MAX_TESTED]
    rows = results.context.rows_of(cells[0])
    is_other = np.isin(rows.roles, ("train", "val")) & ~np.isin(rows.rows.ids, tested.ids)
    others = np.flatnonzero(is_other)
    labels = rows.rows.labels[others]
    others = others[choose_patches(np.zeros(len(others), bool), labels, MAX_OTHERS)]
    return Chosen(
        at,
        np.concatenate([tested.ids[at], rows.rows.ids[others]]),
        np.concatenate([tested.labels[at], rows.rows.labels[others]]),
        np.array(
            [*[SPLITS.index("test")] * len(at), *map(SPLITS.index, rows.roles[others])], np.intp
        ),
    )


def _find_side(results: Results, chosen: Chosen) -> int:
    side = SIDE_PX if len(chosen.ids) <= MAX_LARGE else SMALL_SIDE_PX
    return min(side, int(results.patches["patch_size"]))


def _describe(results: Results, tested: _Tested, chosen: Chosen) -> tuple[str, ...]:
    total, shown = len(tested.ids), len(chosen.tested)
    if shown == total:
        first = f"All {total:,} patches of test are here as pictures"
    else:
        first = (
            f"{shown:,} of {total:,} patches of test are here as pictures: the hardest, then those "
            "that a method has wrong, then others, each class in turn"
        )
    seeds = ""
    if (results.ranking["num_seeds"] > 1).any():
        seeds = "; of methods with several seeds, the first"
    return (
        f"{first}{seeds}.",
        "Confidence is the largest class probability of a method. Counts and rates are those of "
        "all patches of test.",
    )


def _values(
    results: Results, methods: Sequence[_Method], tested: _Tested, chosen: Chosen
) -> dict[str, Any]:
    """Return what the script reads."""
    at = chosen.tested
    differ = (tested.predicted[:, None] != tested.predicted[None]).sum(axis=2)
    return {
        "classes": list(results.classes),
        "most": MOST_SHOWN,
        "total": len(tested.ids),
        "ids": chosen.ids.tolist(),
        "labels": chosen.labels.tolist(),
        "splits": chosen.splits.tolist(),
        "splitNames": list(SPLITS),
        "truth": _per_mille(tested.of_truth[at]),
        "differ": differ.tolist(),
        "methods": [
            {
                "name": method.name,
                "counts": method.counts.tolist(),
                "predicted": predicted[at].tolist(),
                "confidence": _per_mille(confidence[at]),
            }
            for method, predicted, confidence in zip(
                methods, tested.predicted, tested.confidence, strict=True
            )
        ],
    }


def _count(
    labels: NDArray[np.int32], predicted: NDArray[np.int32], num_classes: int
) -> NDArray[np.int64]:
    """Return confusion counts (K, K)."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def _per_mille(values: NDArray[np.float32]) -> list[int]:
    found: list[int] = np.rint(values * PER_MILLE).astype(int).tolist()
    return found
