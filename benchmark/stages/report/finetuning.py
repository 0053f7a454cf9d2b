"""The section "Frozen or fine-tuned" of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmark.experiment.costs import mebibytes, peaks_of
from benchmark.methods import with_mode
from benchmark.page import curves
from benchmark.page.html import Gain, Picture, Section, Table, Verdict
from benchmark.stages.report.content_tables import p_text
from benchmark.stages.report.figures import picture
from benchmark.stages.report.results import Results
from benchmark.stages.report.trials import count_trials, describe_failures
from benchmark.store.names import beside


def choices(results: Results) -> tuple[Verdict, ...]:
    """Return for each backbone with several modes which choice leads, and the cheapest as good."""
    return tuple(
        Verdict(backbone=results.naming.short[item["backbone"]], head="", sentence=item["sentence"])
        for item in results.evaluated.get("choices", [])
    )


def gains(results: Results) -> tuple[Gain, ...]:
    """Return the gain of each fine-tuning over the frozen side, largest first."""
    rows = results.comparison.sort_values("gain", ascending=False, kind="stable")
    return tuple(
        Gain(
            backbone=with_mode(row.backbone, row.method),
            head=row.head,
            gain=100 * row.gain,
            low=100 * row.gain_low,
            high=100 * row.gain_high,
            ratio=None if row.ratio is None or pd.isna(row.ratio) else row.ratio,
            verdict=row.verdict,
            is_detectable=row.is_detectable,
        )
        for row in rows.itertuples()
    )


def choice_tables(results: Results) -> tuple[Table, ...]:
    """Return the choices of each backbone with several modes, beside their costs."""
    return tuple(
        Table(
            title=f"{results.naming.short[item['backbone']]}: frozen, or which fine-tuning",
            columns=(
                "method",
                "score, %",
                "points behind",
                "low",
                "high",
                "device-seconds",
                "verdict",
                "cheapest",
            ),
            rows=tuple(
                (
                    row["method"],
                    100 * row["value"],
                    100 * row["behind"],
                    100 * row["behind_low"],
                    100 * row["behind_high"],
                    _rounded(row["seconds"]),
                    row["verdict"],
                    "yes" if row["method"] == item["cheapest"] else "",
                )
                for row in item["choices"]
            ),
            decimals=1,
            caption=(
                "Balanced accuracy on test, mean over seeds; the frozen side is the head with the "
                "best score on val. Points behind are the best choice minus the row on the same "
                "patches; interval and verdict are those of a flip test over scenes (patches where "
                "scenes are unknown), corrected for the choices of this backbone and for the "
                "choice of the best. Device-seconds are those of one seed: all trials and the "
                "refit, and the embedding of the frozen side. Cheapest is the choice with the "
                "fewest device-seconds among the best and those without a detectable difference "
                "from it; none where that is not known."
            ),
        )
        for item in results.evaluated.get("choices", [])
    )


def comparisons(results: Results) -> tuple[Table, ...]:
    """Return fine-tuned against frozen as a table, or nothing if no backbone has both."""
    if results.comparison.empty:
        return ()
    rows = [
        (
            with_mode(row.backbone, row.method),
            row.head,
            100 * row.frozen_value,
            100 * row.finetuned_value,
            100 * row.gain,
            100 * row.gain_low,
            100 * row.gain_high,
            p_text(row.p_value),
            _rounded(row.frozen_seconds),
            _rounded(row.finetuned_seconds),
            _rounded(row.ratio),
            row.verdict,
        )
        for row in results.comparison.itertuples()
    ]
    return (
        Table(
            title="Fine-tuned against frozen",
            columns=(
                "backbone",
                "frozen head",
                "frozen, %",
                "fine-tuned, %",
                "points gained",
                "low",
                "high",
                "p",
                "frozen, s",
                "fine-tuned, s",
                "times",
                "verdict",
            ),
            rows=tuple(rows),
            num_headers=2,
            decimals=1,
            caption=(
                "Balanced accuracy on test, mean over seeds. Points gained are fine-tuned minus "
                "frozen on the same patches; interval and p are those of a flip test over scenes "
                "(patches where scenes are unknown), corrected over the table, and not over "
                "seeds. The head is the one with the best score on val. Seconds "
                "are device-seconds per seed: all trials and the refit. The frozen side includes "
                "the embedding, but not the searches of other heads."
            ),
        ),
    )


def _rounded(value: float | None) -> float | int | None:
    if value is None or pd.isna(value):
        return None
    return round(value) if value >= 10 else value


def finetune_times(results: Results) -> Table:
    """Return the cost and the execution plan of each fine-tuning."""
    rows = []
    for cell, manifest in results.finetuned.items():
        host, on_gpu = peaks_of(manifest)
        peak = on_gpu or host
        rows.append(
            (
                *results.names(cell, "backbone"),
                cell.seed,
                manifest.get("mode"),
                count_trials(manifest),
                manifest.get("num_epochs"),
                manifest["val_score"],
                manifest["seconds"]["trials"],
                manifest["seconds"]["refit"],
                manifest["seconds"]["device"],
                mebibytes(peak),
                _how(manifest.get("plan", {})),
            )
        )
    return Table(
        title="finetune",
        columns=(
            "backbone",
            *results.headings(),
            "seed",
            "mode",
            "trials",
            "best epoch",
            "best val score",
            "trials, s",
            "refit, s",
            "device-seconds",
            "peak memory of a worker, MiB",
            "how",
        ),
        rows=tuple(rows),
        num_headers=2,
        caption=describe_failures(results.finetuned.items()).strip(),
    )


def _how(plan: Mapping[str, Any]) -> str:
    """Return the known parts of a training plan in words."""
    parts = [str(plan[key]) for key in ("device", "precision") if plan.get(key) is not None]
    for key, words in (
        ("micro_batch", "micro-batch {}"),
        ("num_workers", "workers {}"),
        ("num_threads", "threads {}"),
    ):
        if plan.get(key) is not None:
            parts.append(words.format(plan[key]))
    return ", ".join(parts)


def finetune_pictures(results: Results) -> list[Picture]:
    """Return the paired differences and the learning curves, if any."""
    found = []
    of_fold = f", {results.cell_sets[0]}" if len(results.cell_sets) > 1 else ""
    curve_title = f"Learning curves of fine-tuning{of_fold}"
    compared = _named(results.comparison.sort_values("gain", ascending=False, kind="stable"))
    section: Section
    for section, title, plot, rows in (
        ("finetune", "What fine-tuning gains", curves.plot_gains, compared),
        ("training", curve_title, curves.plot_curves, learning_curves(results)),
    ):
        if not rows.empty:
            found.append(picture(results, section, title, plot, rows))
    return found


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose backbone has the mode in its name, where there are several."""
    names = [with_mode(row.backbone, row.method) for row in rows.itertuples()]
    return rows.assign(backbone=names)


def learning_curves(results: Results) -> pd.DataFrame:
    """Return every epoch of every fine-tuning on the headline's train set, or its first fold.

    Returns: the columns that ``curves.plot_curves`` takes.
    """
    parts = []
    for cell, manifest in results.finetuned.items():
        if cell.train_set != results.cell_sets[0] or not cell.artefact.has(beside("curve")):
            continue
        frame = cell.artefact.read_table(names=[beside("curve")]).to_pandas()
        trials = cell.artefact.read_table(names=[beside("trials")]).to_pandas()
        frame["is_best"] = frame["trial"] == _best_trial(trials)
        frame["is_chosen"] = frame["is_best"] & (frame["epoch"] == manifest["num_epochs"])
        name = with_mode(cell.backbone or "", cell.method)
        parts.append(frame.assign(backbone=name, seed=cell.seed))
    return pd.concat(parts) if parts else pd.DataFrame()


def _best_trial(trials: pd.DataFrame) -> int | None:
    """Return the trial that the search chose: the first of the best; pruned if none is complete."""
    for state in ("complete", "pruned"):
        ended = trials[(trials["state"] == state) & trials["val_score"].notna()]
        if len(ended):
            best = ended.sort_values(["val_score", "trial"], ascending=[False, True]).iloc[0]
            return int(best["trial"])
    return None
