"""Patches that a product lacks: all rows are scored without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import BenchmarkError, UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.train_sets import ALL, ChosenPatches
from benchmark.specs import Backbone
from benchmark.tables import SPLITS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_protocol(context: Context) -> None:
    """Refuse to leave out patches where each fold or region has its own test patches.

    Raises:
        UsageError: a product leaves out patches, and the experiment asks for folds or regions.
    """
    names = [item.name for item in context.backbones if item.product and item.product.drops_missing]
    protocol = context.experiment.protocol
    asked = "cross_validation" if protocol.cross_validation else "transfer"
    if names and (protocol.cross_validation or protocol.transfer):
        raise UsageError(
            f"{context.experiment.path}: backbone '{names[0]}': missing = \"drop\" cannot be used "
            f"with [protocol] {asked}: remove one of them"
        )


def find_kept(context: Context, cells: Sequence[Cell]) -> NDArray[Any] | None:
    """Return the identities of the patches that every row has; None: all.

    Args:
        context: of the experiment.
        cells: that are scored.

    Raises:
        BenchmarkError: no patch of val or of test is left.
    """
    tables = [_patches_of(context, backbone) for backbone in _lacking(context, cells)]
    if not tables:
        return None
    kept = tables[0]
    for ids in tables[1:]:
        kept = np.intersect1d(kept, ids)
    rows = ChosenPatches(context.patches, ALL, 0).rows
    for split in ("val", "test"):
        if not np.isin(rows.ids[rows.splits == split], kept).any():
            raise BenchmarkError(
                f'no patch of {split} is in all products that set missing = "drop"; add their '
                "files, or remove one of them"
            )
    return kept


def missing_notes(context: Context, cells: Sequence[Cell], kept: NDArray[Any] | None) -> list[str]:
    """Return which patches products lack, and what follows for the scores; or nothing."""
    if kept is None:
        return []
    rows = ChosenPatches(context.patches, ALL, 0).rows
    notes = []
    for backbone in _lacking(context, cells):
        told = context.embeddings(backbone).manifest()["product"]
        is_there = np.isin(rows.ids, _patches_of(context, backbone))
        counts = ", ".join(
            f"{(~is_there & (rows.splits == split)).sum():,} of "
            f"{(rows.splits == split).sum():,} of {split}"
            for split in SPLITS
        )
        notes.append(
            f"{backbone.name} lacks {told['num_missing']:,} patches ({counts}): {told['missing']}. "
            "It was trained without them."
        )
    is_kept = np.isin(rows.ids, kept)
    left, of = (
        {split: int((which & (rows.splits == split)).sum()) for split in ("val", "test")}
        for which in (~is_kept, np.ones_like(is_kept))
    )
    notes.append(
        f"So that rows can be compared, all of them are scored without {left['test']:,} of "
        f"{of['test']:,} patches of test and {left['val']:,} of {of['val']:,} of val, which a "
        "product lacks."
    )
    return notes


def _lacking(context: Context, cells: Sequence[Cell]) -> list[Backbone]:
    """Return the products of these cells that lack patches."""
    names = {cell.backbone for cell in cells if cell.stage == "tune"}
    return [
        backbone
        for backbone in context.backbones
        if backbone.name in names
        and backbone.product is not None
        and backbone.product.drops_missing
        and context.embeddings(backbone).is_complete
        and context.embeddings(backbone).manifest()["product"]["num_missing"]
    ]


def _patches_of(context: Context, backbone: Backbone) -> NDArray[Any]:
    table = context.embeddings(backbone).read_table(columns=["patch_id"])
    found: NDArray[Any] = table["patch_id"].to_numpy()
    return found
