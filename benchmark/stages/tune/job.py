"""The job that a worker of ``tune`` gets."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.experiment.flipped import FlippedPatches
from benchmark.experiment.train_sets import ChosenPatches
from benchmark.specs import Head
from benchmark.store.artefacts import Artefact


@dataclass(frozen=True)
class Job:
    """The search of one cell, as a worker needs it."""

    head: Head
    seed: int
    refit: str
    num_classes: int
    patches: ChosenPatches
    embeddings: Artefact
    predictions: Artefact
    flips: tuple[tuple[FlippedPatches, Artefact], ...] = ()
    """Embeddings of flipped patches, over which predictions are averaged."""
