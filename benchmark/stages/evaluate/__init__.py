"""``evaluate``: predictions and labels to confusion counts and scores with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.errors import BenchmarkError, one_line
from benchmark.experiment.cells import Cell, TextTable
from benchmark.experiment.context import Context
from benchmark.experiment.costs import COST_NOTE, find_costs, tabulate, wants_costs
from benchmark.methods import with_mode
from benchmark.stages.base import Stage
from benchmark.stages.pooling import fold_scores
from benchmark.store.artefacts import Artefact
from benchmark.store.names import beside


class EvaluateStage(Stage):
    """Turn predictions into scores."""

    name = "evaluate"
    is_handed_out = True

    def cells(self, context: Context) -> list[Cell]:
        """Return the only cell: the scores of all complete predictions."""
        return [Cell(stage=self.name, artefact=context.scores(), dataset=context.dataset.name)]

    def check(self, context: Context) -> None:
        """Refuse products that leave out patches where folds or regions are compared."""
        from benchmark.stages.evaluate.missing import check_protocol

        check_protocol(context)

    def compute(self, context: Context, cells: Sequence[Cell]) -> None:
        """Score every complete cell of the grid."""
        for cell in cells:
            progress = context.progress.stage(
                self.name, num_cells=1, num_items=None, unit="predictions"
            )
            progress.start(cell.label)
            try:
                from benchmark.stages.evaluate.pipeline import compute

                compute(context, cell.artefact, progress.advance)
                progress.done(cell.label)
            except (BenchmarkError, ValueError, OSError) as error:
                context.fail(cell.artefact, one_line(error))
                progress.failed(cell.label, one_line(error))
            finally:
                progress.close()

    def tables(self, context: Context) -> list[TextTable]:
        """Return the ranking, and the comparison of fine-tuned with frozen backbones."""
        artefact = context.scores()
        if not artefact.is_complete:
            return []
        makers = (ranking_table, comparison_table, labels_table, drops_table)
        tables = [*(make(artefact) for make in makers), folds_table(context), costs_table(context)]
        return [table for table in tables if table.rows]


def ranking_table(artefact: Artefact) -> TextTable:
    """Return the ranking as a table to print."""
    ranking = _of_headline(artefact, "ranking")
    rows = [
        [
            str(row["rank"]),
            str(row["backbone"]),
            str(row["method"]) + (" (floor)" if row["is_floor"] else ""),
            f"{row['value']:.3f}",
            f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]",
            "-" if row["rank"] == 1 else f"{100 * row['difference']:.1f}",
            "" if row["rank"] == 1 else row["verdict"],
        ]
        for row in ranking
    ]
    manifest = artefact.manifest()
    return TextTable(
        title="Balanced accuracy on test" + _trained_on(manifest, ranking),
        columns=("rank", "backbone", "method", "score", "interval", "points behind", ""),
        rows=rows,
        notes=(
            manifest["intervals"]["test"]["reason"],
            *manifest["limits"],
            *manifest["notes"],
        ),
    )


def comparison_table(artefact: Artefact) -> TextTable:
    """Return fine-tuned minus frozen as a table to print; empty if no backbone has both."""
    comparison = _of_headline(artefact, "comparison")
    rows = [
        [
            with_mode(row["backbone"], row["method"]),
            str(row["head"]),
            f"{100 * row['gain']:+.1f}",
            f"[{100 * row['gain_low']:.1f}, {100 * row['gain_high']:.1f}]",
            _times(row["ratio"]),
            row["verdict"],
        ]
        for row in comparison
    ]
    return TextTable(
        title="Fine-tuned against frozen, balanced accuracy on test",
        columns=("backbone", "head", "points", "interval", "times the device-seconds", "verdict"),
        rows=rows,
        notes=(
            "Points are fine-tuned minus frozen with the head that is best on val.",
            *(
                f"With {item['backbone']}, {item['sentence']}."
                for item in artefact.manifest().get("choices", [])
            ),
        ),
    )


def labels_table(artefact: Artefact) -> TextTable:
    """Return the best method of each train set as a table to print; empty if there is one set."""
    manifest = artefact.manifest()
    ranking = artefact.read_table(names=[beside("ranking")]).to_pylist()
    best = {row["train_set"]: row for row in ranking if row["rank"] == 1}
    sets = [
        item for item in manifest.get("train_sets", []) if item["kind"] not in ("regions", "fold")
    ]
    rows = [
        [
            item["name"],
            f"{item['num_train']:,}",
            f"{item['num_val']:,}",
            f"{best[item['name']]['backbone']} / {best[item['name']]['method']}",
            f"{best[item['name']]['value']:.3f}",
            f"[{best[item['name']]['ci_low']:.3f}, {best[item['name']]['ci_high']:.3f}]",
        ]
        for item in (sets if len(sets) > 1 else ())
    ]
    return TextTable(
        title="Best method of each train set, balanced accuracy on test",
        columns=("train set", "train labels", "val labels", "best method", "score", "interval"),
        rows=rows,
        notes=tuple(item["sentence"] for item in manifest.get("crossings", [])),
    )


def folds_table(context: Context) -> TextTable:
    """Return the spread over folds of each method as a table to print; empty without folds."""
    columns = ("backbone", "method", "all folds", "lowest", "highest", "deviation")
    title = "Balanced accuracy of each fold, mean over seeds"
    if context.experiment.protocol.cross_validation is None:
        return TextTable(title, columns, ())
    artefact = context.scores()
    found = fold_scores(artefact, "balanced_accuracy")
    rows = []
    for row in artefact.read_table(names=[beside("ranking")]).to_pylist():
        name = row["backbone"], row["method"]
        pooled, *folds = found.loc[name]
        numbers = (pooled, min(folds), max(folds), statistics.stdev(folds))
        method = f"{row['method']}{' (floor)' if row['is_floor'] else ''}"
        rows.append([row["backbone"], method, *(f"{number:.3f}" for number in numbers)])
    return TextTable(title, columns, rows)


def drops_table(artefact: Artefact) -> TextTable:
    """Return the drop out of region of each method as a table to print; empty if none was asked."""
    transfer = artefact.manifest().get("transfer")
    rows = artefact.read_table(names=[beside("drops")]).to_pylist() if transfer else []
    return TextTable(
        title="Drop out of the regions of train, balanced accuracy on test",
        columns=("backbone", "method", "within", "elsewhere", "points lost", "interval", "verdict"),
        rows=[
            [
                str(row["backbone"]),
                str(row["method"]) + (" (floor)" if row["is_floor"] else ""),
                f"{row['within']:.3f}",
                f"{row['elsewhere']:.3f}",
                f"{100 * row['drop']:.1f}",
                f"[{100 * row['drop_low']:.1f}, {100 * row['drop_high']:.1f}]",
                row["verdict"],
            ]
            for row in rows
        ],
        notes=tuple(filter(None, (transfer["sentence"], *transfer["notes"]))) if transfer else (),
    )


def costs_table(context: Context) -> TextTable:
    """Return what frozen and fine-tuned took as a table to print.

    It is empty where nothing is compared and no price is set.
    """
    columns, rows = tabulate(find_costs(context) if wants_costs(context) else [])
    return TextTable(
        title="Cost of one seed",
        columns=columns,
        rows=[list(map(_short, row)) for row in rows],
        notes=(COST_NOTE,),
    )


def _short(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,.{0 if value >= 100 else 3}f}"


def _trained_on(manifest: Mapping[str, Any], ranking: Sequence[Mapping[str, Any]]) -> str:
    return f", trained on {ranking[0]['train_set']}" if manifest.get("train_sets") else ""


def _of_headline(artefact: Artefact, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table that belong to the train set of the headline."""
    found, ranking = (
        artefact.read_table(names=[beside(item)]).to_pylist() for item in (name, "ranking")
    )
    headline = ranking[0]["train_set"]
    return [row for row in found if row["train_set"] == headline]


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
