"""The tables of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.experiment.costs import COST_CAPTION, find_costs, mebibytes, tabulate
from benchmark.page.html import Confusion, ProblemRow, Table
from benchmark.stages.report.backbones import declare
from benchmark.stages.report.headline import name_method
from benchmark.stages.report.results import TRAIN_SET, Results
from benchmark.stages.report.trials import count_trials, describe_failures
from benchmark.store.provenance import library_versions

MAX_MATRICES = 24
"""Confusion matrices shown as counts, best methods first."""


def differences(results: Results) -> Table:
    """Return the paired difference of every method to the leader."""
    rows = []
    for row in results.ranking.itertuples():
        if row.rank == 1:
            continue
        rows.append(
            (
                row.backbone,
                row.method,
                100 * row.difference,
                100 * row.difference_low,
                100 * row.difference_high,
                p_text(row.p_value),
                row.verdict,
            )
        )
    leader = results.ranking.iloc[0]
    return Table(
        title="Difference to the leader",
        columns=("backbone", "method", "points behind", "low", "high", "p", "verdict"),
        rows=tuple(rows),
        num_headers=2,
        decimals=1,
        caption=(
            f"{name_method(leader['backbone'], leader['method'])} minus each row, in points of "
            "balanced accuracy on the same patches. Interval and p are those of a flip test over "
            "scenes (patches where scenes are unknown), corrected for the whole table and for the "
            "choice of its leader."
        ),
    )


def p_text(value: float | None) -> str | None:
    """Return a p-value as text; None: unknown."""
    if value is None or np.isnan(value):
        return None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def metrics(results: Results) -> Table:
    """Return every metric of every cell, except the metrics per class."""
    plain = results.every_score[~results.every_score["metric"].str.contains("/")]
    index = ["backbone", "method", *results.columns(), "seed"]
    wide = plain.pivot_table(
        index=index, columns="metric", values="value", sort=False
    ).reset_index()
    wide = wide.rename(columns={"train_set": TRAIN_SET})
    return Table.from_frame(wide, title="Every metric on test", num_headers=len(index))


def recalls(results: Results, metric: str) -> Table:
    """Return recall or precision per class, the mean over seeds."""
    rows = results.class_scores(metric)
    mean = rows.groupby(["backbone", "method", "label"], sort=False)["value"].mean()
    wide = mean.unstack("label").reindex(columns=list(results.classes)).reset_index()
    order = {(row.backbone, row.method): row.rank for row in results.ranking.itertuples()}
    ranks = [order[key] for key in zip(wide["backbone"], wide["method"], strict=True)]
    wide = wide.iloc[np.argsort(ranks, kind="stable")]
    return Table.from_frame(wide, title=f"{metric.capitalize()} per class", num_headers=2)


def confusions(results: Results) -> tuple[Confusion, ...]:
    """Return the confusion matrices of the best methods."""
    return tuple(
        Confusion(title=name, classes=results.classes, counts=counts.tolist())
        for name, counts in results.best_confusions(MAX_MATRICES)
    )


def class_counts(results: Results) -> Table:
    """Return the patches per split, region and class."""
    rows = [
        (
            record["split"],
            record["region"] or "-",
            *(record["counts"][name] for name in results.classes),
            sum(record["counts"].values()),
        )
        for record in results.patches["class_counts"]
    ]
    return Table(
        title="Patches per split, region and class",
        columns=("split", "region", *results.classes, "all"),
        rows=tuple(rows),
        num_headers=2,
        caption=(
            f"{results.patches['num_patches']:,} patches of {results.patches['num_examined']:,} "
            f"{_unit(results)} examined; {results.patches['num_candidates']:,} were candidates."
        ),
    )


def _unit(results: Results) -> str:
    # Patches of older versions do not say it.
    return str(results.patches.get("unit", "windows"))


def stage_times(results: Results) -> Table:
    """Return the time taken to find and read the patches."""
    seconds = results.patches["seconds"]
    unit = _unit(results)
    per_s = results.patches["num_examined"] / max(seconds["total"], 1e-9)
    return Table(
        title="patches",
        columns=(f"{unit} examined", "patches", "find, s", "read and write, s", f"{unit}/s"),
        rows=(
            (
                results.patches["num_examined"],
                results.patches["num_patches"],
                seconds["find"],
                seconds["read"],
                per_s,
            ),
        ),
        num_headers=0,
        decimals=1,
    )


def side_costs(results: Results) -> Table:
    """Return what each backbone took, frozen and fine-tuned side by side."""
    known = {cell.artefact.path: manifest for cell, manifest in results.manifests.items()}
    costs = [
        cost._replace(backbone=results.naming.short[cost.backbone])
        for cost in find_costs(results.context, known)
    ]
    columns, rows = tabulate(costs)
    return Table(
        title="Frozen beside fine-tuned",
        columns=columns,
        rows=tuple(rows),
        num_headers=2,
        decimals=2,
        caption=COST_CAPTION,
    )


def embed_times(results: Results) -> Table:
    """Return the cost of each backbone and the range of its input."""
    rows = []
    for name, manifest in results.embed.items():
        count = manifest["num_patches"]
        fed = manifest.get("input", {})
        rows.append(
            (
                name,
                manifest["dim"],
                results.embed_seconds[name],
                manifest["seconds"]["patches_per_s"],
                manifest["storage_bytes"] / count * 1000 / 1e6,
                mebibytes(manifest["peak_memory_bytes"]),
                *(fed.get(key) for key in ("min", "mean", "max")),
                _how(manifest),
            )
        )
    return Table(
        title="embed",
        columns=(
            "backbone",
            "dimension",
            "device-seconds",
            "patches/s, all actors",
            "MB per 1,000 patches",
            "peak memory of an actor, MiB",
            "input min",
            "input mean",
            "input max",
            "how",
        ),
        rows=tuple(rows),
        decimals=2,
        caption="patches/s includes reading and writing, and covers the last run only."
        + " Device-seconds include the flips of val and test; all else is of patches as they are."
        * (results.context.experiment.protocol.flips != "none"),
    )


def _how(manifest: Mapping[str, Any]) -> str:
    if "product" in manifest:
        return "read from files"
    if "derived" in manifest:
        return "made from stored embeddings"
    device = manifest["device"]
    compiled = "compiled, " if device.get("is_compiled") else ""
    return (
        f"{device['device']}, {device['precision']}, {compiled}batch {device['batch_size']}, "
        f"{manifest['pool']['num_actors']} actors"
    )


def tune_times(results: Results) -> Table:
    """Return the cost of each search."""
    rows = [
        (
            *results.names(cell, "backbone", "method"),
            cell.seed,
            count_trials(manifest),
            manifest["val_score"],
            manifest["seconds"]["trials"],
            manifest["seconds"]["refit"],
        )
        for cell, manifest in results.tuned.items()
    ]
    return Table(
        title="tune",
        columns=(
            *("backbone", "head", *results.headings()),
            *("seed", "trials", "best val score", "trials, s", "refit, s"),
        ),
        rows=tuple(rows),
        num_headers=2,
        caption="The cost of one more head on stored embeddings."
        + describe_failures(results.tuned.items()),
    )


def problems(results: Results) -> tuple[ProblemRow, ...]:
    """Return the cells without a result."""
    rows = []
    for cell in results.missing:
        status, reason = results.context.status(cell.artefact)
        reason = reason or "not computed: the next benchmark run computes it"
        rows.append(ProblemRow(cell=cell.label, status=status, reason=reason))
    return tuple(rows)


def origins(results: Results) -> dict[str, str]:
    """Return the provenance of the results: fingerprints, weights, versions."""
    record = results.evaluated["provenance"]
    found = {
        "experiment": results.context.experiment.name,
        "scores fingerprint": results.context.scores().fingerprint,
        "patches fingerprint": results.context.patches.fingerprint,
        "dataset digest": results.patches["dataset_digest"],
        "code": str(record["code"] or "not a git checkout"),
        "machine": record["machine"],
        "computed": record["written"],
    }
    for name, item in zip(results.named_backbones(), declare(results), strict=True):
        if name != item["name"]:
            found[f"backbone {name}"] = item["name"]
        found[f"weights of {name}"] = item["revision"] or "none"
        if name in results.embed:
            found[f"embeddings of {name}"] = results.embed[name]["fingerprint"]
    for cell, manifest in results.finetuned.items():
        names = (*results.names(cell, "backbone"), f"seed {cell.seed}")
        found[f"fine-tuning of {', '.join(names)}"] = manifest["fingerprint"]
    return found | library_versions()
