"""The model card of an exported cell: its origin, scores and limits."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.experiment.context import Context
from benchmark.exporting.running import ONNX, PACKAGE, PIPELINE, PROGRAM
from benchmark.exporting.usage import usages
from benchmark.methods import is_finetuned
from benchmark.specs import Backbone
from benchmark.store.artefacts import Artefact
from benchmark.store.names import SCORES_FILE, beside
from benchmark.tables import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

FEW = 50
"""Test patches below which the limits name a class: its recall is a rough guess."""

_HUB_LICENSES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}


def write_card(
    path: Path,
    *,
    context: Context,
    backbone: Backbone,
    method: str,
    seed: int,
    artefact: Artefact,
    description: Mapping[str, Any],
) -> None:
    """Write the card of one complete cell as Markdown with the hub's front matter.

    Args:
        path: the file to write.
        context: the experiment; its patches are complete.
        backbone: of the cell.
        method: of the cell.
        seed: of the cell.
        artefact: of the cell.
        description: of the folder.
    """
    patches, manifest = context.patches.manifest(), artefact.manifest()
    classes = tuple(patches["classes"])
    key = {
        "dataset": context.dataset.name,
        "backbone": backbone.name,
        "method": method,
        "train_set": context.train_sets[0].name,
        "seed": seed,
        "split": "test",
    }
    counts, regions = _count(patches["class_counts"], classes)
    scores, confusion, reason = _scores(context.scores(), key)
    provenance = manifest.get("provenance", {})
    content = {
        "front_matter": _front_matter(backbone, description),
        "title": f"{context.experiment.name}: {backbone.name} / {method}",
        "backbone": backbone,
        "method": method,
        "seed": seed,
        "is_finetuned": is_finetuned(method),
        "is_synthetic": patches["is_synthetic"],
        "dataset": context.dataset.name,
        "dataset_digest": patches["dataset_digest"],
        "classes": classes,
        "patch_size": patches["patch_size"],
        "bands": backbone.bands or patches["bands"],
        "splits": SPLITS,
        "counts": counts,
        "regions": regions,
        "data_notes": patches.get("notes", []),
        "manifest": manifest,
        "machine": provenance.get("machine", ""),
        "versions": {**provenance.get("versions", {}), "code": provenance.get("code") or "-"},
        "scores": scores,
        "num_test": scores[0]["num_patches"] if scores else 0,
        "confidence": f"{100 * context.experiment.evaluate.confidence:g}",
        "interval_reason": reason,
        "confusion": dict(zip(classes, confusion, strict=True)) if confusion else {},
        "limits": [
            *_flip_limits(context, backbone),
            *_limits(context, patches, counts, regions, is_evaluated=bool(scores)),
        ],
        "revision": backbone.revision() or "-",
        "fingerprint": artefact.fingerprint,
        "kind": description["kind"],
        "usages": usages(description),
    }
    path.write_text(_render(content))


def _front_matter(backbone: Backbone, description: Mapping[str, Any]) -> dict[str, Any]:
    kind = description["kind"]
    is_pipeline = kind == PIPELINE or description.get("pipeline_difference") is not None
    library = {PROGRAM: "pytorch", PACKAGE: "sklearn", ONNX: "onnx"}
    tags = ["image-classification", "remote-sensing", "backbone-benchmark"]
    matter: dict[str, Any] = {
        "license": _HUB_LICENSES.get(backbone.license, "other"),
        "library_name": "transformers" if is_pipeline else library[kind],
        "pipeline_tag": "image-classification",
        "tags": [*tags, "skops"] if kind == PACKAGE else tags,
    }
    if backbone.hub_id:
        matter["base_model"] = backbone.hub_id
    return matter


def _count(
    records: list[dict[str, Any]], classes: tuple[str, ...]
) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
    """Return the counts of each class in the order of SPLITS, and the regions of each split."""
    counts = {name: [0] * len(SPLITS) for name in classes}
    regions: dict[str, list[str]] = defaultdict(list)
    for record in records:
        column = SPLITS.index(record["split"])
        if record["region"]:
            regions[record["split"]].append(record["region"])
        for name, count in record["counts"].items():
            counts[name][column] += count
    return counts, dict(regions)


def _scores(
    artefact: Artefact, key: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[list[int]], str]:
    """Return the cell's scores, confusion and origin of intervals on test, if it was evaluated."""
    if not artefact.is_complete:
        return [], [], ""
    scores = _rows(artefact.read_table(names=[SCORES_FILE]), key)
    confusion = _rows(artefact.read_table(names=[beside("confusion")]), key)
    if not scores or not confusion:
        return [], [], ""
    reason = artefact.manifest().get("intervals", {}).get("test", {}).get("reason", "")
    return scores, confusion[0]["counts"], reason


def _rows(table: pa.Table, key: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in key.items())]


def _flip_limits(context: Context, backbone: Backbone) -> list[str]:
    flips = context.flips_of(backbone)
    if not flips:
        return []
    return [
        "The scores are of predictions averaged over each patch and its flips "
        f"({', '.join(flips)}); this model predicts an image once, without flips, and may score "
        "differently."
    ]


def _limits(
    context: Context,
    patches: dict[str, Any],
    counts: dict[str, list[int]],
    regions: dict[str, list[str]],
    *,
    is_evaluated: bool,
) -> list[str]:
    limits = []
    if patches["is_synthetic"]:
        limits.append("Trained and tested on synthetic pictures: not for use on real ones.")
    if not is_evaluated:
        limits.append("It was not evaluated on test: its accuracy is unknown.")
    few = [f"{name} ({row[-1]})" for name, row in counts.items() if 0 < row[-1] < FEW]
    if few:
        limits.append(f"Few test patches, so their scores are rough: {', '.join(few)}.")
    for column, split in ((0, "train"), (-1, "test")):
        absent = [name for name, row in counts.items() if row[column] == 0]
        if absent:
            limits.append(f"No patches in {split}: {', '.join(absent)}.")
    if regions.get("test"):
        limits.append(
            f"Tested in {', '.join(regions['test'])} only; it may be worse in other places or "
            "seasons, or with another sensor."
        )
    else:
        limits.append("It may be worse in other places or seasons, or with another sensor.")
    limits.append("It predicts one of its classes for every image, even if none fits.")
    if len(context.experiment.seeds) > 1:
        limits.append("One of several seeds; the report has their spread.")
    return limits


def _render(content: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmark.exporting"),
        # Markdown: names are escaped by the filters below.
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(json=_json, number=_number, inline=_inline, cell=_cell)
    return environment.get_template("model_card.md.j2").render(content)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=isinstance(value, dict))


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _inline(value: object) -> str:
    """Return text as one line without markup."""
    return " ".join(str(value).split()).replace("<", "&lt;")


def _cell(value: object) -> str:
    return _inline(value).replace("|", "\\|")
