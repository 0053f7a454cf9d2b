"""Export one cell of the grid as a folder with a model card.

A fine-tuned backbone becomes a folder for the ``image-classification`` pipeline of transformers; a
tuned head becomes one too where it can be folded into the network (``frozen``). Both can become one
ONNX graph (``onnx``).
"""

from __future__ import annotations

import re
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError, UsageError, did_you_mean, one_line
from benchmark.experiment.context import Context
from benchmark.exporting.card import write_card
from benchmark.exporting.embedding import embedding_facts
from benchmark.exporting.running import ONNX, PIPELINE, write_description
from benchmark.exporting.saved import HEAD
from benchmark.methods import FINETUNE, finetunings, is_finetuned
from benchmark.networks.bands import band_indices
from benchmark.specs import Backbone, Publication
from benchmark.store.artefacts import Artefact

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = "model.safetensors"

FOLDER = "folder"
"""Format of an export for transformers, torch or this package."""
FORMATS = (FOLDER, ONNX)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The cell to export."""

    context: Context
    backbone: Backbone
    method: str
    seed: int
    artefact: Artefact

    @property
    def is_finetuned(self) -> bool:
        """Whether the cell is a fine-tuned backbone; otherwise it is a head."""
        return is_finetuned(self.method)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return tuple(self.context.patches.manifest()["classes"])

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that the backbone takes, in order."""
        bands = self.context.patches.manifest()["bands"]
        return tuple(bands[i] for i in band_indices(self.backbone, bands))

    @property
    def patch_size(self) -> int:
        """Side of a patch in px."""
        return int(self.context.patches.manifest()["patch_size"])

    def facts(self, kind: str) -> dict[str, Any]:
        """Return what every exported folder says of itself."""
        return {
            "kind": kind,
            "classes": list(self.classes),
            "bands": list(self.bands),
            "patch_size": self.patch_size,
            "backbone": self.backbone.name,
            "method": self.method,
            "seed": self.seed,
            "artefact": self.artefact.fingerprint,
            **embedding_facts(self.backbone),
        }


def export(
    context: Context,
    *,
    backbone: str,
    method: str,
    seed: int | None,
    out: Path,
    format: str = FOLDER,
) -> Path:
    """Write one cell as a folder: weights, a description of their input, and a model card.

    The folder appears complete or not at all.

    Args:
        context: the experiment.
        backbone: name of one of its backbones.
        method: ``finetune``, ``finetune-MODE`` of an experiment with ``modes``, or one of its
            heads.
        seed: one of its seeds; None: the first.
        out: the folder; it must be empty or absent.
        format: ``folder``, for transformers, torch or this package; or ``onnx``, one graph.

    Returns: the folder.

    Raises:
        UsageError: a name is unknown, the cell is not complete or cannot be exported, or the
            folder cannot be written.
        CellError: a file of the cell is damaged.
    """
    if format not in FORMATS:
        raise UsageError(f"--format '{format}': choose one of: {', '.join(FORMATS)}")
    cell = _find_cell(context, backbone, method, seed, format)
    with _new_folder(out) as folder:
        if format == ONNX:
            from benchmark.exporting.onnx import write_onnx

            description = write_onnx(cell, folder)
        elif cell.is_finetuned:
            description = _write_finetuned(cell, folder)
        else:
            from benchmark.exporting.frozen import write_frozen

            description = write_frozen(cell, folder)
        write_card(
            folder / "README.md",
            context=context,
            backbone=cell.backbone,
            method=method,
            seed=cell.seed,
            artefact=cell.artefact,
            description=description,
        )
    return out


def push(folder: Path, repo: str, *, api: Any = None) -> str:
    """Upload an exported folder to a repository of the Hugging Face hub; a new one is private.

    Args:
        folder: as ``export`` wrote it.
        repo: ``ORG/NAME``.
        api: a ``huggingface_hub.HfApi``; None: one with the user's token.

    Returns: the address of the repository.

    Raises:
        UsageError: the name is malformed, or the token is missing or may not write there.
        BenchmarkError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, errors

    # The base error of the HTTP library, which differs between versions of the hub's client.
    http_error: Any = errors.HfHubHTTPError.__mro__[1]
    check_push(repo, has_api=api is not None)
    api = api or HfApi()
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Export from backbone-benchmark"
        )
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UsageError(
                f"--push '{repo}': your token may not write there; log in again with "
                "`hf auth login`, or name a repository of yours"
            ) from None
        raise BenchmarkError(f"--push '{repo}': {one_line(error)}") from None
    except (http_error, OSError) as error:
        raise BenchmarkError(
            f"--push '{repo}': the hub cannot be reached ({one_line(error)}); {folder} is written"
        ) from None
    return str(url)


def check_push(repo: str, *, has_api: bool = False) -> None:
    """Check the repository's name and the token before anything is written.

    Raises:
        UsageError: the name is malformed, or there is no token.
    """
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UsageError(f"--push '{repo}': not the name of a repository; write ORG/NAME")
    if not has_api and not get_token():
        raise UsageError(
            f"--push '{repo}': you are not logged in to the Hugging Face hub; run "
            "`hf auth login`, or set HF_TOKEN to a token with write access"
        )


def _find_cell(context: Context, name: str, method: str, seed: int | None, format: str) -> Exported:
    where = context.experiment.path
    if context.experiment.protocol.cross_validation is not None:
        raise UsageError(
            f"{where} [protocol]: 'cross_validation' trains a model for each fold, and none for "
            "others to use; remove it and run again, then export"
        )
    by_name = {item.name: item for item in context.backbones}
    if name not in by_name:
        raise UsageError(f"{where}: unknown backbone '{name}'.{did_you_mean(name, by_name)}")
    backbone = by_name[name]
    if backbone.product is not None:
        raise UsageError(
            f"{where}: '{name}' is read from files: no network computes its embeddings for other "
            "images, so none of its cells can be exported; name another backbone"
        )
    if backbone.derived is not None:
        raise UsageError(
            f"{where}: '{name}' is made from stored embeddings ({backbone.derived.words}): no "
            "network computes it for other images, so none of its cells can be exported; name "
            "another backbone"
        )
    seeds = context.experiment.seeds
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise UsageError(
            f"{where}: unknown seed {chosen}; choose one of: {', '.join(map(str, seeds))}"
        )
    heads = {item.name: item for item in context.heads}
    trained = tuple(finetunings(context.experiment.finetune)) or (FINETUNE,)
    if method in trained:
        artefact = _finetuned(context, backbone, method, chosen, format)
    elif method in heads:
        artefact = context.predictions(backbone, heads[method], chosen, context.train_sets[0])
    else:
        raise UsageError(
            f"{where}: unknown method '{method}'.{did_you_mean(method, [*trained, *heads])}"
        )
    cell = Exported(
        context=context, backbone=backbone, method=method, seed=chosen, artefact=artefact
    )
    if not artefact.is_complete or not context.patches.is_complete:
        reason = context.why_missing(artefact if not artefact.is_complete else context.patches)
        raise UsageError(
            f"{where}: '{name}' with '{method}', seed {chosen}, is not complete ({reason}); run "
            f"`benchmark run {where}`, then export"
        )
    file = WEIGHTS if cell.is_finetuned else HEAD
    if not artefact.has(file):
        raise UsageError(f"{artefact.uri} holds no {file}: delete it and run again")
    return cell


def _finetuned(
    context: Context, backbone: Backbone, method: str, seed: int, format: str
) -> Artefact:
    where = context.experiment.path
    if context.experiment.finetune is None:
        raise UsageError(
            f"{where}: does not fine-tune; add a table [finetune] and run it, or name a head with "
            "--method"
        )
    chosen = {item.name for item in context.finetuned_backbones}
    if backbone.name not in chosen:
        raise UsageError(
            f"{where} [finetune]: '{backbone.name}' is not fine-tuned; name it in backbones, or "
            f"choose one of: {', '.join(sorted(chosen)) or 'none'}"
        )
    if backbone.publish is None and format == FOLDER:
        able = sorted(item.name for item in context.finetuned_backbones if item.publish)
        raise UsageError(
            f"backbone '{backbone.name}': cannot be exported fine-tuned, since transformers has no "
            f"class for it; add --format onnx, or choose one of: {', '.join(able) or 'none'}"
        )
    return context.finetuned(backbone, seed, context.train_sets[0], method)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, and rename it to ``out`` at the end."""
    try:
        if out.is_dir() and any(out.iterdir()):
            raise UsageError(f"--out {out}: is not empty; name a new folder")
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: is a file; name a new folder")
        target = out.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")
        folder.mkdir()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from None
    try:
        yield folder
        folder.replace(target)
    except OSError as error:
        raise BenchmarkError(f"--out {out}: cannot be written: {one_line(error)}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_finetuned(cell: Exported) -> dict[str, Any]:
    """Return the tensors of a fine-tuned classifier, by name.

    Raises:
        CellError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(cell.artefact.read_verified(WEIGHTS))
    except SafetensorError as error:
        raise cell.artefact.damage_of(WEIGHTS, error) from None


def _write_finetuned(cell: Exported, folder: Path) -> dict[str, Any]:
    publish = cell.backbone.publish
    if publish is None:
        raise ValueError(f"backbone '{cell.backbone.name}' cannot be published")
    publish(Publication(cell.backbone, folder, read_finetuned(cell), cell.classes))
    return write_description(folder, cell.facts(PIPELINE))
