from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.stages.evaluate import EvaluateStage
from benchmark.store.names import beside
from benchmark.tables import CONFUSION, SCORES, check_table, images_column, patches_schema

CLASSES = 5


def write_patches(context, *, num_patches=400, scenes=20, seed=0):
    """Write the patches artefact directly: only labels and scenes matter here."""
    rng = np.random.default_rng(seed)
    ids = [f"p{i:05d}" for i in range(num_patches)]
    split = rng.choice(["train", "val", "test"], num_patches, p=[0.2, 0.3, 0.5])
    scene = [f"{s}-{rng.integers(scenes)}" if scenes else None for s in split]
    labels = rng.integers(0, CLASSES, num_patches)
    table = pa.table(
        {
            "patch_id": ids,
            "split": split,
            "label": pa.array(labels, pa.int32()),
            "scene": pa.array(scene, pa.string()),
            "region": pa.array(split, pa.string()),
            "row": pa.array(np.zeros(num_patches), pa.int32()),
            "col": pa.array(np.zeros(num_patches), pa.int32()),
            "lon": np.zeros(num_patches),
            "lat": np.zeros(num_patches),
            "purity": pa.array(np.ones(num_patches), pa.float32()),
            "image": images_column(np.zeros((num_patches, 1, 8, 8), np.uint8)),
        }
    )
    context.patches.write_table(
        "part-000000.parquet", check_table(table, patches_schema(1, 8), what="toy patches")
    )
    context.patches.commit({"num_patches": num_patches})
    return np.array(ids), split, labels


def write_predictions(context, ids, split, labels, *, head, accuracy, seed=0, drop=0):
    rng = np.random.default_rng([seed, int(accuracy * 100)])
    scores = rng.dirichlet(np.ones(CLASSES), len(ids)).astype(np.float32)
    right = rng.random(len(ids)) < accuracy
    scores[right, labels[right]] += 2
    scores /= scores.sum(axis=1, keepdims=True)
    rows = np.flatnonzero(split != "train")[drop:]
    artefact = context.predictions(BACKBONES.get("mean_color"), HEADS.get(head), seed)
    artefact.write_table(
        "part-000000.parquet",
        pa.table(
            {
                "patch_id": ids[rows],
                "y_pred": pa.array(scores[rows].argmax(axis=1), pa.int32()),
                "y_score": pa.FixedSizeListArray.from_arrays(
                    pa.array(scores[rows].reshape(-1)), CLASSES
                ),
            }
        ),
    )
    artefact.commit({"head": head})
    return scores


@pytest.fixture
def scored(open_small):
    context = open_small(seeds=[0, 1], heads=[HEADS.get("knn"), HEADS.get("mlp")])
    data = write_patches(context)
    scores = {
        (head, seed): write_predictions(context, *data, head=head, accuracy=accuracy, seed=seed)
        for head, accuracy in (("knn", 0.9), ("mlp", 0.4))
        for seed in (0, 1)
    }
    result = EvaluateStage().run(context)
    assert result.cells[0].status == "complete", result.cells[0].reason
    return context, data, scores, result


def test_scores_equal_scikit_learns(scored):
    from sklearn.metrics import balanced_accuracy_score, f1_score

    context, (_, split, labels), scores, _ = scored
    table = check_table(
        context.scores().read_table(names=["scores.parquet"]), SCORES, what="scores"
    ).to_pandas()
    rows = split == "test"
    predicted = scores["mlp", 1][rows].argmax(axis=1)
    found = table[
        (table["method"] == "mlp") & (table["seed"] == 1) & (table["split"] == "test")
    ].set_index("metric")
    assert found.loc["balanced_accuracy", "value"] == pytest.approx(
        balanced_accuracy_score(labels[rows], predicted)
    )
    assert found.loc["macro_f1", "value"] == pytest.approx(
        f1_score(labels[rows], predicted, average="macro")
    )
    assert set(found["num_patches"]) == {int(rows.sum())}
    per_class = [name for name in found.index if name.startswith("recall/")]
    assert len(per_class) == CLASSES
    assert {name.split("/")[0] for name in found.index} == set(METRICS.names())
    assert (found["ci_low"] <= found["value"]).all()
    assert (found["value"] <= found["ci_high"]).all()


def test_confusion_counts_and_csv_agree(scored):
    import pandas as pd

    context, (_, split, labels), scores, _ = scored
    confusion = check_table(
        context.scores().read_table(names=[beside("confusion")]), CONFUSION, what="confusion"
    ).to_pandas()
    row = confusion[
        (confusion["method"] == "knn") & (confusion["seed"] == 0) & (confusion["split"] == "val")
    ].iloc[0]
    counts = np.array([list(line) for line in row["counts"]])
    rows = split == "val"
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (labels[rows], scores["knn", 0][rows].argmax(axis=1)), 1)
    np.testing.assert_array_equal(counts, expected)
    csv = pd.read_csv(Path(context.scores().path) / "_scores.csv")
    assert list(csv.columns) == SCORES.names


def test_the_ranking_is_paired_and_keeps_the_two_uncertainties_apart(scored):
    context, _, _, result = scored
    ranking = context.scores().read_table(names=[beside("ranking")]).to_pandas()
    assert ranking["method"].tolist() == ["knn", "mlp"]
    assert ranking["num_seeds"].tolist() == [2, 2]
    assert (ranking["seed_std"] > 0).all()
    behind = ranking.iloc[1]
    assert behind["difference"] == pytest.approx(
        ranking["value"].iloc[0] - ranking["value"].iloc[1]
    )
    assert 0 < behind["difference_low"] < behind["difference"] < behind["difference_high"]
    assert not behind["is_tie"]
    assert behind["p_value"] == pytest.approx(1e-4)
    assert ranking["verdict"].tolist() == ["leader", "behind"]
    # Both uncertainties together are wider than that of the test set alone.
    assert (ranking["expected_low"] < ranking["ci_low"]).all()
    assert (ranking["expected_high"] >= ranking["ci_high"]).all()
    assert [row[2] for row in result.tables[0].rows] == ["knn (floor)", "mlp (floor)"]


def test_intervals_resample_scenes_where_there_are_some(scored):
    context, *_ = scored
    intervals = context.scores().manifest()["intervals"]
    assert intervals["test"]["kind"] == "scene"
    assert "20 scenes" in intervals["test"]["reason"]


def test_without_scenes_intervals_fall_back_and_say_so(open_small):
    context = open_small(heads=[HEADS.get("knn")])
    data = write_patches(context, scenes=0)
    write_predictions(context, *data, head="knn", accuracy=0.7)
    assert EvaluateStage().run(context).cells[0].status == "complete"
    interval = context.scores().manifest()["intervals"]["test"]
    assert interval["kind"] == "patch"
    assert "for independent, because the scene of" in interval["reason"]


def test_missing_predictions_of_a_patch_fail_by_name(open_small):
    context = open_small(heads=[HEADS.get("knn")])
    data = write_patches(context)
    write_predictions(context, *data, head="knn", accuracy=0.7, drop=1)
    (item,) = EvaluateStage().run(context).cells
    assert item.status == "failed"
    assert "lacks" in item.reason and "split '" in item.reason


def test_nothing_to_score_says_what_to_run(open_small):
    context = open_small()
    write_patches(context)
    (item,) = EvaluateStage().run(context).cells
    assert item.status == "failed"
    assert "run `benchmark tune` first" in item.reason


def test_a_partial_grid_is_scored_and_a_fuller_one_again(open_small):
    context = open_small(heads=[HEADS.get("knn"), HEADS.get("mlp")])
    data = write_patches(context)
    write_predictions(context, *data, head="knn", accuracy=0.7)
    EvaluateStage().run(context)
    first = context.scores()
    assert first.manifest()["num_cells"] == 1
    write_predictions(context, *data, head="mlp", accuracy=0.8)
    assert context.scores().fingerprint != first.fingerprint
    EvaluateStage().run(context)
    assert context.scores().manifest()["num_cells"] == 2


def test_chance_level_scores_are_flagged(open_small):
    context = open_small(heads=[HEADS.get("knn")])
    data = write_patches(context)
    write_predictions(context, *data, head="knn", accuracy=0.0)
    EvaluateStage().run(context)
    notes = context.scores().manifest()["notes"]
    # mean_color is a floor: a score at chance needs no note.
    assert notes == []
    from dataclasses import replace

    learned = replace(BACKBONES.get("mean_color"), is_floor=False)
    again = open_small(backbones=[learned], heads=[HEADS.get("knn")], evaluate={"seed": 1})
    EvaluateStage().run(again)
    assert (
        "mean_color / knn is not detectably above chance" in again.scores().manifest()["notes"][0]
    )


def test_a_handful_of_test_patches_tells_nothing_and_no_interval_has_no_width(open_small):
    """One method is right on all patches of test, the other one guesses."""
    context = open_small(heads=[HEADS.get("knn"), HEADS.get("mlp")])
    data = write_patches(context, num_patches=11, scenes=0, seed=5)
    assert 2 <= (data[1] == "test").sum() <= 5
    write_predictions(context, *data, head="knn", accuracy=1.0)
    write_predictions(context, *data, head="mlp", accuracy=0.0)
    assert EvaluateStage().run(context).cells[0].status == "complete"
    ranking = context.scores().read_table(names=[beside("ranking")]).to_pandas()
    assert ranking["verdict"].tolist() == ["leader", "too little data to tell"]
    assert (ranking["difference_low"][1], ranking["difference_high"][1]) == (-1.0, 1.0)
    assert (ranking["ci_low"] < ranking["ci_high"]).all()
    table = context.scores().read_table(names=["scores.parquet"]).to_pandas()
    known = table[table["value"].notna()]
    assert (known["ci_high"] - known["ci_low"] > 0.05).all()
    limits = context.scores().manifest()["limits"]
    assert sum("rest on 1 test patch each." in limit for limit in limits) == 1
    assert "One seed: the spread of training is unknown." in limits
