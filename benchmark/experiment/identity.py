"""The identity of catalog entries and settings in fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.config import ReportConfig
from benchmark.derived import Derivation
from benchmark.experiment.places import Place
from benchmark.finetune_settings import FinetuneConfig
from benchmark.prices import Prices
from benchmark.references import Reference
from benchmark.specs import PREPROCESSING, Backbone, Dataset, Head, Metric

FINETUNE_SAME_RESULT = frozenset(
    {"backbones", "modes", "num_workers", "micro_batch", "max_failures", "checkpoint_every_s"}
)
"""Settings of ``[finetune]`` that change which cells there are, and how they run, not a result."""


def backbone_inputs(
    backbone: Backbone, patch_size: int, place: Place | None = None
) -> dict[str, Any]:
    """Return the identity of a backbone: its weights and its input.

    Args:
        backbone: of the experiment.
        patch_size: side of the patches in px.
        place: its name and revision there; None: those of today.
    """
    inputs = {
        "name": backbone.identity if place is None else place.identity,
        "version": backbone.version,
        "revision": backbone.revision() if place is None else place.revision,
        **{name: getattr(backbone, name) for name in PREPROCESSING},
    }
    # Absent if unused: fingerprints from before these keys remain valid.
    if backbone.fit is not None:
        inputs["fit"] = dict(backbone.fit.options)
    is_resized = (backbone.resize_to or backbone.image_size or patch_size) != patch_size
    used = {
        "derived": backbone.derived and backbone.derived.identity,
        **{name: getattr(backbone, name) for name in ("crops_like_torchvision", "flips_bands")},
        "options": dict(backbone.options),
        "processor": backbone.processor and backbone.processor.config,
        "resizes": "bytes" if backbone.is_rounded and is_resized else None,
    }
    return inputs | {key: item for key, item in used.items() if item} | own_inputs(backbone)


def derived_inputs(derivation: Derivation, parents: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the identity of what is made from stored embeddings.

    Args:
        derivation: the recipe.
        parents: fingerprints of these embeddings.
        seed: the first of the experiment.
    """
    drawn = {"seed": seed} if derivation.is_drawn else {}
    return {**derivation.identity, "parents": list(parents), **drawn}


def own_inputs(entry: Backbone | Dataset | Head | Metric) -> dict[str, Any]:
    """Return the part of an identity that only entries of own code have."""
    return {"own": dict(entry.own)} if entry.own else {}


def recipe_inputs(config: FinetuneConfig) -> dict[str, Any]:
    """Return the settings of a fine-tuning that change its result."""
    unused = set(FINETUNE_SAME_RESULT)
    unused |= set() if config.mode == "last_blocks" else {"num_blocks"}
    unused |= set() if config.mode == "lora" else {"lora_rank"}
    unused |= set() if config.num_trials > 1 else {"pruning"}
    settings = config.model_dump(mode="json").items()
    return {key: value for key, value in settings if key not in unused}


def report_inputs(
    settings: ReportConfig, reference: Reference | None, prices: Prices | None
) -> dict[str, Any]:
    """Return the identity of the settings of a page, of published results and of prices on it.

    Without such results, prices or maps that keep neighbours it is that of before there were any.
    """
    beside = settings.model_dump(mode="json", include={"reference", "counterparts"})
    plain = settings.model_dump(mode="json", exclude={*beside, "prices"})
    for kind in ("tsne", "umap"):
        if not plain[kind]:
            del plain[kind]
    found: dict[str, Any] = {"settings": plain}
    if any(beside.values()):
        content = None if reference is None else reference.model_dump(mode="json")
        found["beside"] = [beside, content]
    if prices is not None:
        found["prices"] = prices.model_dump(mode="json")
    return found
