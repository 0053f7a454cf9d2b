"""Put the page together: the answer, its tables and its figures."""

from __future__ import annotations

import pandas as pd

from benchmark.context import Context
from benchmark.page import RankingRow, ReportData, write_headline
from benchmark.stages.report.content_tables import (
    class_counts,
    confusions,
    differences,
    embed_times,
    metrics,
    origins,
    problems,
    recalls,
    stage_times,
    tune_times,
)
from benchmark.stages.report.figures import (
    confusion_pictures,
    data_pictures,
    embedding_pictures,
    ranking_pictures,
)
from benchmark.stages.report.results import Results


def collect(context: Context) -> ReportData:
    """Return the content of the report of the scores complete by now."""
    results = Results(context)
    experiment = results.context.experiment
    ranking = _ranking_rows(results)
    confidence = experiment.evaluate.confidence
    ties = [
        f"{row.backbone} with {row.method}" for row in results.ranking.itertuples() if row.is_tie
    ]
    present = set(results.num_test_patches().nonzero()[0].tolist())
    return ReportData(
        title=experiment.report.title or f"Benchmark: {experiment.name}",
        experiment=experiment.name,
        dataset=results.context.dataset.name,
        is_synthetic=results.is_synthetic,
        headline=write_headline(ranking, confidence=confidence, ties=ties),
        confidence=confidence,
        interval_reason=results.evaluated["intervals"]["test"]["reason"],
        ranking=ranking,
        absent_classes=tuple(name for k, name in enumerate(results.classes) if k not in present),
        notes=(*results.patches["notes"], *_problem_notes(results), *results.evaluated["notes"]),
        metrics=(differences(results), metrics(results)),
        recalls=(recalls(results, "recall"), recalls(results, "precision")),
        confusions=confusions(results),
        class_counts=(class_counts(results),),
        timings=(stage_times(results), embed_times(results), tune_times(results)),
        problems=problems(results),
        provenance=origins(results),
        pictures=(
            *ranking_pictures(results, ranking),
            *confusion_pictures(results),
            *data_pictures(results),
            *embedding_pictures(results),
        ),
    )


def _ranking_rows(results: Results) -> tuple[RankingRow, ...]:
    rows = []
    for row in results.ranking.itertuples():
        manifests = [
            manifest
            for cell, manifest in results.tuned.items()
            if (cell.backbone, cell.method) == (row.backbone, row.method)
        ]
        tuned_s = sum(manifest["seconds"]["device"] for manifest in manifests)
        embedded_s = results.embed[row.backbone]["seconds"]["device"]
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
                num_trials=manifests[0]["num_trials"] if manifests else None,
                seconds=embedded_s + tuned_s,
                seed_values=tuple(row.seed_values),
            )
        )
    return tuple(rows)


def _problem_notes(results: Results) -> list[str]:
    found = results.patches["problems"]
    if not found:
        return []
    shown = "; ".join(f"{item['path']}: {item['reason']}" for item in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return [f"{len(found)} unreadable files were skipped (on_error = skip): {shown}{more}."]
