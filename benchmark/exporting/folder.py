"""Export one cell of the grid as a folder with a model card.

A fine-tuned backbone becomes a folder for the ``image-classification`` pipeline of transformers;
a tuned head becomes its skops file and a description of its input.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchmarkError, UsageError, did_you_mean, one_line
from benchmark.experiment.context import FINETUNE, Context
from benchmark.exporting.card import write_card
from benchmark.networks.bands import band_indices
from benchmark.networks.fitted import FITTED
from benchmark.specs import Backbone, Publication
from benchmark.store.artefacts import Artefact

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = "model.safetensors"
HEAD = "head.skops"

_PIPELINE_CODE = """\
from transformers import pipeline

classify = pipeline("image-classification", model="path/to/this/folder")
print(classify("patch.png"))"""

_HEAD_CODE = """\
import json
from pathlib import Path

import numpy as np
from PIL import Image

import benchmark as bm
from benchmark.catalog.backbones import find_backbone
from benchmark.config import BackboneOptions
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder

folder = Path("path/to/this/folder")
config = json.loads((folder / "config.json").read_text())
plan = plan_device(precision=config["precision"], batch_size=None, num_threads=1)
options = BackboneOptions(**config["options"])
backbone = find_backbone(config["backbone"], options=options)
embed = Embedder(backbone, config["bands"], plan)

# uint8 (N, C, H, W), the bands in the order of config["bands"]
pixels = np.asarray(Image.open("patch.png"))[None].transpose(0, 3, 1, 2)
embeddings, _ = embed(pixels)
labels = bm.load_head(folder).predict(embeddings)
print([config["classes"][label] for label in labels])"""


def _head_code(backbone: Backbone) -> str:
    """Return the card's example; it loads the backbone's fitted state if there is one."""
    if backbone.fit is None:
        return _HEAD_CODE
    code = _HEAD_CODE.replace(
        "import Image\n", "import Image\nfrom safetensors.torch import load_file\n"
    )
    return code.replace("plan)\n", f'plan, load_file(folder / "{FITTED}"))\n')


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
        return self.method == FINETUNE


def export(context: Context, *, backbone: str, method: str, seed: int | None, out: Path) -> Path:
    """Write one cell as a folder: weights, a description of their input, and a model card.

    The folder appears complete or not at all.

    Args:
        context: the experiment.
        backbone: name of one of its backbones.
        method: ``finetune``, or the name of one of its heads.
        seed: one of its seeds; None: the first.
        out: the folder; it must be empty or absent.

    Returns: the folder.

    Raises:
        UsageError: a name is unknown, the cell is not complete or cannot be exported, or the
            folder cannot be written.
    """
    cell = _find_cell(context, backbone, method, seed)
    with _new_folder(out) as folder:
        if cell.is_finetuned:
            _write_finetuned(cell, folder)
        else:
            _write_head(cell, folder)
        write_card(
            folder / "README.md",
            context=context,
            backbone=cell.backbone,
            method=method,
            seed=cell.seed,
            artefact=cell.artefact,
            code=_PIPELINE_CODE if cell.is_finetuned else _head_code(cell.backbone),
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


def _find_cell(context: Context, name: str, method: str, seed: int | None) -> Exported:
    where = context.experiment.path
    by_name = {item.name: item for item in context.backbones}
    if name not in by_name:
        raise UsageError(f"{where}: unknown backbone '{name}'.{did_you_mean(name, by_name)}")
    backbone = by_name[name]
    seeds = context.experiment.seeds
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise UsageError(
            f"{where}: unknown seed {chosen}; choose one of: {', '.join(map(str, seeds))}"
        )
    heads = {item.name: item for item in context.heads}
    if method == FINETUNE:
        artefact = _finetuned(context, backbone, chosen)
    elif method in heads:
        artefact = context.predictions(backbone, heads[method], chosen)
    else:
        raise UsageError(
            f"{where}: unknown method '{method}'.{did_you_mean(method, [FINETUNE, *heads])}"
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


def _finetuned(context: Context, backbone: Backbone, seed: int) -> Artefact:
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
    if backbone.publish is None:
        able = sorted(item.name for item in context.finetuned_backbones if item.publish)
        raise UsageError(
            f"backbone '{backbone.name}': cannot be exported fine-tuned, since transformers has no "
            f"class for it; choose one of: {', '.join(able) or 'none'}"
        )
    return context.finetuned(backbone, seed)


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


def _write_finetuned(cell: Exported, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(cell.artefact.read_verified(WEIGHTS))
    except SafetensorError as error:
        raise cell.artefact.damage_of(WEIGHTS, error) from None
    publish = cell.backbone.publish
    if publish is None:
        raise ValueError(f"backbone '{cell.backbone.name}' cannot be published")
    classes = tuple(cell.context.patches.manifest()["classes"])
    publish(Publication(cell.backbone, folder, state, classes))


def _write_head(cell: Exported, folder: Path) -> None:
    context, backbone = cell.context, cell.backbone
    patches, manifest = context.patches.manifest(), cell.artefact.manifest()
    bands = patches["bands"]
    (folder / HEAD).write_bytes(cell.artefact.read_verified(HEAD))
    embeddings = context.embeddings(backbone)
    if backbone.fit is not None:
        if not embeddings.has(FITTED):
            raise UsageError(f"{embeddings.uri} holds no {FITTED}: run `benchmark embed` again")
        (folder / FITTED).write_bytes(embeddings.read_verified(FITTED))
    config = {
        "backbone": backbone.model,
        "options": dict(backbone.options),
        "revision": backbone.revision(),
        "source": backbone.source,
        "dim": _stored_dim(embeddings) or backbone.dim,
        "bands": [bands[i] for i in band_indices(backbone, bands)],
        "patch_size": patches["patch_size"],
        "image_size": backbone.image_size,
        "resize_to": backbone.resize_to,
        "interpolation": backbone.interpolation,
        "is_rounded": backbone.is_rounded,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "precision": (embeddings.plan() or {}).get("precision", "auto"),
        "head": cell.method,
        "params": manifest["params"],
        "classes": patches["classes"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _stored_dim(embeddings: Artefact) -> int | None:
    """Return the length of the stored embeddings, or None if there are none."""
    names = embeddings.files("part-")
    if not names:
        return None
    schema = embeddings.read_schema(names[0])
    return int(schema.field("embedding").type.list_size)
