"""Cross-validation in scores, rankings and on the page: all folds of a method, or no score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.catalog.heads import HEADS
from benchmark.errors import UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.frames import read_scores
from benchmark.stages.evaluate import EvaluateStage, folds_table, labels_table, ranking_table
from benchmark.stages.evaluate.comparison import read_costs
from benchmark.stages.finetune import FinetuneStage
from benchmark.stages.footprints import find_cell, read_footprints
from benchmark.stages.pooling import pooled_cells
from benchmark.stages.report.content import collect
from benchmark.stages.report.results import Results
from benchmark.stages.tune import TuneStage
from tests.finetuned import (
    draw_scores,
    learned,
    read_scored,
    score,
    write_embeddings,
    write_finetuned,
    write_head,
)

FOLDS = ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
SHARES = dict(zip(FOLDS, (0.9, 0.7, 0.5), strict=True))


def open_folds(open_context: Any, store: Path) -> Context:
    context: Context = open_context(
        store=store,
        backbones=[learned("net")],
        heads=[HEADS.get("knn"), HEADS.get("majority")],
        seeds=[0, 1],
        finetune={},
        protocol={"cross_validation": 3},
    )
    return context


def write_cells(context: Context, cells: Sequence[Cell]) -> None:
    for cell in cells:
        table = context.rows_of(cell).read_table(
            columns=["patch_id", "label"], splits=("val", "test")
        )
        ids, labels = table["patch_id"].to_numpy(), table["label"].to_numpy()
        share = {"finetune": 0.95, "knn": SHARES[cell.train_set]}.get(cell.method or "", 0.2)
        scores = draw_scores(labels, 5, accuracy=share, seed=cell.seed or 0)
        if cell.method == "finetune":
            write_finetuned(cell.artefact, ids, scores)
        else:
            write_head(cell.artefact, ids, scores, val_score=share)


@pytest.fixture(scope="module")
def scored(open_small_session: Any, new_store: Any) -> Context:
    context = open_folds(open_small_session, new_store())
    write_cells(context, context.prediction_cells())
    score(context)
    return context


def test_each_fold_is_a_cell_and_tests_other_patches(scored: Context) -> None:
    cells = scored.prediction_cells()
    assert len(cells) == 3 * 3 * 2 == len({cell.artefact.path for cell in cells})
    assert cells[0].label == "net / knn / fold 1 of 3 / seed 0"
    assert cells[0].artefact.name.endswith("-knn-fold-1-of-3-seed0")
    tested = [
        scored.rows_of(cell).read_table(columns=["patch_id"], splits=("test",))["patch_id"]
        for cell in cells
        if (cell.method, cell.seed) == ("knn", 0)
    ]
    ids = np.concatenate([item.to_numpy() for item in tested])
    assert sorted(ids) == scored.rows_of(cells[0]).rows.ids.tolist()


def test_pooled_predictions_are_scored_once_and_each_fold_beside_them(scored: Context) -> None:
    scores = read_scores(scored)
    rows = scores[(scores["method"] == "knn") & (scores["metric"] == "accuracy")]
    rows = rows[(rows["seed"] == 0) & (rows["split"] == "test")].set_index("train_set")
    assert rows.index.tolist() == ["3 folds", *FOLDS]
    num = scored.patches.manifest()["num_patches"]
    assert rows.loc["3 folds", "num_patches"] == num == rows.loc[FOLDS, "num_patches"].sum()
    mean = (rows.loc[FOLDS, "value"] * rows.loc[FOLDS, "num_patches"]).sum() / num
    assert rows.loc["3 folds", "value"] == pytest.approx(mean)
    assert rows.loc["3 folds", "ci_low"] < mean < rows.loc["3 folds", "ci_high"]
    assert set(scores[scores["split"] == "val"]["train_set"]) == set(FOLDS)


def test_methods_are_ranked_on_pooled_predictions_alone(scored: Context) -> None:
    ranking = read_scored(scored, "ranking")
    assert set(ranking["train_set"]) == {"3 folds"}
    assert ranking["method"].tolist() == ["finetune", "knn", "majority"]
    assert ranking["num_seeds"].tolist() == [2, 2, 2]
    (row,) = read_scored(scored, "comparison").to_dict("records")
    assert (row["train_set"], row["head"]) == ("3 folds", "knn")
    assert row["head_val_score"] == pytest.approx(0.7)
    assert row["finetuned_seconds"] == 3 * 380.0


def test_folds_share_one_embedding_in_their_cost(open_small: Any, new_store: Any) -> None:
    context = open_folds(open_small, new_store())
    write_embeddings(context, context.backbones[0], seconds=30.0)
    write_cells(context, context.prediction_cells())
    pools = pooled_cells(context, context.scores())
    costs = {(cell.method, cell.seed): cost for cell, cost in read_costs(context, pools).items()}
    assert costs["knn", 1].seconds == 30.0 + 3 * 2.0
    assert costs["knn", 1].val_score == pytest.approx(0.7)
    assert costs["finetune", 1].seconds == 3 * 380.0


def test_an_interval_of_folds_that_differ_is_wider(scored: Context) -> None:
    manifest = scored.scores().manifest()
    reason = manifest["intervals"]["test"]["reason"]
    assert "They are of 3 folds whose methods share training data" in reason
    assert any("replaces the splits of the data" in note for note in manifest["notes"])


def test_what_is_printed_says_the_protocol_and_the_spread(scored: Context) -> None:
    assert ranking_table(scored.scores()).title.endswith("trained on 3 folds")
    assert labels_table(scored.scores()).rows == []
    table = folds_table(scored)
    assert table.columns == ("backbone", "method", "all folds", "lowest", "highest", "deviation")
    assert [row[1] for row in table.rows] == ["finetune", "knn", "majority (floor)"]
    assert float(table.rows[1][3]) < float(table.rows[1][2]) < float(table.rows[1][4])


def test_the_page_shows_pooled_scores_and_each_fold(scored: Context) -> None:
    data = collect(Results(scored))
    assert data.train_set == "3 folds"
    assert [(row.rank, row.method) for row in data.ranking] == [
        (1, "finetune"), (2, "knn"), (3, "majority"),
    ]  # fmt: skip
    assert data.ranking[0].seconds == 3 * 380.0
    assert data.labels == ()
    sizes, wide = data.folds
    assert [row[0] for row in sizes.rows] == FOLDS
    assert wide.columns[2:] == ("3 folds", *FOLDS, "std of folds")
    assert len(wide.rows) == 3
    assert len(data.comparisons) == 1
    titles = [item.title for item in data.pictures if item.section == "training"]
    assert "Learning curves of fine-tuning, fold 1 of 3" in titles


def test_a_method_that_lacks_a_fold_has_no_pooled_score(open_small: Any, new_store: Any) -> None:
    context = open_folds(open_small, new_store())
    left_out = [("knn", "fold 2 of 3", 0), ("knn", "fold 3 of 3", 0), ("majority", FOLDS[0], 1)]
    write_cells(
        context,
        [
            cell
            for cell in context.prediction_cells()
            if (cell.method, cell.train_set, cell.seed) not in left_out
        ],
    )
    (result,) = EvaluateStage().run(context).cells
    assert result.status == "complete", result.reason
    notes = context.scores().manifest()["notes"]
    assert any(
        note.startswith("net / knn / seed 0 has no score: folds 2, 3 of 3 are missing (tune is")
        for note in notes
    )
    assert any("net / majority / seed 1 has no score: fold 1 of 3 is missing" in n for n in notes)
    ranking = read_scored(context, "ranking").set_index("method")["num_seeds"]
    assert ranking.to_dict() == {"finetune": 2, "knn": 1, "majority": 1}
    assert len(collect(Results(context)).ranking) == 3


def test_without_a_complete_method_there_is_no_score(open_small: Any, new_store: Any) -> None:
    context = open_folds(open_small, new_store())
    write_cells(context, [c for c in context.prediction_cells() if c.train_set != FOLDS[1]])
    (result,) = EvaluateStage().run(context).cells
    assert result.status == "failed"
    assert result.reason.startswith("no method is complete on all folds: net / knn / seed 0 has")


def test_footprints_show_every_patch_or_those_of_a_named_fold(scored: Context) -> None:
    leader = find_cell(scored)
    assert leader is not None and (leader.train_set, leader.method) == ("3 folds", "finetune")
    frame = read_footprints(scored, leader)
    assert frame["cell"].iloc[0] == "net/finetune/3 folds/seed0"
    assert set(frame["split"]) == {"test"} and frame["is_error"].notna().all()
    named = find_cell(scored, "net/knn/fold 2 of 3/seed1")
    assert named is not None
    frame = read_footprints(scored, named)
    assert frame.loc[frame["split"] == "train", "is_error"].isna().all()
    tested = frame[frame["split"] == "test"]
    assert tested["is_error"].notna().all() and 0 < len(tested) < len(frame) / 2
    plain = find_cell(scored, "net/knn")
    assert plain is not None and plain.train_set == "3 folds"


@pytest.mark.parametrize("stage", [TuneStage(), FinetuneStage()])
def test_folds_that_lack_a_class_are_refused_before_anything_is_computed(
    open_small: Any, new_store: Any, stage: Any
) -> None:
    context = open_small(
        store=new_store(),
        backbones=[learned("net")],
        finetune={},
        protocol={"cross_validation": 20},
    )
    with pytest.raises(UsageError, match=r"^small.toml \[protocol\]: cross_validation: 20 folds"):
        stage.check(context)
    assert not list(Path(context.store.root).glob("tune/*"))
