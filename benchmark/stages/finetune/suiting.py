"""Find the modes of fine-tuning that do not suit a network, such as LoRA without linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmark.errors import UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.finetune_settings import FinetuneConfig
from benchmark.methods import FINETUNE, finetunings
from benchmark.networks.bands import band_indices
from benchmark.specs import Backbone

ADAPTING = ("lora", "last_blocks")
"""The modes that ask something of a network."""
QUICK_PARAMETERS = 100_000_000
"""Largest network that a command builds which computes nothing: a second or two, 0.4 GB."""

Key = tuple[str, str]
"""Names of a backbone and a method."""


def key_of(cell: Cell) -> Key:
    """Return the backbone and method of a fine-tuned cell."""
    return cell.backbone or "", cell.method or FINETUNE


def find_unsuited(
    context: Context, cells: Iterable[Cell], *, only_quick: bool = False
) -> dict[Key, str]:
    """Return why a mode does not suit a network, by backbone and method of cells.

    Each network is built once for a context, which keeps the answer.

    Args:
        context: of the experiment.
        cells: of the stage ``finetune``.
        only_quick: skip networks that take long to build or cannot be built.

    Raises:
        UsageError: the data set lacks a band, or weights are absent.
    """
    known = context.unsuited
    backbones = {item.name: item for item in context.finetuned_backbones}
    modes = finetunings(context.experiment.finetune)
    keys = list(dict.fromkeys(map(key_of, cells)))
    for key in keys:
        backbone, config = backbones[key[0]], modes[key[1]]
        if key in known or config.mode not in ADAPTING:
            continue
        if not only_quick:
            known[key] = _why_unsuited(context, backbone, config)
        elif backbone.num_parameters <= QUICK_PARAMETERS:
            try:
                known[key] = _why_unsuited(context, backbone, config)
            except Exception:  # of any type: third-party code; the run says what is wrong
                continue
    return {key: known[key] for key in keys if known.get(key)}


def note_unsuited(context: Context, cells: Iterable[Cell], reasons: Mapping[Key, str]) -> None:
    """Leave out the cells with a reason in this context; the store is not written."""
    for cell in cells:
        if reason := reasons.get(key_of(cell)):
            context.left_out[cell.artefact.path] = reason


def _why_unsuited(context: Context, backbone: Backbone, config: FinetuneConfig) -> str:
    """Return why a mode does not suit a backbone; empty: it does."""
    from benchmark.networks.classifier import build_classifier
    from benchmark.training.adaptation import select_parts

    bands = band_indices(backbone, context.source.bands)
    model = build_classifier(backbone, len(bands), len(context.source.classes))
    try:
        select_parts(model, config, name=backbone.name)
    except UsageError as error:
        return str(error)
    return ""
