"""Fine-tuned against frozen: paired, chosen on val, in plain words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.config import EvaluateConfig
from benchmark.experiment.cells import Cell
from benchmark.methods import is_finetuned
from benchmark.stages.evaluate import EvaluateStage
from benchmark.stages.evaluate.comparison import (
    Cost,
    Group,
    compare,
    cost_words,
    unlike_devices,
    write_sentence,
)
from benchmark.stages.evaluate.schemas import COMPARISON
from benchmark.statistics.design import find_design
from benchmark.statistics.intervals import Interval
from benchmark.store.names import beside
from benchmark.tables import check_table
from tests.finetuned import draw_scores, learned, write_embeddings, write_finetuned, write_head
from tests.stages.test_evaluate import CLASSES, write_patches


def open_grid(open_small, *, names=("one",), heads=("knn", "mlp"), seeds=(0,), backbones=None):
    """Return a context whose backbones are all fine-tuned, and its patches."""
    context = open_small(
        seeds=list(seeds),
        backbones=backbones or [learned(name) for name in names],
        heads=[HEADS.get(name) for name in heads],
        finetune={"backbones": [item.name for item in backbones or ()] or list(names)},
    )
    return context, write_patches(context)


def scored_rows(split):
    return np.flatnonzero(split != "train")


def add_head(context, data, name, *, accuracy, val_score, seed=0, backbone=0, seconds=2.0):
    ids, split, labels = data
    rows = scored_rows(split)
    artefact = context.predictions(context.backbones[backbone], HEADS.get(name), seed)
    scores = draw_scores(labels[rows], CLASSES, accuracy=accuracy, seed=hash_of(name, seed))
    write_head(artefact, ids[rows], scores, val_score=val_score, seconds=seconds)
    return scores


def add_finetuned(context, data, scores, *, seed=0, backbone=0, **settings):
    ids, split, _ = data
    artefact = context.finetuned(context.backbones[backbone], seed)
    write_finetuned(artefact, ids[scored_rows(split)], scores, **settings)


def hash_of(name, seed):
    return sum(name.encode()) + 1000 * seed


def draw(data, *, accuracy, seed=99):
    _, split, labels = data
    return draw_scores(labels[scored_rows(split)], CLASSES, accuracy=accuracy, seed=seed)


def run(context):
    result = EvaluateStage().run(context)
    assert result.cells[0].status == "complete", result.cells[0].reason
    table = context.scores().read_table(names=[beside("comparison")])
    return check_table(table, COMPARISON, what="comparison").to_pylist(), result


def test_a_better_one_gains_and_the_interval_is_above_zero(open_small):
    context, data = open_grid(open_small)
    write_embeddings(context, context.backbones[0], seconds=8.0)
    add_head(context, data, "knn", accuracy=0.5, val_score=0.5)
    add_finetuned(context, data, draw(data, accuracy=0.95), seconds=380.0)
    (row,), result = run(context)
    assert (row["backbone"], row["head"]) == ("one", "knn")
    assert 0 < row["gain_low"] < row["gain"] < row["gain_high"]
    assert row["gain"] == pytest.approx(row["finetuned_value"] - row["frozen_value"])
    assert row["is_detectable"]
    assert row["p_value"] <= 1e-4
    # Embeddings of 8 s and a search of 2 s, against 380 s.
    assert row["frozen_seconds"] == pytest.approx(10.0)
    assert row["ratio"] == pytest.approx(38.0)
    points = 100 * row["gain"]
    assert row["sentence"].startswith(f"fine-tuning gains {points:.1f} points [")
    assert row["sentence"].endswith("] for 38 times the device-seconds")
    assert [table.title.split(",")[0] for table in result.tables] == [
        "Balanced accuracy on test",
        "Fine-tuned against frozen",
        "Cost of one seed",
    ]
    assert result.tables[1].rows[0][-2:] == ["38", "gains"]


def test_the_gain_is_that_of_the_ranking_and_its_resamples(open_small):
    context, data = open_grid(open_small, seeds=(0, 1), heads=("knn",))
    for seed in (0, 1):
        add_head(context, data, "knn", accuracy=0.6, val_score=0.6, seed=seed)
        add_finetuned(context, data, draw(data, accuracy=0.8, seed=seed), seed=seed)
    (row,), _ = run(context)
    ranking = context.scores().read_table(names=[beside("ranking")]).to_pandas()
    behind = ranking.set_index("method").loc["knn"]
    assert ranking["method"].tolist() == ["finetune", "knn"]
    assert row["gain"] == pytest.approx(behind["difference"])
    assert row["gain_low"] == pytest.approx(behind["difference_low"])
    assert row["gain_high"] == pytest.approx(behind["difference_high"])
    assert row["p_value"] == pytest.approx(behind["p_value"])
    assert (row["frozen_seeds"], row["finetuned_seeds"]) == (2, 2)


def test_identical_predictions_make_no_detectable_difference(open_small):
    context, data = open_grid(open_small)
    scores = add_head(context, data, "knn", accuracy=0.7, val_score=0.7)
    add_finetuned(context, data, scores)
    (row,), result = run(context)
    assert row["gain"] == 0.0
    # Scenes that were not seen might differ.
    assert row["gain_low"] == -row["gain_high"] < 0.0
    assert not row["is_detectable"]
    assert row["p_value"] == 1.0
    # There are no embeddings here, so their time is unknown.
    assert row["ratio"] is None
    words = "fine-tuning makes no detectable difference (0.0 points [-10.8, 10.8])"
    assert row["sentence"] == words
    assert result.tables[1].rows[0][-2:] == ["-", "no detectable difference"]
    (note,) = context.scores().manifest()["notes"]
    assert "one / finetune / seed 0 and one / knn / seed 0 give identical scores" in note


def test_the_head_is_chosen_on_val_and_not_on_test(open_small):
    context, data = open_grid(open_small, seeds=(0, 1), heads=("knn", "mlp", "majority"))
    for seed in (0, 1):
        # On test knn is much better; on val mlp is, in the mean over seeds.
        add_head(context, data, "knn", accuracy=0.9, val_score=0.70 + 0.05 * seed, seed=seed)
        add_head(context, data, "mlp", accuracy=0.5, val_score=0.74, seed=seed)
        add_head(context, data, "majority", accuracy=0.95, val_score=0.99, seed=seed)
        add_finetuned(context, data, draw(data, accuracy=0.7, seed=seed), seed=seed)
    (row,), _ = run(context)
    assert row["head"] == "mlp"
    assert row["head_val_score"] == pytest.approx(0.74)
    assert row["gain"] > 0


def test_a_backbone_without_one_of_the_two_is_not_compared(open_small):
    context, data = open_grid(open_small, names=("one", "two", "three"))
    add_head(context, data, "knn", accuracy=0.6, val_score=0.6, backbone=0)
    add_finetuned(context, data, draw(data, accuracy=0.8), backbone=1)
    rows, result = run(context)
    assert rows == []
    titles = [table.title for table in result.tables]
    assert titles == ["Balanced accuracy on test", "Cost of one seed"]


def test_only_floors_are_no_frozen_side(open_small):
    context, data = open_grid(open_small, heads=("majority",))
    add_head(context, data, "majority", accuracy=0.2, val_score=0.2)
    add_finetuned(context, data, draw(data, accuracy=0.8))
    assert run(context)[0] == []


def test_a_floor_that_was_fine_tuned_is_a_floor_no_more(open_small):
    context, data = open_grid(open_small, backbones=[BACKBONES.get("random")], heads=("knn",))
    add_head(context, data, "knn", accuracy=0.5, val_score=0.5)
    add_finetuned(context, data, draw(data, accuracy=0.1))
    (row,), _ = run(context)
    assert not row["is_detectable"] or row["gain"] < 0
    ranking = context.scores().read_table(names=[beside("ranking")]).to_pandas()
    assert dict(zip(ranking["method"], ranking["is_floor"], strict=True)) == {
        "knn": True,
        "finetune": False,
    }
    (note,) = context.scores().manifest()["notes"]
    assert note.startswith("random / finetune is not detectably above chance")


def test_fine_tunings_that_ignore_the_seed_are_flagged(open_small):
    context, data = open_grid(open_small, seeds=(0, 1))
    scores = draw(data, accuracy=0.8)
    for seed in (0, 1):
        add_finetuned(context, data, scores, seed=seed)
    run(context)
    (note,) = context.scores().manifest()["notes"]
    assert "one / finetune / seed 1 and one / finetune / seed 0 give identical" in note


def test_unlike_devices_are_named(open_small):
    context, data = open_grid(open_small)
    write_embeddings(context, context.backbones[0], seconds=8.0)
    add_head(context, data, "knn", accuracy=0.7, val_score=0.7)
    add_finetuned(context, data, draw(data, accuracy=0.8), device="NVIDIA H100")
    run(context)
    (note,) = context.scores().manifest()["notes"]
    assert note.startswith("one: fine-tuning ran on NVIDIA H100, its embeddings on cpu")


@pytest.mark.parametrize(
    ("frozen", "tuned", "num_notes"),
    [("cuda", "NVIDIA H100", 0), ("cpu", "cpu", 0), ("cuda", "cpu", 1), (None, "cpu", 0)],
)
def test_a_gpu_is_a_gpu_by_any_name(frozen, tuned, num_notes):
    row = {
        "backbone": "a",
        "method": "finetune",
        "frozen_device": frozen,
        "finetuned_device": tuned,
    }
    assert len(unlike_devices(pa.Table.from_pylist([row]))) == num_notes


def toy_group(backbone, method, right, store):
    """Return a group whose seeds are right where ``right`` (seeds, N) says."""
    cells = tuple(
        Cell(
            stage="finetune" if is_finetuned(method) else "tune",
            artefact=store.artefact("tune", f"{backbone}-{method}-{seed}", "0"),
            dataset="toy",
            backbone=backbone,
            method=method,
            seed=seed,
        )
        for seed in range(len(right))
    )
    right = np.asarray(right, float)
    values = right.mean(axis=1)
    return Group(cells, values, Interval(0.0, 1.0), right.mean(axis=0))


def test_the_mean_over_seeds_is_compared_and_the_rows_are_corrected(open_small):
    from scipy.stats import binomtest

    store = open_small().store
    num = 40
    wrong = np.zeros(num)
    some, few = np.arange(num) < 10, np.arange(num) < 3
    groups = [
        toy_group("a", "knn", [wrong, wrong], store),
        toy_group("a", "finetune", [some, some, some], store),
        toy_group("b", "knn", [few], store),
        toy_group("b", "finetune", [wrong], store),
        toy_group("c", "knn", [few], store),
        toy_group("c", "finetune", [few], store),
    ]
    costs = {cell: Cost(0.5, 1.0, "cpu") for group in groups for cell in group.cells}
    design = find_design(np.zeros(num, int), None)
    rows = compare(
        groups, design=design, costs=costs, floors=set(), settings=EvaluateConfig(confidence=0.9)
    ).to_pylist()
    assert [row["backbone"] for row in rows] == ["a", "b", "c"]
    assert [row["verdict"] for row in rows] == ["gains", *["no detectable difference"] * 2]
    # Ten of ten patches that differ, and three of three, each doubled at most by the other.
    alone = [binomtest(n, n).pvalue for n in (10, 3)]
    assert alone[0] <= rows[0]["p_value"] <= 2 * alone[0] + alone[1] / 8
    assert rows[1]["p_value"] >= alone[1]
    assert rows[2]["p_value"] == 1.0
    for row in rows:
        assert row["is_detectable"] == (row["gain_low"] > 0 or row["gain_high"] < 0)
        assert row["gain_low"] < row["gain_high"]
    assert rows[0]["sentence"].startswith("fine-tuning gains 25.0 points [")


def test_with_five_scenes_nothing_is_told(open_small):
    store = open_small().store
    groups = [
        toy_group("a", "knn", [np.zeros(20)], store),
        toy_group("a", "finetune", [np.ones(20)], store),
    ]
    costs = {cell: Cost(0.5, 1.0, "cpu") for group in groups for cell in group.cells}
    for num_scenes, verdict in ((5, "too little data to tell"), (6, "gains")):
        design = find_design(np.arange(20) % 2, np.arange(20) % num_scenes)
        (row,) = compare(
            groups, design=design, costs=costs, floors=set(), settings=EvaluateConfig()
        ).to_pylist()
        assert row["verdict"] == verdict
    assert row["p_value"] == pytest.approx(1 / 32)


def test_an_empty_comparison_has_the_schema():
    design = find_design([0, 1], None)
    table = compare([], design=design, costs={}, floors=set(), settings=EvaluateConfig())
    assert table.schema == COMPARISON
    assert isinstance(table, pa.Table) and table.num_rows == 0


@pytest.mark.parametrize(
    ("gain", "low", "high", "ratio", "sentence"),
    [
        (0.041, 0.020, 0.063, 38.2, "gains 4.1 points [2.0, 6.3] for 38 times the device-seconds"),
        (-0.03, -0.05, -0.01, 1.52, "loses 3.0 points [1.0, 5.0] at 1.5 times the device-seconds"),
        (0.03, 0.01, 0.05, 0.4, "gains 3.0 points [1.0, 5.0] for 40 % of the device-seconds"),
        (0.03, 0.01, 0.05, 0.002, "gains 3.0 points [1.0, 5.0] for less than 1 % of the device-"),
        (0.03, 0.01, 0.05, 1.02, "gains 3.0 points [1.0, 5.0] for about the same device-seconds"),
        (0.03, 0.01, 0.05, None, "gains 3.0 points [1.0, 5.0]"),
        # Rounded to one decimal it would look as if it began at zero.
        (0.01, 0.0002, 0.02, None, "gains 1.00 points [0.02, 2.00]"),
        (-0.01, -0.02, -0.0002, None, "loses 1.00 points [0.02, 2.00]"),
        (
            0.004, -0.010, 0.018, 38.0,
            "makes no detectable difference (+0.4 points [-1.0, 1.8]) at 38 times the",
        ),
        (-0.0001, -0.01, 0.01, 2.0, "makes no detectable difference (0.0 points [-1.0, 1.0])"),
        (0.01, 0.0, 0.02, None, "makes no detectable difference (+1.0 points [0.0, 2.0])"),
    ],
)  # fmt: skip
def test_sentences(gain, low, high, ratio, sentence):
    verdict = sentence.split()[0] if sentence[0] != "m" else "no detectable difference"
    assert write_sentence(gain, low, high, ratio, verdict).startswith(f"fine-tuning {sentence}")


def test_too_little_data_is_a_sentence():
    text = write_sentence(0.05, -1.0, 1.0, 2.0, "too little data to tell")
    assert text == (
        "there is too little data to tell what fine-tuning changes (+5.0 points) at 2.0 times the "
        "device-seconds"
    )


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(12_345.6, "12,346 times"), (9.96, "10 times"), (9.94, "9.9 times"), (0.949, "95 % of")],
)
def test_costs_in_words(ratio, words):
    assert cost_words(ratio) == f"{words} the device-seconds"


def test_each_mode_is_a_row_and_all_rows_are_corrected_together(open_small):
    store = open_small().store
    groups = [
        toy_group("a", "knn", [np.zeros(40)], store),
        toy_group("a", "finetune-lora", [np.arange(40) < 6], store),
        toy_group("a", "finetune-full", [np.arange(40) >= 34], store),
    ]
    costs = {
        cell: Cost(0.5, 30.0 if group.method == "finetune-full" else 10.0, "cpu")
        for group in groups
        for cell in group.cells
    }
    design = find_design(np.zeros(40, int), None)
    given = {"design": design, "costs": costs, "floors": set(), "settings": EvaluateConfig()}
    (alone,) = compare(groups[:2], **given).to_pylist()
    assert (alone["verdict"], alone["p_value"]) == ("gains", pytest.approx(1 / 32))
    lora, full = compare(groups, **given).to_pylist()
    assert [lora["method"], full["method"]] == ["finetune-lora", "finetune-full"]
    assert (lora["head"], full["head"]) == ("knn", "knn")
    assert (lora["ratio"], full["ratio"]) == (1.0, 3.0)
    # Six of six patches that differ, in one of two rows.
    assert 0.05 < lora["p_value"] < 2 / 32
    assert lora["verdict"] == full["verdict"] == "no detectable difference"
    assert full["sentence"].startswith("fine-tuning (full) makes no detectable difference (+15.0")
    assert full["sentence"].endswith("at 3.0 times the device-seconds")


def test_of_a_mode_that_ran_elsewhere_the_note_names_the_mode():
    row = {"backbone": "a", "method": "finetune-lora", "frozen_device": "cpu"}
    (note,) = unlike_devices(pa.Table.from_pylist([row | {"finetuned_device": "cuda"}]))
    assert note.startswith("a: fine-tuning (lora) ran on cuda, its embeddings on cpu;")
