"""Write a trained cell as one ONNX graph, from uint8 pixels to probabilities.

Resizing is a product with constant matrices, so that the graph does not depend on how a runtime
interpolates. ONNX Runtime runs it, and is compared with torch, before the folder is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.errors import UsageError, first_line, tidy
from benchmark.exporting.heads import build_head
from benchmark.exporting.program import CannotExportError, export_program, quiet
from benchmark.exporting.running import (
    ONNX,
    ONNX_FILE,
    ONNX_INPUT,
    ONNX_OUTPUT,
    open_model,
    write_description,
)
from benchmark.exporting.samples import read_samples
from benchmark.networks.bands import band_indices
from benchmark.networks.classifier import build_classifier
from benchmark.networks.embedder import Preprocessing
from benchmark.networks.resizing import resizing_weights, rounded
from benchmark.specs import Backbone

if TYPE_CHECKING:
    from benchmark.exporting.folder import Exported

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""Of the extra ``onnx``: torch writes the graph with the first two, the third runs it."""
TOLERANCE = 1e-4
"""Largest difference of a probability between ONNX Runtime and torch."""
MAX_FILE_BYTES = 1_500_000_000
"""Weights above it go into a file beside the graph: a file of protobuf has at most 2 GB."""


class Traced(NamedTuple):
    """What becomes a graph, and what torch makes of a few patches without it."""

    graph: torch.nn.Module
    """uint8 (B, C, P, P) to probabilities float32 (B, K)."""
    pixels: NDArray[np.uint8]
    """(n, C, P, P)."""
    scores: NDArray[np.float32]
    """Of these, by the experiment's own preprocessing, (n, K)."""


class FixedPreprocessing(torch.nn.Module):
    """The preprocessing of a backbone for patches of one size, with constants alone."""

    indices: torch.Tensor
    weights: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, backbone: Backbone, bands: tuple[str, ...], patch_size: int) -> None:
        """Prepare for patches of ``patch_size`` px with the backbone's own bands, in order."""
        super().__init__()
        usual = Preprocessing(backbone, bands)
        self.register_buffer("indices", usual.indices)
        self._flips = backbone.flips_bands
        self.register_buffer("scale", usual.scale)
        self.register_buffer("shift", usual.shift)
        weights = fixed_weights(backbone, patch_size)
        self._is_resized = weights is not None
        self._is_rounded = backbone.is_rounded and self._is_resized
        self.register_buffer("weights", torch.empty(0) if weights is None else weights)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the network's input, float32 (B, C, S, S), of uint8 (B, C, P, P)."""
        x = pixels.to(torch.float32)
        if self._flips:
            x = x.index_select(1, self.indices)
        if self._is_resized:
            x = x @ self.weights.T
            x = self.weights @ (rounded(x) if self._is_rounded else x)
        if self._is_rounded:
            x = rounded(x)
        return x * self.scale + self.shift


class _Whole(torch.nn.Module):
    """Preprocessing, a network, and what turns its output into probabilities."""

    def __init__(self, *steps: torch.nn.Module) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(steps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        prepare, network, finish = self.steps
        probabilities: torch.Tensor = finish(network(prepare(pixels)).float())
        return probabilities


def fixed_weights(backbone: Backbone, patch_size: int) -> torch.Tensor | None:
    """Return the matrix (S, P) that resizes and crops one side of a patch; None: nothing to do."""
    size, resize_to = backbone.image_size, backbone.resize_to or backbone.image_size
    if size is None or resize_to is None or size == resize_to == patch_size:
        return None
    is_rounded = backbone.is_rounded and resize_to != patch_size
    weights = resizing_weights(patch_size, resize_to, backbone.interpolation, is_rounded=is_rounded)
    margin = (resize_to - size) / 2
    first = round(margin) if backbone.crops_like_torchvision else math.floor(margin)
    return weights[first : first + size].clone()


def check_packages() -> None:
    """Raise UsageError if a package that writes or runs ONNX is absent."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(
            f"--format onnx needs {', '.join(missing)}: pip install 'backbone-benchmark[onnx]'"
        )


def write_onnx(cell: Exported, folder: Path) -> dict[str, Any]:
    """Write the graph and the description of a folder, without a card; return the description.

    Raises:
        UsageError: a package is absent, the cell cannot become a graph, or ONNX Runtime computes
            other probabilities than torch.
        CellError: a file of the cell is damaged.
    """
    check_packages()
    if cell.backbone.processor is not None:
        raise UsageError(
            f"--format onnx: the {cell.backbone.processor.name} of '{cell.backbone.name}' cannot "
            "become part of a graph; export it without --format onnx"
        )
    traced = trace_finetuned(cell) if cell.is_finetuned else trace_frozen(cell, folder)
    takes_batches = _write_graph(folder / ONNX_FILE, traced, name=cell.backbone.name)
    facts = {**cell.facts(ONNX), "takes_batches": takes_batches}
    write_description(folder, {**facts, "num_compared": len(traced.pixels)})
    found = open_model(folder).predict(traced.pixels)
    difference = float(np.abs(found.astype(np.float64) - traced.scores).max())
    if not difference <= TOLERANCE:
        raise UsageError(
            f"--format onnx: in ONNX Runtime the probabilities of '{cell.backbone.name}' differ by "
            f"up to {difference:.1e} from those of torch; export it without --format onnx"
        )
    return write_description(folder, {"largest_difference": difference})


def trace_finetuned(cell: Exported) -> Traced:
    """Return a fine-tuned network with its preprocessing and a softmax."""
    from benchmark.exporting.folder import read_finetuned

    backbone, num_classes = cell.backbone, len(cell.classes)
    classifier = build_classifier(backbone, len(cell.bands), num_classes)
    classifier.load_state_dict(read_finetuned(cell))
    classifier.eval()
    pixels = _own_bands(cell, read_samples(cell.context, cell.artefact).pixels)
    with torch.inference_mode():
        x = Preprocessing(backbone, cell.bands)(torch.from_numpy(pixels))
        scores = classifier(x).float().softmax(dim=1).numpy()
    prepare = FixedPreprocessing(backbone, cell.bands, cell.patch_size)
    return Traced(_Whole(prepare, classifier, torch.nn.Softmax(dim=1)).eval(), pixels, scores)


def trace_frozen(cell: Exported, folder: Path) -> Traced:
    """Return a frozen backbone with its preprocessing and its head.

    Raises:
        UsageError: the head is of a kind that is not translated.
    """
    from benchmark.exporting.frozen import begin

    attempt = begin(cell, folder)
    head = build_head(attempt.head, len(cell.classes))
    if head is None:
        raise UsageError(
            f"--format onnx: the head '{cell.method}' is of a kind that this package does not "
            "translate; export it without --format onnx"
        )
    prepare = FixedPreprocessing(cell.backbone, cell.bands, cell.patch_size)
    graph = _Whole(prepare, attempt.network.backbone, head).eval()
    return Traced(graph, attempt.reference.pixels, attempt.reference.scores)


def _own_bands(cell: Exported, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bands of the backbone, from those of the data set."""
    bands = cell.context.patches.manifest()["bands"]
    return pixels[:, list(band_indices(cell.backbone, bands))]


def _write_graph(path: Path, traced: Traced, *, name: str) -> bool:
    """Write the graph; return whether it takes any number of patches or one at a time."""
    num_bytes = sum(item.nbytes for item in traced.graph.state_dict().values())
    options: Mapping[str, Any] = {
        "input_names": [ONNX_INPUT],
        "output_names": [ONNX_OUTPUT],
        "external_data": num_bytes > MAX_FILE_BYTES,
        "verbose": False,
    }
    try:
        # Attention with a bias, as of BEiT and Swin, is decomposed for ONNX into the plain kernel,
        # whose output has other strides than that of the kernel with which a CPU traces it.
        with sdpa_kernel(SDPBackend.MATH), quiet():
            program, takes_batches = export_program(traced.graph, torch.from_numpy(traced.pixels))
            torch.onnx.export(program, (), path, dynamo=True, **options)
    except (CannotExportError, torch.onnx.OnnxExporterError) as error:
        raise UsageError(
            f"--format onnx: torch cannot write '{name}' as ONNX ({_reason(error)}); export it "
            "without --format onnx"
        ) from None
    return takes_batches


def _reason(error: BaseException) -> str:
    """Return why torch gave up: its own error only says where to look for the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return tidy(first_line(error), 200)
