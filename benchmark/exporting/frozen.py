"""Write a frozen backbone with its head as a folder that runs without this package, if it can.

Tried in this order: a folder for the pipeline of transformers, with the head folded into the
network's own classifier; a program of torch with a script; a head for this package. The
probabilities of each are compared with those of the experiment on a few patches, before it is
chosen.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from benchmark.catalog.huggingface.publish import INSTEAD
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.exporting.folding import TOLERANCE, CannotFoldError, fold
from benchmark.exporting.heads import build_head, linear_head
from benchmark.exporting.program import CannotExportError, write_program
from benchmark.exporting.running import (
    CONFIG,
    FITTED,
    PACKAGE,
    PIPELINE,
    PROGRAM,
    head_scores,
    open_model,
    record_program,
    write_description,
)
from benchmark.exporting.samples import read_samples
from benchmark.exporting.saved import HEAD, load_head
from benchmark.flipping import predict_flipped
from benchmark.networks.bands import band_indices
from benchmark.networks.embedder import Network
from benchmark.networks.fitted import read_fitted
from benchmark.specs import Publication

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.exporting.folder import Exported
    from benchmark.store.artefacts import Artefact

logger = logging.getLogger("benchmark")

PROGRAM_TOLERANCE = 1e-4
"""Largest difference of a probability between a program and the experiment."""
RESIZING_TOLERANCE = 0.02
"""Largest difference of a probability that a pipeline may add by resizing in its own way."""


class Reference(NamedTuple):
    """A few patches, and what the experiment makes of them in float32."""

    pixels: NDArray[np.uint8]
    """(n, C, H, W), the bands of the backbone."""
    x: torch.Tensor
    """The network's input, float32 (n, C, S, S)."""
    embeddings: torch.Tensor
    """float32 (n, D)."""
    scores: NDArray[np.float32]
    """(n, K)."""
    note: str
    """How ``scores`` differ from the stored predictions; empty: they are the stored ones."""


@dataclass
class Attempt:
    """A folder in the making: what was tried, and why it was given up."""

    cell: Exported
    folder: Path
    head: Any
    network: Network
    reference: Reference
    reasons: list[str] = field(default_factory=list)

    def facts(self, kind: str) -> dict[str, Any]:
        """Return what the description of every kind says."""
        return {
            **self.cell.facts(kind),
            "num_compared": len(self.reference.scores),
            "reference": self.reference.note,
            "reasons": self.reasons,
        }

    def difference(self) -> float:
        """Return the largest difference of a probability between folder and experiment."""
        found = open_model(self.folder, trust_code=True).predict(self.reference.pixels)
        return float(np.abs(found.astype(np.float64) - self.reference.scores).max())


def write_frozen(cell: Exported, folder: Path) -> dict[str, Any]:
    """Write the folder, without a card, and return its description.

    Raises:
        UsageError: a file of the cell is missing, or its head is not to be trusted.
        CellError: a file of the cell is damaged.
    """
    attempt = begin(cell, folder)
    folded = _write_pipeline(attempt)
    if folded is not None and folded["largest_difference"] <= TOLERANCE:
        return folded
    with_program = _write_program(attempt, folded)
    return with_program or folded or _write_head(attempt)


def begin(cell: Exported, folder: Path) -> Attempt:
    """Load a cell's head and network, and compute a few patches with them in float32.

    Raises:
        UsageError: a file of the cell is missing, or its head is not to be trusted.
        CellError: a file of the cell is damaged.
    """
    context, backbone = cell.context, cell.backbone
    embeddings = context.embeddings(backbone)
    (folder / HEAD).write_bytes(cell.artefact.read_verified(HEAD))
    head = load_head(folder)
    (folder / HEAD).unlink()
    state = None
    if backbone.fit is not None:
        if not embeddings.has(FITTED):
            raise UsageError(f"{embeddings.uri} holds no {FITTED}: run `benchmark embed` again")
        state = read_fitted(embeddings)
    samples = read_samples(context, cell.artefact)
    bands = context.patches.manifest()["bands"]
    pixels = samples.pixels[:, list(band_indices(backbone, bands))]
    network = Network(backbone, cell.bands, state).eval()
    with torch.inference_mode():
        x = network.preprocess(torch.from_numpy(pixels))
        found = network.backbone(x).float()
    reference = Reference(pixels, x.clone(), found.clone(), samples.scores, "")
    # Embeddings in bfloat16, or of another device, are not those of float32 on this one.
    scores = head_scores(head, found.numpy(), len(cell.classes))

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            embeddings = network(torch.from_numpy(pixels)).numpy()
        return head_scores(head, embeddings, len(cell.classes))

    flips = context.flips_of(backbone)
    found_again = predict_flipped(predict, pixels, flips) if flips else scores
    gap = float(np.abs(found_again - samples.scores).max())
    if flips:
        note = (
            "of each patch once, in float32 on this machine; those stored are means over flips, "
            f"from which the same means computed here differ by at most {gap:.1e}"
        )
        reference = reference._replace(scores=scores, note=note)
    elif gap > TOLERANCE:
        note = (
            f"computed again in float32 on this machine; those stored, of embeddings in "
            f"{_precision(embeddings)}, differ by at most {gap:.1e}"
        )
        reference = reference._replace(scores=scores, note=note)
    return Attempt(cell, folder, head, network, reference)


def _precision(embeddings: Artefact) -> str:
    return str((embeddings.plan() or {}).get("precision", "auto"))


def _write_pipeline(attempt: Attempt) -> dict[str, Any] | None:
    """Write the files of a pipeline; return its description, or None if there is none."""
    cell, reference = attempt.cell, attempt.reference
    publish = cell.backbone.publish
    linear = linear_head(attempt.head, len(cell.classes), reference.embeddings.shape[1])
    if linear is None:
        attempt.reasons.append("the head, with its scaler, is not linear")
        return None
    if publish is None:
        attempt.reasons.append("transformers has no class for this network")
        return None
    try:
        state = fold(cell.backbone, linear, reference.x, reference.embeddings)
        publish(Publication(cell.backbone, attempt.folder, state, cell.classes, is_frozen=True))
        write_description(attempt.folder, attempt.facts(PIPELINE))
        difference = attempt.difference()
    except (CannotFoldError, UsageError) as error:
        attempt.reasons.append(str(error).removesuffix(f"; {INSTEAD}"))
    else:
        if difference <= RESIZING_TOLERANCE:
            described = {**attempt.facts(PIPELINE), "largest_difference": difference}
            write_description(attempt.folder, described)
            return described
        attempt.reasons.append(
            "the pipeline prepares images in another way: its probabilities would differ by "
            f"{difference:.1e}"
        )
    _empty(attempt.folder)
    return None


def _write_program(attempt: Attempt, folded: dict[str, Any] | None) -> dict[str, Any] | None:
    """Write a program; return its description, or None if there is none.

    Args:
        attempt: the folder.
        folded: the description of the pipeline that the folder holds already.
    """
    cell = attempt.cell
    head = build_head(attempt.head, len(cell.classes))
    if head is None:
        attempt.reasons.append("the head is of a kind that this package does not translate")
        return None
    facts = attempt.facts(PROGRAM)
    if folded is not None:
        facts["pipeline_difference"] = folded["largest_difference"]
    scratch = attempt.folder / "program"
    scratch.mkdir()
    try:
        write_program(
            scratch,
            attempt.network,
            head,
            attempt.reference.x,
            backbone=cell.backbone,
            description=facts,
        )
        difference = replace(attempt, folder=scratch).difference()
        if difference <= PROGRAM_TOLERANCE:
            record_program(scratch)
            for path in scratch.iterdir():
                path.replace(attempt.folder / path.name)
            return write_description(attempt.folder, {"largest_difference": difference})
        attempt.reasons.append(f"a program of torch would differ by {difference:.1e}")
    except (CannotExportError, UsageError) as error:
        attempt.reasons.append(str(error))
    finally:
        shutil.rmtree(scratch)
    return None


def _write_head(attempt: Attempt) -> dict[str, Any]:
    """Write the head with a description of its input; return the folder's description."""
    cell, folder = attempt.cell, attempt.folder
    context, backbone = cell.context, cell.backbone
    embeddings = context.embeddings(backbone)
    (folder / HEAD).write_bytes(cell.artefact.read_verified(HEAD))
    if backbone.fit is not None:
        (folder / FITTED).write_bytes(embeddings.read_verified(FITTED))
    config = {
        "backbone": backbone.model,
        "options": dict(backbone.options),
        "revision": backbone.revision(),
        "source": backbone.source,
        "dim": attempt.reference.embeddings.shape[1],
        "bands": list(cell.bands),
        "patch_size": cell.patch_size,
        "image_size": backbone.image_size,
        "resize_to": backbone.resize_to,
        "interpolation": backbone.interpolation,
        "is_rounded": backbone.is_rounded,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "flips_bands": backbone.flips_bands,
        "precision": _precision(embeddings),
        "head": cell.method,
        "params": cell.artefact.manifest()["params"],
        "classes": list(cell.classes),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    write_description(folder, attempt.facts(PACKAGE))
    try:
        found = {"largest_difference": attempt.difference()}
    except BenchmarkError as error:
        # A backbone of a context that was made by hand has no name to find it by.
        logger.info("the folder could not be compared: %s", one_line(error))
        found = {}
    return write_description(folder, found)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
