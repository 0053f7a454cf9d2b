import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark.cluster.incidents import Account
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.specs import Found, Images, Remark
from benchmark.stages.patches import PatchesStage, finding
from benchmark.stages.patches.finding import find_candidates, find_units, group_units
from benchmark.stages.patches.reading import (
    rows_of_part,
    split_parts,
    write_group,
    write_parts,
)
from benchmark.stages.patches.remarks import remark_notes
from benchmark.stages.patches.sampling import check_splits, choose
from benchmark.tables import CANDIDATES, check_table, images_array, patches_schema
from tests.scenes import write_scenes


@pytest.fixture(scope="module")
def patches(ray_session, open_small_session, tmp_path_factory):
    context = open_small_session(store=tmp_path_factory.mktemp("patches") / "runs")
    result = PatchesStage().run(context)
    assert [item.status for item in result.cells] == ["complete"]
    return context, result


def test_the_table_has_designs_columns_and_the_right_pixels(patches, scenes):
    import rasterio

    context, _ = patches
    table = context.patches.read_table()
    check_table(table, patches_schema(4, 32), what="patches")
    row = table.slice(17, 1)
    name, top, left = (row[key][0].as_py() for key in ("scene", "row", "col"))
    path = next(scenes.rglob(f"{name}_naip-new.tif"))
    with rasterio.open(path) as file:
        whole = file.read()
    expected = whole[:, top : top + 32, left : left + 32]
    np.testing.assert_array_equal(images_array(row["image"], (4, 32, 32))[0], expected)


def test_splits_follow_the_states_and_share_no_scene(patches):
    context, _ = patches
    frame = context.patches.read_table(columns=["split", "scene", "region"]).to_pandas()
    regions = frame.groupby("split")["region"].unique()
    assert set(regions["test"]) == {"pennsylvania"}
    assert set(regions["val"]) == {"delaware"}
    assert set(regions["train"]) == {"maryland", "new_york", "virginia", "west_virginia"}
    assert (frame.groupby("scene")["split"].nunique() == 1).all()


def test_class_counts_are_stored_and_printed(patches):
    context, result = patches
    manifest = context.patches.manifest()
    total = sum(sum(record["counts"].values()) for record in manifest["class_counts"])
    assert total == manifest["num_patches"] == 6 * 40
    (table,) = result.tables
    assert [row[0] for row in table.rows] == ["train"] * 4 + ["val", "test"]
    assert sum(int(row[-1]) for row in table.rows) == 240


def test_the_result_does_not_depend_on_order_or_parallelism(patches, open_small, tmp_path):
    context, _ = patches
    other = open_small(store=tmp_path / "one-by-one")
    source, artefact = other.source, other.patches
    units = list(enumerate(source.units()))
    for item in reversed(units):
        find_units([item], source=source, artefact=artefact)
    found = artefact.read_table(prefix="_tables/candidates-")
    config = other.experiment.dataset
    shuffled = found.take(np.random.default_rng(0).permutation(found.num_rows))
    chosen = choose(shuffled, config).sort_by("patch_id")
    parts = split_parts(chosen, num_bands=4, config=config)
    for part in reversed(parts):
        write_group([part], source=source, artefact=artefact, size=32, fails=True)
    assert artefact.read_table().equals(context.patches.read_table())


def test_a_second_run_reads_nothing(patches, open_small, monkeypatch):
    context, _ = patches
    again = open_small(store=context.store.uri)
    monkeypatch.setattr(type(again.cluster), "connect", lambda *_: pytest.fail("connected"))
    result = PatchesStage().run(again)
    assert result.cells[0].status == "complete"
    assert again.patches.path == context.patches.path


def _candidates(num_rows, regions=("a", "b"), num_classes=3):
    rng = np.random.default_rng(0)
    ids = [f"p{i:05d}" for i in range(num_rows)]
    region = rng.choice(regions, num_rows)
    return CANDIDATES.empty_table().from_pydict(
        {
            "patch_id": ids,
            "split": np.where(region == "a", "train", "test"),
            "label": rng.integers(0, num_classes, num_rows),
            "scene": region,
            "region": region,
            "row": np.zeros(num_rows),
            "col": np.zeros(num_rows),
            "lon": np.zeros(num_rows),
            "lat": np.zeros(num_rows),
            "purity": np.ones(num_rows),
        },
        schema=CANDIDATES,
    )


def _config(**settings):
    return DatasetConfig(name="chesapeake", root="x", **settings)


def test_without_caps_all_candidates_are_kept():
    table = _candidates(50)
    assert choose(table, _config()).equals(table)


def test_caps_hold_and_a_smaller_cap_keeps_a_subset():
    table = _candidates(3000)
    many = choose(table, _config(per_class=100))
    few = choose(table, _config(per_class=40))
    counts = many.to_pandas().groupby(["split", "label"]).size()
    assert (counts == 100).all()
    assert set(few["patch_id"].to_pylist()) <= set(many["patch_id"].to_pylist())
    both = choose(table, _config(per_class=100, per_region=150)).to_pandas()
    assert (both.groupby("region").size() == 150).all()


def test_the_draw_is_uniform_over_candidates():
    table = _candidates(200, regions=("a",))
    hits = np.zeros(200)
    for seed in range(300):
        kept = choose(table, _config(per_region=50, seed=seed))["patch_id"].to_pylist()
        hits[[int(name[1:]) for name in kept]] += 1
    # Binomial(300, 1/4): mean 75, standard deviation 7.5; five deviations over 200 rows.
    assert abs(hits - 75).max() < 5 * 7.5
    assert (
        len(
            {
                tuple(choose(table, _config(per_region=50, seed=s))["patch_id"].to_pylist())
                for s in range(5)
            }
        )
        == 5
    )


def test_a_scene_in_two_splits_is_an_error():
    table = _candidates(60)
    mixed = table.set_column(3, "scene", [["same"] * 60])
    with pytest.raises(UsageError, match=r"scene 'same' is in the splits test and train"):
        check_splits(mixed, ("x", "y", "z"), where="x.toml")


def test_an_empty_split_is_an_error():
    with pytest.raises(UsageError, match=r"the split 'val' has no patches"):
        check_splits(_candidates(60), ("x", "y", "z"), where="x.toml")


def _with_val(num_rows=90):
    table = _candidates(num_rows)
    split = ["train", "val", "test"] * (num_rows // 3)
    return table.set_column(1, "split", [split]).set_column(3, "scene", [split])


def test_a_class_absent_from_train_is_an_error_and_from_test_a_note():
    frame = _with_val().to_pandas()
    frame.loc[frame["split"] == "train", "label"] %= 2
    import pyarrow as pa

    with pytest.raises(UsageError, match="train has no patches of class z"):
        check_splits(pa.Table.from_pandas(frame), ("x", "y", "z"), where="x.toml")
    frame = _with_val().to_pandas()
    frame.loc[frame["split"] == "test", "label"] = 0
    notes = check_splits(pa.Table.from_pandas(frame), ("x", "y", "z"), where="x.toml")
    assert notes == ["Absent from test: y, z."]


@pytest.fixture
def broken_scenes(tmp_path):
    root = write_scenes(tmp_path / "broken", windows=4)
    path = sorted(root.rglob("*_naip-new.tif"))[3]
    path.write_bytes(path.read_bytes()[:-3000])
    return root, path


def test_a_truncated_scene_fails_the_stage_and_is_named(ray_session, open_small, broken_scenes):
    root, path = broken_scenes
    context = open_small(dataset={"root": str(root)})
    (cell,) = PatchesStage().run(context).cells
    assert cell.status == "failed"
    assert path.name in cell.reason
    assert 'on_error = "skip"' in cell.reason
    assert "\n" not in cell.reason
    assert context.patches.status()[0] == "failed"


def test_a_truncated_scene_is_named_and_counted_when_skipped(
    ray_session, open_small, broken_scenes
):
    root, path = broken_scenes
    context = open_small(dataset={"root": str(root), "on_error": "skip"})
    (cell,) = PatchesStage().run(context).cells
    assert cell.status == "complete"
    manifest = context.patches.manifest()
    assert {Path(problem["path"]).name for problem in manifest["problems"]} == {path.name}
    stem = path.name.removesuffix("_naip-new.tif")
    rows = context.patches.read_table(columns=["scene"])["scene"].to_pylist()
    assert rows.count(stem) < 16
    assert len(rows) == manifest["num_patches"] == sum(p["num_rows"] for p in manifest["parts"])


def test_parts_that_are_there_are_not_written_again(patches, open_small, tmp_path):
    context, _ = patches
    copy = open_small(store=tmp_path / "copy")
    shutil.copytree(context.patches.path, copy.patches.path)
    (Path(copy.patches.path) / "_manifest.json").unlink()
    (Path(copy.patches.path) / "part-000001.parquet").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in Path(copy.patches.path).iterdir()}
    assert PatchesStage().run(copy).cells[0].status == "complete"
    after = {p.name: p.stat().st_mtime_ns for p in Path(copy.patches.path).iterdir()}
    assert {name for name in before if before[name] != after[name]} == set()
    assert set(after) - set(before) == {"_manifest.json", "part-000001.parquet"}
    assert copy.patches.read_table().equals(context.patches.read_table())
    json.loads((Path(copy.patches.path) / "_manifest.json").read_text())


@pytest.mark.parametrize(
    ("num_patches", "patch_bytes", "rows"),
    [
        (100, 4 * 128**2, 64),
        (8_192, 4 * 128**2, 256),
        (300_000, 4 * 128**2, 256),
        (600_000, 4 * 128**2, 576),
        (1_600_000, 4 * 128**2, 1024),
        (15_800_000, 4 * 128**2, 1024),
        (15_800_000, 4 * 512**2, 64),
        (10, 10**9, 1),
    ],
)
def test_parts_grow_with_the_data_so_that_the_driver_does_not_limit(num_patches, patch_bytes, rows):
    assert rows_of_part(num_patches, patch_bytes) == rows


def test_remarks_become_notes_with_sums_and_an_example():
    remarks = [Remark("Empty", patch_id="a"), Remark("Pixels", 1500), Remark("Empty", patch_id="b")]
    assert remark_notes(remarks) == ["Empty: 2, e.g. 'a'.", "Pixels: 1,500."]


class RemarkingSource:
    """Leaves out the second patch of each unit with a remark."""

    bands = ("red",)

    def find(self, unit):
        import pyarrow as pa

        columns = {
            name: [f"{unit}-0", f"{unit}-1"] if name == "patch_id" else [None, None]
            for name in CANDIDATES.names
        }
        columns |= {"split": ["train"] * 2, "label": [0, 1]}
        return Found(pa.table(columns, schema=CANDIDATES), 2, remarks=(Remark("Seen", 3),))

    def read(self, candidates):
        pixels = np.zeros((1, 1, 8, 8), np.uint8)
        dropped = candidates["patch_id"][1].as_py()
        return Images(pixels, np.array([0]), (), (Remark("Empty", patch_id=dropped),))


def test_small_units_share_a_task_and_large_ones_do_not():
    todo = list(enumerate("abcdefghij" * 10))
    groups = group_units(todo, num_slots=2, unit_s=0.01)
    assert [item for group in groups for item in group] == todo
    # Eight tasks for each of two slots.
    assert {len(group) for group in groups} == {7, 2}
    assert {len(group) for group in group_units(todo, num_slots=1, unit_s=0.3)} == {3, 1}
    assert {len(group) for group in group_units(todo, num_slots=1, unit_s=30)} == {1}
    assert group_units([], num_slots=2, unit_s=0.0) == []


class ManySource(RemarkingSource):
    """Units of a few milliseconds."""

    def find(self, unit):
        found = super().find(unit)
        return Found(found.candidates, 1)


def test_candidates_of_many_units_come_in_few_tasks(ray_session, open_small, tmp_path, monkeypatch):
    context = open_small(store=tmp_path / "runs")
    artefact = context.patches
    artefact.begin({})
    account = Account(artefact, context.leases)
    units = [f"{number:03d}" for number in range(60)]
    sizes = []
    made = finding.Items
    monkeypatch.setattr(
        finding,
        "Items",
        lambda name, groups, read: sizes.append(len(groups)) or made(name, groups, read),
    )
    seen = []
    found = find_candidates(ManySource(), units, artefact, seen.append, account, num_slots=1)
    assert seen == [1] * 60
    assert found.num_examined == 60
    assert found.candidates["patch_id"].to_pylist() == sorted(
        f"{u}-{i}" for u in units for i in (0, 1)
    )
    assert sizes == [8, 8]


def test_rows_left_out_with_a_remark_are_no_failure_and_stay_known(
    ray_session, open_small, tmp_path
):
    source = RemarkingSource()
    context = open_small(store=tmp_path / "runs")
    artefact, config = context.patches, context.experiment.dataset
    config = config.model_copy(update={"patch_size": 8})
    artefact.begin({})
    account = Account(artefact, context.leases)
    found = find_candidates(source, ["a", "b"], artefact, lambda _: None, account)
    assert remark_notes(found.remarks) == ["Seen: 6."]
    parts = split_parts(found.candidates, num_bands=1, config=config)
    for _ in range(2):  # The second time, the parts are there.
        read = write_parts(source, parts, artefact, config, lambda _: None, account)
        assert remark_notes(read.remarks) == ["Empty: 2, e.g. 'a-1'."]
        assert [part["num_rows"] for part in read.parts] == [2]
