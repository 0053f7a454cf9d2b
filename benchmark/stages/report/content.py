"""Assemble the content of the page: headline, tables and figures."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.flipping import FLIPS
from benchmark.methods import is_finetuned
from benchmark.options import ANY_BACKBONE
from benchmark.page.html import ReportData, Verdict
from benchmark.page.leaderboard import RankingRow
from benchmark.stages.report.backbones import backbone_table, product_notes, source_of
from benchmark.stages.report.content_tables import (
    class_counts,
    confusions,
    differences,
    embed_times,
    metrics,
    origins,
    problems,
    recalls,
    side_costs,
    stage_times,
    tune_times,
)
from benchmark.stages.report.depictions import depiction_pictures
from benchmark.stages.report.depth import depth_pictures, variant_notes
from benchmark.stages.report.explorer import explore
from benchmark.stages.report.figures import (
    confusion_pictures,
    data_pictures,
    embedding_pictures,
    keep_within,
    ranking_pictures,
)
from benchmark.stages.report.finetuning import (
    choice_tables,
    choices,
    comparisons,
    finetune_pictures,
    finetune_times,
    gains,
)
from benchmark.stages.report.folds import fold_tables
from benchmark.stages.report.headline import join_first, name_method, write_headline
from benchmark.stages.report.labels import label_pictures, label_tables
from benchmark.stages.report.properties import property_tables
from benchmark.stages.report.reference import beside, beside_pictures
from benchmark.stages.report.repairs import repairs
from benchmark.stages.report.results import Results
from benchmark.stages.report.sizes import made_notes, size_pictures, size_tables
from benchmark.stages.report.transfer import transfer_pictures, transfer_tables
from benchmark.stages.report.usage import load_saved_usage, usage_sentences, usage_tables
from benchmark.statistics.flips import TOO_LITTLE


def collect(results: Results) -> ReportData:
    """Return the content of the page."""
    experiment = results.context.experiment
    ranking = _ranking_rows(results)
    confidence = experiment.evaluate.confidence
    ties = [
        name_method(row.backbone, row.method) for row in results.ranking.itertuples() if row.is_tie
    ]
    verdicts = tuple(
        Verdict(backbone=row.backbone, head=row.head, sentence=row.sentence)
        for row in results.comparison.itertuples()
    )
    makers = (side_costs, stage_times, embed_times, tune_times, finetune_times)
    tables = [make(results) for make in makers]
    saved = load_saved_usage(results.context)
    say = results.naming.sentence
    pictures = (
        *finetune_pictures(results),
        *ranking_pictures(results, ranking),
        *beside_pictures(results),
        *size_pictures(results),
        *label_pictures(results),
        *transfer_pictures(results),
        *confusion_pictures(results),
        *data_pictures(results),
        *depth_pictures(results),
        *embedding_pictures(results),
        *depiction_pictures(results),
    )
    pictures, left_out = keep_within(pictures)
    return ReportData(
        title=experiment.report.title or f"Benchmark: {experiment.name}",
        experiment=experiment.name,
        dataset=results.context.dataset.name,
        is_synthetic=results.is_synthetic,
        headline=write_headline(
            ranking,
            confidence=confidence,
            ties=ties,
            # Of a backbone with several modes, the choice between them.
            verdicts=(*verdicts, *choices(results)),
            is_too_little=(results.ranking["verdict"] == TOO_LITTLE).any(),
        ),
        confidence=confidence,
        interval_reason=results.evaluated["intervals"]["test"]["reason"],
        ranking=ranking,
        absent_classes=tuple(name for name, n in results.num_test_patches().items() if not n),
        notes=(
            *results.patches["notes"],
            *_problem_notes(results),
            *map(say, results.evaluated["limits"]),
            *map(say, results.evaluated["notes"]),
            *map(say, (results.evaluated.get("transfer") or {"notes": ()})["notes"]),
            *_training_notes(results),
            *product_notes(results),
            *variant_notes(results),
            *map(say, made_notes(results)),
        ),
        metrics=(differences(results), *size_tables(results), metrics(results)),
        train_set=results.train_set if results.has_train_sets else "",
        flips=", ".join(FLIPS[experiment.protocol.flips]),
        crossings=tuple(say(item["sentence"]) for item in results.evaluated.get("crossings", ())),
        labels=label_tables(results),
        folds=fold_tables(results),
        drops_least=say((results.evaluated.get("transfer") or {}).get("sentence", "")),
        transfer=transfer_tables(results),
        gains=gains(results),
        choices=choices(results),
        comparisons=(*choice_tables(results), *comparisons(results)),
        recalls=(recalls(results, "recall"), recalls(results, "precision")),
        confusions=confusions(results),
        beside=beside(results),
        class_counts=(class_counts(results),),
        backbones=(backbone_table(results), *property_tables(results)),
        timings=tuple(table for table in tables if table.rows),
        usage=usage_tables(saved),
        usage_notes=usage_sentences(saved),
        repairs=repairs(results),
        explorer=explore(results, pictures),
        problems=problems(results),
        provenance=origins(results),
        pictures=pictures,
        left_out=left_out,
    )


def _ranking_rows(results: Results) -> tuple[RankingRow, ...]:
    rows = []
    for row in results.ranking.itertuples():
        manifests = [
            manifest
            for cell, manifest in results.manifests.items()
            if (cell.backbone, cell.method) == (row.backbone, row.method)
            and cell.train_set in results.cell_sets
        ]
        rows.append(
            RankingRow(
                rank=row.rank,
                backbone=row.backbone,
                method=row.method,
                value=row.value,
                ci_low=row.ci_low,
                ci_high=row.ci_high,
                seed_std=None if pd.isna(row.seed_std) else row.seed_std,
                num_seeds=row.num_seeds,
                is_floor=row.is_floor,
                verdict=row.verdict,
                is_tie=row.is_tie,
                **_describe(results, row.backbone, row.method),
                num_trials=manifests[0]["num_trials"] if manifests else None,
                num_failed=manifests[0].get("failed_trials", 0) if manifests else 0,
                seconds=_device_seconds(results, row.backbone, row.method, manifests),
                seed_values=tuple(row.seed_values),
            )
        )
    return tuple(rows)


def _describe(results: Results, name: str, method: str) -> dict[str, Any]:
    """Return what the ranking says of a backbone; nothing of what depends on none."""
    backbone, embedded = results.backbones.get(name), results.embed.get(name, {})
    if backbone is None:
        return {}
    speed = embedded.get("seconds", {}).get("patches_per_s")
    return {
        "family": backbone.family,
        "source": source_of(backbone),
        "num_parameters": None if backbone.product else backbone.num_parameters,
        "dim": embedded.get("dim", backbone.dim),
        "patches_per_s": None if is_finetuned(method) or backbone.product else speed,
    }


def _device_seconds(
    results: Results, backbone: str, method: str, manifests: list[dict[str, Any]]
) -> float | None:
    """Return the device-seconds per seed, counted as in the comparison; None: unknown."""
    if not manifests:
        return None
    own_s = sum(manifest["seconds"]["device"] for manifest in manifests) / len(manifests)
    own_s *= len(results.cell_sets)
    # Fine-tuning reads patches and needs no embeddings, nor do heads that do not read them.
    if is_finetuned(method) or backbone == ANY_BACKBONE:
        return float(own_s)
    embed_s = results.embed_seconds.get(backbone)
    return None if embed_s is None else float(own_s + embed_s)


def _problem_notes(results: Results) -> list[str]:
    found = [f"{item['path']}: {item['reason']}" for item in results.patches["problems"]]
    if not found:
        return []
    shown = join_first(found, 5, separator="; ")
    return [f"{len(found)} unreadable files were skipped (on_error = skip): {shown}."]


def _training_notes(results: Results) -> list[str]:
    """Return the automatic changes of fine-tuning; a note of several seeds appears once."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell, manifest in results.finetuned.items():
        names = " / ".join(results.names(cell, "backbone", "method"))
        own = f"{results.backbones[cell.backbone or ''].name}: "
        for note in dict.fromkeys(manifest.get("notes", [])):
            found.setdefault((names, note.removeprefix(own)), []).append(str(cell.seed))
    return [
        f"{names} / seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {note}"
        for (names, note), seeds in found.items()
    ]
