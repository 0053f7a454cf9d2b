"""The network of an exported folder up to its head, as a backbone whose embeddings are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.errors import UsageError, one_line
from benchmark.exporting.running import (
    CANNOT_OPEN,
    CONFIG,
    FITTED,
    ONNX,
    PACKAGE,
    PROGRAM,
    PROGRAM_FILE,
    check_trusted,
    read_description,
)
from benchmark.fields import shown
from benchmark.methods import is_finetuned
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone

if TYPE_CHECKING:
    import torch

INPUT = ("image_size", "resize_to", "interpolation", "is_rounded", "mean", "std", "flips_bands")
"""Fields of a backbone that a folder describes by their names."""
MARGIN = "rounds_margin"
"""Name of ``crops_like_torchvision`` in a folder."""


class ExportedBackbone(NamedTuple):
    """The backbone of an exported folder."""

    backbone: Backbone
    """Its embedding is what the folder's head reads."""
    bands: tuple[str, ...]
    """Names of the C bands of its input, in order."""
    patch_size: int | None
    """Side of the patches of the training, in px; None: the folder does not tell."""
    method: str
    """What was trained: a head, or a fine-tuning."""
    artefact: str
    """Fingerprint of the cell."""
    needs_cpu: bool
    """Whether it was traced on a CPU, and runs there in float32 alone."""


def embedding_facts(backbone: Backbone) -> dict[str, Any]:
    """Return what a folder says of its backbone's input and pooling, as JSON."""
    given = {key: getattr(backbone, key) for key in INPUT}
    given |= {key: list(given[key]) for key in ("mean", "std")}
    given[MARGIN] = backbone.crops_like_torchvision
    return {
        # An image processor of transformers is among the files of the folder.
        "input": None if backbone.processor is not None else given,
        "pooling": dict(backbone.options).get("pooling"),
    }


def read_backbone(folder: str | Path, *, trust_code: bool = False) -> ExportedBackbone:
    """Find the backbone of a folder that ``benchmark export`` wrote, with its own preprocessing.

    Args:
        folder: on a local disk.
        trust_code: as for ``running.open_model``.

    Raises:
        UsageError: the folder was not exported, is damaged or is not trusted, or it does not hold
            the embedding.
    """
    root = Path(folder)
    described = read_description(root)
    kind, method = described["kind"], str(described.get("method", "-"))
    if kind == ONNX:
        raise UsageError(
            f"{root}: its ONNX graph has one output, probabilities, and no embedding; export the "
            "cell without --format onnx"
        )
    try:
        if kind == PROGRAM:
            check_trusted(root, trust_code=trust_code)
            backbone = _of_program(root, described)
        elif kind == PACKAGE:
            backbone = package_backbone(root, trust_code=trust_code)
        else:
            backbone = _of_pipeline(root, described, method)
        size = described.get("patch_size")
        return ExportedBackbone(
            backbone=replace(backbone, name=str(described.get("backbone", backbone.name))),
            bands=tuple(described["bands"]),
            patch_size=None if size is None else int(size),
            method=method,
            artefact=str(described.get("artefact", "-")),
            needs_cpu=kind == PROGRAM,
        )
    except CANNOT_OPEN as error:
        raise UsageError(f"{root}: cannot be opened ({one_line(error)}); export it again") from None


def package_backbone(folder: Path, *, trust_code: bool) -> Backbone:
    """Find the backbone whose head a folder holds; what was fitted on train is part of it.

    Raises:
        UsageError: it is unknown, or runs code that is not trusted.
    """
    from benchmark.catalog.backbones import find_backbone

    config = json.loads((folder / CONFIG).read_text())
    options = BackboneOptions(**config["options"])
    if options.trust_remote_code and not trust_code:
        raise UsageError(
            f"{folder}: backbone {shown(config['backbone'])} runs code of its own; read it "
            "and, if you trust it, open the folder with trust_code=True (--trust-code)"
        )
    backbone = find_backbone(config["backbone"], where=str(folder), options=options)
    if backbone.fit is None:
        return backbone
    fitted = str((folder / FITTED).resolve(strict=True))
    return replace(backbone, fit=None, build=partial(_build_fitted, backbone.build, fitted))


def _build_fitted(build: Any, fitted: str, num_bands: int) -> torch.nn.Module:
    from safetensors.torch import load_file

    network: torch.nn.Module = build(num_bands)
    network.load_state_dict(load_file(fitted), assign=True)
    return network


def _of_pipeline(root: Path, described: Mapping[str, Any], method: str) -> Backbone:
    """Return the network of a folder for transformers, up to its classification layer."""
    from benchmark.catalog.huggingface.resolve import resolve_huggingface

    is_frozen = not is_finetuned(method)
    if is_frozen and "pooling" not in described:
        raise UsageError(
            f"{root}: does not tell how its embedding is pooled, since an older version wrote it; "
            "export it again"
        )
    pooling = described["pooling"] if is_frozen else None
    options = BackboneOptions() if pooling is None else BackboneOptions(pooling=pooling)
    # Absolute: a relative name can be one of the hub, and workers run in another folder.
    backbone = resolve_huggingface(f"hf:{root.resolve()}", where="", options=options)
    if not is_frozen and backbone.build_classifier is not None:
        build = partial(_build_finetuned, str(root.resolve()), len(described["classes"]))
        backbone = replace(backbone, build=build, dim=None)
    given = described.get("input")
    return backbone if given is None else _fed(replace(backbone, processor=None), given)


def _build_finetuned(folder: str, num_classes: int, num_bands: int) -> torch.nn.Module:
    from benchmark.catalog.huggingface.files import Checkpoint
    from benchmark.catalog.huggingface.models import build_features
    from benchmark.catalog.tensors import inflated

    checkpoint = Checkpoint(name=f"hf:{folder}", where="", path=folder)
    return inflated(build_features(checkpoint, num_classes), num_bands)


def _of_program(root: Path, described: Mapping[str, Any]) -> Backbone:
    """Return the part of a program before its head, with the input of its description."""
    path = (root / PROGRAM_FILE).resolve(strict=True)
    backbone = Backbone(
        name=str(described.get("backbone", "-")),
        description="an exported program",
        family="exported",
        build=partial(_build_program, str(path), bool(described["takes_batches"])),
        dim=None,
        num_parameters=0,
        source=str(root),
        license="",
        bands=tuple(described["bands"]),
    )
    return _fed(backbone, described["input"])


def _fed(backbone: Backbone, given: Mapping[str, Any]) -> Backbone:
    """Return a backbone with the input that a folder describes."""
    fields = {key: given[key] for key in INPUT if key in given}
    fields |= {key: tuple(fields[key]) for key in ("mean", "std")}
    return replace(backbone, **fields, crops_like_torchvision=given[MARGIN])


def _build_program(path: str, takes_batches: bool, num_bands: int) -> torch.nn.Module:
    """Build the part of a program before its head: (B, C, S, S) to (B, D)."""
    from benchmark.exporting.program import cut_head, load_program

    del num_bands
    try:
        return cut_head(load_program(path), takes_batches=takes_batches)
    except CANNOT_OPEN as error:
        raise UsageError(f"{path}: cannot be opened ({one_line(error)}); export it again") from None
