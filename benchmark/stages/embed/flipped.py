"""What embedding flipped patches needs beside embedding plain ones: their parts and their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.flipped import FlippedPatches
from benchmark.specs import Backbone
from benchmark.store.names import FITTED
from benchmark.tables import count_rows

Pending = Sequence[tuple[Backbone, Cell]]
"""Backbones and cells to embed."""
PartRows = Sequence[Mapping[str, Any]]
"""``name`` and ``num_rows`` of parts of ``patches``; none is empty."""


def inputs_of(
    context: Context, backbone: Backbone, flipped: FlippedPatches | None
) -> dict[str, Any]:
    """Return the identity of the embeddings of patches, or of a flip."""
    if flipped is None:
        return context.embeddings_inputs(backbone)
    return context.flipped_inputs(backbone, flipped)


def parts_of_cells(context: Context, cells: Sequence[Cell]) -> list[PartRows]:
    """Return the parts that each cell embeds, with the number of its patches."""
    found: dict[tuple[str, ...], PartRows] = {}
    for cell in cells:
        splits = () if cell.flipped is None else cell.flipped.splits
        if splits in found:
            continue
        if splits:
            counts = count_rows(context.patches, splits)
            found[splits] = [{"name": name, "num_rows": num} for name, num in counts.items()]
        else:
            parts = context.patches.manifest()["parts"]
            found[splits] = [part for part in parts if part["num_rows"]]
    return [found[() if cell.flipped is None else cell.flipped.splits] for cell in cells]


def await_states(context: Context, pending: Pending, failures: dict[str, str]) -> None:
    """Wait until what other runs fit on train is there for the flips of this run.

    Called after the fits of this run, so that two runs never wait for each other.

    Args:
        context: of the run.
        pending: backbones and cells to embed.
        failures: reasons by backbone; backbones without a state are added.
    """
    for backbone, cell in pending:
        if backbone.fit is None or cell.flipped is None or backbone.name in failures:
            continue
        plain = context.embeddings(backbone)
        while not plain.has(FITTED) and context.leases.holders([plain]):
            context.leases.wait()
        if not plain.has(FITTED):
            reason = plain.own_status()[1] or "run again"
            failures[backbone.name] = f"its plain patches are not embedded: {reason}"
