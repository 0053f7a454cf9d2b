"""Transfer: the same test patches for every train set, drops between them, and the page."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.config import EvaluateConfig
from benchmark.errors import UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.stages.evaluate import EvaluateStage, drops_table
from benchmark.stages.evaluate.comparison import Group
from benchmark.stages.evaluate.schemas import TRANSFER
from benchmark.stages.evaluate.transfer import (
    Region,
    mean_drops,
    transfer_table,
    write_sentence,
)
from benchmark.stages.report.content import collect
from benchmark.stages.report.results import Results
from benchmark.stages.running import run_stages
from benchmark.stages.tune import TuneStage
from benchmark.statistics.design import find_design
from benchmark.statistics.intervals import Interval
from benchmark.store.names import beside
from benchmark.tables import check_table
from tests.finetuned import draw_scores, learned, read_scored, score, write_finetuned, write_head
from tests.scenes import write_scenes
from tests.toys import toy

REGIONS = ["delaware", "maryland", "new_york", "pennsylvania", "virginia", "west_virginia"]
LOSES = {"strong": 0.1, "weak": 0.5}
"""What the heads of the two backbones lose out of region."""


def divide_scenes(context: Context) -> None:
    """Make eight scenes of the two of each region, by the rows of the windows."""
    artefact = context.patches
    for name in artefact.files("part-"):
        table = artefact.read_table(names=[name])
        band = pc.cast(pc.divide(table["row"], 64), pa.string())
        scene = pc.binary_join_element_wise(table["scene"], band, "-")
        place = table.column_names.index("scene")
        field = table.schema.field(place)
        artefact.write_table(name, table.set_column(place, field, scene))
    artefact.commit(artefact.manifest())


def write_cells(context: Context) -> None:
    for number, cell in enumerate(context.prediction_cells()):
        rows = context.rows_of(cell)
        table = rows.read_table(columns=["patch_id", "label", "region"], splits=("val", "test"))
        ids, labels = table["patch_id"].to_numpy(), table["label"].to_numpy()
        rule = rows.train_set.rule
        trained = np.isin(table["region"].to_pylist(), rule.train if rule else REGIONS)
        loss = 0.0 if cell.method == "finetune" else LOSES[cell.backbone]
        accuracy = np.where(trained, 0.9, 0.9 - loss)
        if cell.method == "majority":
            accuracy = np.full(len(ids), 0.2)
        scores = draw_scores(labels, 5, accuracy=accuracy, seed=number)
        if cell.method == "finetune":
            write_finetuned(cell.artefact, ids, scores)
        else:
            write_head(cell.artefact, ids, scores, val_score=0.9 if cell.method == "knn" else 0.5)


@pytest.fixture(scope="module")
def divided(open_small_session: Any, new_store: Any) -> Any:
    """Open contexts on one store of patches with eight scenes in each of six regions."""
    store = new_store()
    divide_scenes(open_small_session(store=store))

    def open_context(transfer: Any, **settings: Any) -> Context:
        protocol = {"transfer": transfer, **settings.pop("protocol", {})}
        context: Context = open_small_session(store=store, protocol=protocol, **settings)
        return context

    return open_context


@pytest.fixture(scope="module")
def scored(divided: Any) -> Context:
    context: Context = divided(
        "leave_one_region_out",
        backbones=[learned("strong"), learned("weak")],
        heads=[HEADS.get(name) for name in ("knn", "mlp", "majority")],
        finetune={"backbones": ["strong"]},
        seeds=[0, 1],
    )
    write_cells(context)
    score(context)
    return context


def test_six_regions_take_six_cells_of_each_method_and_seed(scored: Context) -> None:
    cells = [cell for cell in scored.tune_cells() if cell.train_set != "all"]
    assert len(cells) == 6 * 2 * 3 * 2
    assert {cell.train_set for cell in cells} == {f"all but {region}" for region in REGIONS}
    # The cells of ``all`` are those of the experiment without a transfer.
    assert len(scored.tune_cells()) == len(cells) + 2 * 3 * 2
    assert cells[0].artefact.name.endswith("-knn-all-but-delaware-seed0")


def test_until_the_patches_are_known_one_train_set_stands_for_all(open_small: Any) -> None:
    context = open_small(protocol={"transfer": "leave_one_region_out"})
    assert [item.name for item in context.train_sets] == ["all", "all regions but one"]
    TuneStage().check(context)
    result = TuneStage().run(context)
    assert {cell.cell.train_set for cell in result.cells} == {"all", "all regions but one"}
    assert {cell.reason for cell in result.cells} == {
        "embed is missing: run `benchmark embed` first"
    }


def test_every_train_set_is_scored_on_the_same_patches_of_a_region(scored: Context) -> None:
    table = read_scored(scored, "transfer")
    assert len(table) == 6 * 6 * 7
    assert (table.groupby("region")["num_patches"].nunique() == 1).all()
    assert set(table["num_seeds"]) == {2}
    assert (table["ci_low"] <= table["value"]).all() and (table["value"] <= table["ci_high"]).all()
    out = table["train_set"] == "all but " + table["region"]
    assert (table["is_within"] == ~out).all()
    assert table.loc[out, "drop"].notna().all() and table.loc[~out, "drop"].isna().all()


def test_a_drop_is_the_mean_score_within_minus_that_elsewhere(scored: Context) -> None:
    table = read_scored(scored, "transfer")
    mine = table[(table["backbone"] == "weak") & (table["method"] == "knn")]
    mine = mine[mine["region"] == "virginia"]
    within = mine[mine["is_within"]]["value"].mean()
    (out,) = mine[~mine["is_within"]].to_dict("records")
    assert out["drop"] == pytest.approx(within - out["value"])
    assert out["drop_low"] < out["drop"] < out["drop_high"]


def test_the_mean_drop_of_each_method_has_a_verdict_and_a_rank_by_backbone(
    scored: Context,
) -> None:
    table = read_scored(scored, "transfer")
    drops = read_scored(scored, "drops").set_index(["backbone", "method"])
    for method, row in drops.iterrows():
        mine = table.set_index(["backbone", "method"]).loc[[method]]
        values = mine.groupby(["region", "is_within"])["value"].mean().unstack()
        assert row["within"] == pytest.approx(values[True].mean())
        assert row["elsewhere"] == pytest.approx(values[False].mean())
        assert row["drop"] == pytest.approx(row["within"] - row["elsewhere"])
        assert row["drop_low"] < row["drop"] < row["drop_high"]
    assert drops.loc[("weak", "knn"), "verdict"] == "drops"
    assert drops.loc[("strong", "finetune"), "verdict"] == "no detectable difference"
    assert drops.loc[("strong", "majority"), "is_floor"]
    # Fine-tuning, and of each backbone the head that is best on val: no floor, no other head.
    ranked = drops[drops["rank"].notna()]
    assert ranked.index.tolist() == [("strong", "finetune"), ("strong", "knn"), ("weak", "knn")]
    assert ranked["rank"].tolist() == [1, 2, 3]
    assert ranked["standing"].tolist()[0] == "drops least"
    assert ranked["standing"].tolist()[2] == "drops more"
    assert ranked["difference"].tolist() == pytest.approx(
        (ranked["drop"] - ranked["drop"].min()).tolist()
    )
    sentence = scored.scores().manifest()["transfer"]["sentence"]
    assert sentence.startswith("Drops least out of its regions: strong / finetune, by ")


def test_the_terminal_and_the_page_show_the_drops(scored: Context) -> None:
    table = drops_table(scored.scores())
    assert len(table.rows) == 7
    assert table.rows[0][:2] == ["strong", "finetune"]
    assert "Drops least" in table.notes[0]
    data = collect(Results(scored))
    assert data.drops_least == table.notes[0]
    (picture,) = [item for item in data.pictures if item.section == "transfer"]
    assert picture.title.startswith("Balanced accuracy by train regions")
    drops, regions, patches = data.transfer
    assert len(drops.rows) == 7
    assert len(regions.rows) == 3 * 36
    assert [row[0] for row in patches.rows] == REGIONS
    # Train sets of regions are no points of a curve over labels.
    assert not data.labels


def test_a_method_without_a_train_set_has_no_mean_drop(divided: Any) -> None:
    context = divided(
        {"train": ["delaware", "virginia"]},
        backbones=[learned("weak")],
        heads=[HEADS.get("knn")],
        protocol={"label_fractions": []},
    )
    assert [item.name for item in context.train_sets] == ["only delaware", "only virginia"]
    write_cells(context)
    shutil.rmtree(context.tune_cells()[1].artefact.path)
    (result,) = EvaluateStage().run(context).cells
    assert result.status == "complete", result.reason
    assert read_scored(context, "drops").empty
    record = context.scores().manifest()["transfer"]
    assert record["notes"] == [
        "weak / knn has results of 1 of 2 train sets of regions, and therefore no mean drop."
    ]
    assert record["sentence"] == ""
    # The page is made all the same.
    assert len(collect(Results(context)).transfer) == 3


def test_what_was_not_trained_within_has_scores_and_no_drop(divided: Any) -> None:
    context = divided(
        {"train": [["delaware", "virginia"]], "test": ["maryland", "new_york"]},
        backbones=[learned("weak")],
        heads=[HEADS.get("knn")],
    )
    write_cells(context)
    (result,) = EvaluateStage().run(context).cells
    assert result.status == "complete", result.reason
    table = read_scored(context, "transfer")
    assert table["train_set"].tolist() == ["only delaware + virginia"] * 2
    assert table["drop"].isna().all() and not table["is_within"].any()
    # Nothing is trained in them: all their patches are of test.
    assert table["num_patches"].tolist() == [40, 40]
    assert read_scored(context, "drops").empty


def test_a_region_that_cannot_be_divided_is_refused_with_the_place(
    open_small_session: Any, new_store: Any
) -> None:
    context = open_small_session(store=new_store(), protocol={"transfer": "leave_one_region_out"})
    # The small scenes are two of each region.
    with pytest.raises(UsageError, match=r"small.toml \[protocol\]: transfer: region 'maryland' "):
        TuneStage().check(context)


def test_the_sentence_names_what_no_test_tells_from_the_least(scored: Context) -> None:
    rows = read_scored(scored, "drops").replace({np.nan: None}).to_dict("records")
    assert write_sentence([]) == ""
    alike = [{**row, "standing": "no detectable difference"} for row in rows[1:3]]
    assert write_sentence([rows[0], *alike]).endswith(
        "; no detectable difference from strong / knn, weak / knn."
    )
    few = [{**row, "standing": "too little data to tell"} for row in rows[1:3]]
    assert write_sentence([rows[0], *few]).endswith(
        "; there is too little data to tell it from the others."
    )
    more = [{**row, "standing": "drops more"} for row in rows[1:3]]
    assert write_sentence([rows[0], *more]).endswith("; every other one drops detectably more.")


def toy_group(train_set: str, right: Any, *, backbone: str = "net") -> Group:
    cell: Any = Cell(
        stage="tune", artefact=None, dataset="d", backbone=backbone, method="knn",
        train_set=train_set, seed=0,
    )  # fmt: skip
    shares = np.asarray(right, float)
    return Group((cell,), np.array([shares.mean()]), Interval(0.0, 1.0), shares)


def toy_regions(within: Any, elsewhere: Any, *, scenes: int) -> list[Region]:
    """Two regions of 40 patches of one class in ``scenes`` scenes; two train sets."""
    design = find_design(np.zeros(40, int), [f"s{i % scenes}" for i in range(40)])
    return [
        Region(name, design, [toy_group("a", a), toy_group("b", b)], {name})
        for name, a, b in (("a", within, elsewhere), ("b", elsewhere, within))
    ]


@pytest.mark.parametrize(
    ("within", "elsewhere", "scenes", "verdict"),
    [
        (np.ones(40), np.arange(40) % 3 > 0, 20, "drops"),
        (np.arange(40) % 3 > 0, np.ones(40), 20, "rises"),
        (np.ones(40), np.ones(40), 20, "no detectable difference"),
        (np.ones(40), np.zeros(40), 2, "too little data to tell"),
    ],
)
def test_a_drop_has_the_verdict_of_its_scenes(
    within: Any, elsewhere: Any, scenes: int, verdict: str
) -> None:
    regions = toy_regions(within, elsewhere, scenes=scenes)
    rows = transfer_table(regions, EvaluateConfig()).to_pylist()
    assert [row["is_within"] for row in rows] == [True, False, False, True]
    assert [row["verdict"] for row in rows] == [None, verdict, verdict, None]
    assert rows[1]["drop"] == pytest.approx(np.mean(within) - np.mean(elsewhere))
    table, notes = mean_drops(
        regions, 2, ranked={("net", "knn")}, floors=(), settings=EvaluateConfig()
    )
    (row,) = table.to_pylist()
    assert (row["verdict"], row["rank"], row["standing"]) == (verdict, 1, "drops least")
    assert (row["within"], row["elsewhere"]) == pytest.approx((np.mean(within), np.mean(elsewhere)))
    assert not notes


def test_the_test_of_a_mean_drop_is_over_the_scenes_of_all_regions() -> None:
    # Four scenes of a region are too few for a verdict; eight of two are enough.
    regions = toy_regions(np.ones(40), np.zeros(40), scenes=4)
    settings = EvaluateConfig()
    for row in transfer_table(regions, settings).to_pylist():
        assert row["verdict"] in (None, "too little data to tell")
    regions[1] = replace(regions[1], name="c")
    table, _ = mean_drops(regions, 2, ranked=(), floors=(), settings=settings)
    assert table["verdict"].to_pylist() == ["drops"]
    assert table["rank"].to_pylist() == [None]


@pytest.mark.slow
def test_a_run_on_states_yields_the_matrix_of_heads_and_of_fine_tuning(
    ray_session: None, open_small: Any, tmp_path: Path
) -> None:
    context = open_small(
        dataset={"root": str(write_scenes(tmp_path, num_scenes=3, windows=4)), "per_region": 48},
        backbones=[BACKBONES.get("mean_color"), replace(toy("net"), is_floor=False)],
        heads=[HEADS.get("knn")],
        tune={"num_trials": 1},
        finetune={"backbones": ["net"], "num_epochs": 1},
        # The regions are known when the patches are found.
        protocol={"label_fractions": [], "transfer": {"test": ["delaware", "virginia"]}},
    )
    results = run_stages(context)
    cells = [cell for result in results for cell in result.cells]
    assert {cell.status for cell in cells} == {"complete"}, [cell.reason for cell in cells]
    assert len(context.prediction_cells()) == 2 * 3
    found = context.scores().read_table(names=[beside("transfer")])
    assert check_table(found, TRANSFER, what="transfer").num_rows == 2 * 2 * 3
    assert {row["method"] for row in found.to_pylist()} == {"knn", "finetune"}
    # Each region is tested on one of its three scenes.
    assert {row["verdict"] for row in found.to_pylist()} == {None, "too little data to tell"}
    assert set(read_scored(context, "drops")["verdict"]) == {"too little data to tell"}
    page = context.report().read_bytes("index.html").decode()
    assert "all test patches of delaware are of one scene" in page
    assert '<section id="transfer"' in page
    assert "trained on all but delaware" in page
