"""The identity of catalog entries in fingerprints."""

from __future__ import annotations

from typing import Any

from benchmark.experiment.places import Place
from benchmark.specs import PREPROCESSING, Backbone, Dataset, Head, Metric


def backbone_inputs(backbone: Backbone, place: Place | None = None) -> dict[str, Any]:
    """Return the identity of a backbone: its weights and its input.

    Args:
        backbone: of the experiment.
        place: its name and revision there; None: those of today.
    """
    preprocessing = {name: getattr(backbone, name) for name in PREPROCESSING}
    inputs = {
        "name": backbone.identity if place is None else place.identity,
        "version": backbone.version,
        "revision": backbone.revision() if place is None else place.revision,
        **preprocessing,
    }
    # Keys are absent if unused: fingerprints from before these options remain valid.
    if backbone.fit is not None:
        inputs["fit"] = dict(backbone.fit.options)
    if backbone.options:
        inputs["options"] = dict(backbone.options)
    if backbone.crops_like_torchvision:
        inputs["crops_like_torchvision"] = True
    return {**inputs, **own_inputs(backbone)}


def own_inputs(entry: Backbone | Dataset | Head | Metric) -> dict[str, Any]:
    """Return the part of an identity that only entries of own code have."""
    return {"own": dict(entry.own)} if entry.own else {}
