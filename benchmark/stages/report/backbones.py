"""Descriptions of the backbones and their input: as data, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.networks.bands import input_indices
from benchmark.page.html import Table
from benchmark.specs import Backbone
from benchmark.stages.report.results import Results

_COLUMNS = ("backbone", "embedding", "dimension", "bands", "patches", "mean", "std", "options")


def declare(results: Results) -> list[dict[str, Any]]:
    """Return the identity and input of each backbone that has a result, as plain values."""
    finetuned = {cell.backbone for cell in results.finetuned}
    return [
        _declare_one(results, backbone)
        for backbone in results.context.backbones
        if backbone.name in results.embed or backbone.name in finetuned
    ]


def _declare_one(results: Results, backbone: Backbone) -> dict[str, Any]:
    bands, embedded = results.patches["bands"], results.embed.get(backbone.name, {})
    used = embedded.get("inputs", {}).get("backbone", {})
    return {
        "name": backbone.name,
        "model": backbone.model,
        "description": backbone.description,
        "family": backbone.family,
        "source": backbone.source,
        "license": backbone.license,
        "revision": used["revision"] if used else backbone.revision(),
        "num_parameters": backbone.num_parameters,
        "dim": embedded.get("dim", backbone.dim),
        "bands": [bands[i] for i in input_indices(backbone, bands)],
        "image_size": backbone.image_size,
        "resize_to": backbone.resize_to,
        "interpolation": backbone.interpolation,
        "is_rounded": backbone.is_rounded,
        "processor": backbone.processor.name if backbone.processor else None,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "options": dict(backbone.options),
        "fit": None if backbone.fit is None else dict(backbone.fit.options),
        "product": embedded.get("product"),
        "derived": embedded.get("derived"),
    }


def backbone_table(results: Results) -> Table:
    """Return the backbones and their input; without the column of options if all are empty."""
    size = results.patches["patch_size"]
    rows = [
        (
            item["name"],
            item["description"],
            item["dim"],
            ", ".join(item["bands"]),
            size_words(item, size),
            None if item["product"] or item["derived"] else _numbers(item["mean"]),
            None if item["product"] or item["derived"] else _numbers(item["std"]),
            _option_words(item),
        )
        for item in declare(results)
    ]
    count = len(_COLUMNS) if any(row[-1] for row in rows) else len(_COLUMNS) - 1
    return Table(
        title="Backbones and their input",
        columns=_COLUMNS[:count],
        rows=tuple(row[:count] for row in rows),
        caption=(
            f'Patches are {size} x {size} px. Downsizing is antialiased; "rounded" means rounded '
            "to whole numbers from 0 to 255, as image libraries do (on a GPU, one value in 300 "
            "differs by 1). Pixels are then scaled to 0-1 "
            "and normalised by mean and std (one value for all bands, or one per band)."
        ),
    )


def product_notes(results: Results) -> list[str]:
    """Return a sentence on products, and why they have no fine-tuned result; or nothing."""
    names = ", ".join(item["name"] for item in declare(results) if item["product"])
    if not names:
        return []
    why = " They have no weights, so none is fine-tuned." * (
        results.context.experiment.finetune is not None
    )
    return [f"Embeddings read from files, not computed here: {names}.{why}"]


def size_words(item: Mapping[str, Any], patch_size: int) -> str:
    """Return how patches are brought to the input size of a backbone, in words.

    Args:
        item: an element of ``declare``.
        patch_size: side of the patches in px.

    Returns: e.g. ``resize to 256 px (bicubic, rounded), centre 224 px``.
    """
    size = item["image_size"]
    if item.get("product"):
        return f"not read: rows of the product are found by {item['product']['matched_by']}"
    if item.get("derived"):
        return "not read: made from stored embeddings"
    if item["processor"]:
        return f"by its {item['processor']}" + (f", {size} px" if size else "")
    if size is None:
        return "as they are"
    target = item["resize_to"] or size
    how = item["interpolation"] + (", rounded" if item["is_rounded"] else "")
    words = "as they are" if target == patch_size else f"resize to {target} px ({how})"
    return words if target == size else f"{words}, centre {size} px"


def _numbers(values: Sequence[float]) -> str:
    # Equal values of all bands are shown once.
    shown = values[:1] if len(set(values)) == 1 else values
    return ", ".join(f"{value:.4g}" for value in shown)


def _option_words(item: Mapping[str, Any]) -> str:
    own = {"model": item["model"]} if item["model"] != item["name"] else {}
    found = _assignments(own | item["options"])
    if item["fit"] is not None:
        found.append(f"fitted on train: {', '.join(_assignments(item['fit']))}")
    return "; ".join(found)


def _assignments(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} = {', '.join(value) if isinstance(value, tuple) else value}"
        for name, value in settings.items()
        if value is not None
    ]
