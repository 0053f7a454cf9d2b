"""Several train sets in scores, rankings, verdicts and on the page: never compared across."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmark.catalog.heads import HEADS
from benchmark.cluster.streaming import ReadRows
from benchmark.errors import UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.experiment.train_sets import PatchRows, TrainSet
from benchmark.frames import read_scores
from benchmark.stages.evaluate import EvaluateStage, comparison_table, labels_table, ranking_table
from benchmark.stages.evaluate.labels import about, describe_crossings, write_crossing
from benchmark.stages.finetune import FinetuneStage
from benchmark.stages.footprints import find_cell
from benchmark.stages.report.content import collect
from benchmark.stages.report.results import Results
from benchmark.stages.tune import TuneStage
from benchmark.stages.tune.shelf import find_picks
from benchmark.statistics.crossings import Crossing
from benchmark.tables import count_rows
from benchmark.training.feeds import SplitReader, read_samples
from tests.finetuned import draw_scores, learned, read_scored, score, write_finetuned, write_head

SETS = ["all", "30%", "10%", "2 shots"]
FROZEN = {"all": 0.7, "30%": 0.7, "10%": 0.7, "2 shots": 0.6}
TUNED = {"all": 1.0, "30%": 0.6, "10%": 0.3, "2 shots": 0.3}


def open_labels(open_context: Any, store: Path) -> Context:
    context: Context = open_context(
        store=store,
        backbones=[learned("net")],
        heads=[HEADS.get("knn"), HEADS.get("majority")],
        seeds=[0, 1],
        finetune={},
        protocol={"label_fractions": [0.1, 1.0, 0.3], "shots": [2]},
    )
    return context


def write_cells(context: Context, cells: Sequence[Cell]) -> None:
    for cell in cells:
        table = context.rows_of(cell).read_table(
            columns=["patch_id", "label"], splits=("val", "test")
        )
        ids, labels = table["patch_id"].to_numpy(), table["label"].to_numpy()
        accuracy = {"finetune": TUNED, "knn": FROZEN}.get(cell.method, dict.fromkeys(SETS, 0.2))
        share = accuracy.get(cell.train_set, 0.5)
        # With one seed a higher accuracy is right wherever a lower one is.
        scores = draw_scores(labels, 5, accuracy=share, seed=0)
        if cell.method == "finetune":
            write_finetuned(cell.artefact, ids, scores)
        else:
            write_head(cell.artefact, ids, scores, val_score=0.5)


@pytest.fixture(scope="module")
def scored(open_small_session: Any, new_store: Any) -> Context:
    context = open_labels(open_small_session, new_store())
    write_cells(context, context.prediction_cells())
    score(context)
    return context


def test_each_cell_of_the_grid_has_its_train_set_and_a_folder_of_its_own(scored: Context) -> None:
    cells = scored.prediction_cells()
    assert [item.name for item in scored.train_sets] == SETS
    assert len(cells) == 3 * 4 * 2 == len({cell.artefact.path for cell in cells})
    assert len({cell.label for cell in cells}) == len(cells)
    few = next(cell for cell in cells if cell.train_set == "10%" and cell.seed == 1)
    assert few.label == "net / knn / 10% / seed 1"
    assert few.artefact.name.endswith("-knn-10-percent-seed1")


def test_heads_and_fine_tuning_read_the_same_rows(scored: Context) -> None:
    cell = next(cell for cell in scored.prediction_cells() if cell.train_set == "30%")
    rows = scored.rows_of(cell)
    shape = (4, 32, 32)
    for role in ("train", "val"):
        wanted = rows.rows.ids[rows.roles == role].tolist()
        samples = read_samples(rows, shape, (role,))
        assert samples.ids.tolist() == wanted
        assert np.bincount(samples.labels, minlength=5).tolist() == list(rows.class_counts[role])
        # Another process streams or validates it.
        again = pickle.loads(pickle.dumps(rows))
        parts = [ReadRows(again, (role,))(name) for name in count_rows(again, (role,))]
        assert sorted(pa.concat_tables(parts)["patch_id"].to_pylist()) == wanted
        reader = SplitReader(again, shape, role, with_labels=False)
        assert sorted(np.concatenate([part.ids for part in reader])) == wanted
    picks = find_picks(rows)
    assert len(picks.train) == rows.num_train
    assert picks.ids_val.tolist() == wanted


def test_ranks_and_verdicts_are_made_within_each_train_set(scored: Context) -> None:
    ranking = read_scored(scored, "ranking")
    assert list(dict.fromkeys(ranking["train_set"])) == SETS
    for name, rows in ranking.groupby("train_set", sort=False):
        assert rows["rank"].tolist() == [1, 2, 3]
        assert rows["verdict"].tolist()[0] == "leader"
        assert rows["difference"].to_numpy() == pytest.approx(
            rows["value"].iloc[0] - rows["value"].to_numpy()
        )
        assert rows["method"].iloc[0] == ("finetune" if name == "all" else "knn")


def test_fine_tuned_and_frozen_are_compared_on_the_same_train_set(scored: Context) -> None:
    comparison = read_scored(scored, "comparison").set_index("train_set")
    assert comparison.index.tolist() == SETS
    ranking = read_scored(scored, "ranking").set_index(["train_set", "method"])["value"]
    for name, row in comparison.iterrows():
        assert row["gain"] == pytest.approx(ranking[name, "finetune"] - ranking[name, "knn"])


def test_val_shrinks_with_train_and_test_does_not(scored: Context) -> None:
    scores = read_scores(scored)
    sizes = scores.groupby(["train_set", "split"])["num_patches"].unique()
    for name in SETS:
        assert sizes[name, "test"].tolist() == [40]
    assert sizes["all", "val"].tolist() == [40]
    assert 5 <= sizes["10%", "val"][0] < sizes["30%", "val"][0] < 40
    described = {item["name"]: item for item in scored.scores().manifest()["train_sets"]}
    assert list(described) == SETS
    assert described["2 shots"]["num_train"] == 10
    assert described["10%"]["num_val"] == sizes["10%", "val"][0]
    artefacts = {cell.artefact.uri for cell in scored.prediction_cells()}
    assert set(scores["artefact"]) == artefacts


def test_what_is_printed_is_the_fullest_set_and_the_best_of_each(scored: Context) -> None:
    ranking, comparison, labels = (
        table(scored.scores()) for table in (ranking_table, comparison_table, labels_table)
    )
    assert ranking.title == "Balanced accuracy on test, trained on all"
    assert [row[2] for row in ranking.rows] == ["finetune", "knn", "majority (floor)"]
    assert len(comparison.rows) == 1
    assert [row[0] for row in labels.rows] == SETS
    assert [row[3] for row in labels.rows] == ["net / finetune"] + ["net / knn"] * 3
    assert any("overtakes the best frozen head from about" in note for note in labels.notes)


def test_the_page_keeps_its_headline_in_the_fullest_set(scored: Context) -> None:
    data = collect(Results(scored))
    assert data.train_set == "all"
    assert [(row.rank, row.method) for row in data.ranking] == [
        (1, "finetune"), (2, "knn"), (3, "majority"),
    ]  # fmt: skip
    assert len(data.gains) == 1
    sets, wide, full = data.labels
    assert [row[0] for row in sets.rows] == SETS
    assert wide.columns[2:] == tuple(SETS)
    assert len(full.rows) == 12
    assert len(data.crossings) == 2
    assert [item.title for item in data.pictures if item.section == "labels"] == [
        "Balanced accuracy over the share of the labels",
        "Balanced accuracy over the labels of each class",
    ]
    metrics = data.metrics[1]
    assert metrics.columns[:4] == ("backbone", "method", "train set", "seed")
    assert len(metrics.rows) == 24
    times = {table.title: table for table in data.timings}
    assert len(times["finetune"].rows) == 8
    assert times["tune"].columns[:4] == ("backbone", "head", "train set", "seed")


def test_a_partial_grid_makes_its_headline_in_the_fullest_set_that_it_has(
    open_small: Any, new_store: Any
) -> None:
    context = open_labels(open_small, new_store())
    write_cells(context, [c for c in context.prediction_cells() if c.train_set in ("30%", "10%")])
    (result,) = EvaluateStage().run(context).cells
    assert result.status == "complete", result.reason
    assert ranking_table(context.scores()).title.endswith("trained on 30%")
    assert [row[0] for row in labels_table(context.scores()).rows] == ["30%", "10%"]
    assert Results(context).train_set == "30%"


@dataclass(frozen=True)
class Odd:
    """Tests on other patches for every seed."""

    def __call__(self, rows: PatchRows, seed: int) -> Any:
        roles = rows.begin("train", "val", "test")
        roles[np.flatnonzero(rows.splits == "test")[seed]] = ""
        return roles


def test_seeds_that_test_on_other_patches_are_no_group(open_small: Any, new_store: Any) -> None:
    context = open_labels(open_small, new_store())
    context._train_sets = (TrainSet("odd", Odd()),)
    write_cells(context, context.prediction_cells())
    (result,) = EvaluateStage().run(context).cells
    assert result.reason == "train set 'odd': its test patches differ by seed"


def test_a_cell_of_another_set_is_named_with_it(scored: Context) -> None:
    found = find_cell(scored, "net/knn/10%/seed1")
    assert found is not None and found.train_set == "10%"
    plain = find_cell(scored, "net/knn")
    assert plain is not None and (plain.train_set, plain.seed) == ("all", 0)
    leader = find_cell(scored)
    assert leader is not None and (leader.train_set, leader.method) == ("all", "finetune")


def test_crossings_of_fractions_and_of_shots_are_two() -> None:
    sets = [
        {"name": "all", "kind": "all", "num_train": 1000},
        {"name": "10%", "kind": "fraction", "num_train": 100},
        {"name": "1 shot", "kind": "shots", "num_train": 5},
        {"name": "fold 1", "kind": "fold", "num_train": 800},
    ]
    gains = {"all": 0.1, "10%": -0.1, "1 shot": 0.1, "fold 1": -1.0}
    rows = [
        {"backbone": "net", "method": "finetune", "train_set": name, "gain": gain}
        | {"gain_low": gain - 0.05, "gain_high": gain + 0.05}
        for name, gain in gains.items()
    ]
    fraction, shots = describe_crossings(pa.Table.from_pylist(rows), sets)
    assert (fraction["curve"], shots["curve"]) == ("fraction", "shots")
    assert fraction["at"] == pytest.approx(10**2.5)
    assert (shots["at"], shots["low"], shots["high"]) == (0, 0, 0)
    assert describe_crossings(pa.Table.from_pylist(rows), sets[:1]) == []
    # Of several modes, each has its own.
    late = [{**row, "method": "finetune-lora", "gain": row["gain"] - 0.05} for row in rows[:2]]
    _, lora, _ = describe_crossings(pa.Table.from_pylist([*rows, *late]), sets)
    assert (lora["method"], lora["curve"]) == ("finetune-lora", "fraction")
    assert lora["at"] == pytest.approx(10**2.75)
    assert lora["sentence"].startswith("With net, fine-tuning (lora) overtakes")


@pytest.mark.parametrize(
    ("crossing", "expected"),
    [
        (Crossing(812, 496, 1431), "overtakes {} from about 810 labels on, [500, 1,400]."),
        (Crossing(812, 0, np.inf), "about 810 labels on, [less than 50, more than 11,135]."),
        (Crossing(*[np.inf] * 3), "does not overtake {} within the {}, 50 to 11,135 labels."),
        (Crossing(np.inf, 2000, np.inf), "11,135 labels; the data allow it from 2,000 on."),
        (Crossing(0, 0, 0), "is ahead of {} at all {}, from 50 labels on."),
        (Crossing(0, 0, 700), "from 50 labels on; detectably from 700 on."),
        (Crossing(0, 0, np.inf), "labels on; not detectably up to 11,135."),
    ],
)  # fmt: skip
def test_a_crossing_is_one_sentence(crossing: Crossing, expected: str) -> None:
    found = write_crossing("net", crossing, [50, 11135], "fractions")
    assert found.startswith("With net, fine-tuning ")
    assert found.endswith(expected.format("the best frozen head", "fractions tried"))


def test_labels_are_told_with_two_digits() -> None:
    assert [about(number) for number in (3.2, 55.4, 812, 11_135)] == ["3", "55", "810", "11,000"]


def test_labels_that_train_lacks_are_refused_before_images_are_read(
    open_small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_small(protocol={"shots": [3]})
    rows = [("train", 0), ("train", 0), ("train", 1), ("test", 0)]
    candidates = pa.table(
        {
            "patch_id": [str(n) for n in range(len(rows))],
            "split": [split for split, _ in rows],
            "label": pa.array([label for _, label in rows], pa.int32()),
            "scene": pa.nulls(len(rows), pa.string()),
            "region": pa.nulls(len(rows), pa.string()),
        }
    )
    monkeypatch.setattr(type(context.source), "candidates", candidates, raising=False)
    with pytest.raises(UsageError, match="shots: 3 of class 'tree_canopy', which has 1 patches"):
        TuneStage().check(context)


@pytest.mark.parametrize("stage", [TuneStage(), FinetuneStage()])
@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"label_fractions": [0.001]}, r"^small.toml \[protocol\]: label_fractions: 0.001 leaves"),
        ({"shots": [100]}, r"^small.toml \[protocol\]: shots: 100 of class '.*', which has"),
    ],
)
def test_labels_that_train_lacks_are_refused_before_anything_is_computed(
    open_small: Any, new_store: Any, stage: Any, protocol: dict[str, Any], message: str
) -> None:
    context = open_small(
        store=new_store(), backbones=[learned("net")], finetune={}, protocol=protocol
    )
    with pytest.raises(UsageError, match=message):
        stage.check(context)
    assert not list(Path(context.store.root).glob("tune/*"))
