"""What is left of an experiment, from rates that are given, by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark import api
from benchmark.cli.commands import invoke
from benchmark.experiment.rates import Rate, Rates
from benchmark.specs import Processor
from benchmark.stages.estimating import Estimate, PatchCounts, estimate
from tests.cli.test_commands import write_experiment, write_images

MEASURED = {
    ("patches", "folder", "16 px"): Rate(
        seconds=10.0, num_items=100, setup_s=60.0, num_patches=100, num_bytes=200_000
    ),
    ("embed", "random", "224 px"): Rate(
        seconds=100.0, num_items=100, num_slots=2, setup_s=6.0, num_patches=100, num_bytes=500_000
    ),
    ("embed", "start"): Rate(seconds=9.0, num_items=1),
    ("tune", "knn"): Rate(seconds=4.0, num_items=80, num_slots=2, num_patches=8, num_bytes=1000),
    ("tune", "majority"): Rate(
        seconds=8.0, num_items=8, num_slots=2, num_patches=8, num_bytes=1000
    ),
    ("evaluate",): Rate(seconds=4.0, num_items=4, num_bytes=100),
    ("report",): Rate(seconds=8.0, num_items=4, num_bytes=100),
}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two backbones, two heads and two seeds on twelve images, eight of them train."""
    monkeypatch.chdir(tmp_path)
    return write_experiment(Path("toy.toml"), write_images(tmp_path / "images"))


def plan(path: Path, rates: Rates, *settings: str, stage: str | None = None) -> Estimate:
    with api.open_context(api.load(path, settings)) as context:
        results = [result for entry in api.STAGES for result in entry.load().status(context)]
        return estimate(context, results, rates, stage=stage)


@pytest.fixture
def rates(tmp_path: Path) -> Rates:
    found = Rates("local", tmp_path / "rates.json")
    found.add(MEASURED)
    return found


def by_stage(found: Estimate) -> dict[str, dict[str, Any]]:
    return {item["stage"]: item for item in found.to_json()["stages"]}


def test_each_stage_is_the_sum_of_its_cells(experiment: Path, rates: Rates) -> None:
    found = plan(experiment, rates, 'backbones=["random"]', "tune.num_trials=5")
    stages = by_stage(found)
    assert found.patches == PatchCounts(12, 8, "counted")
    assert stages["patches"]["minutes"] == pytest.approx((60 + 1.2) / 60, abs=1e-3)
    assert stages["patches"]["gigabytes"] == pytest.approx(24_000 / 1e9, abs=1e-4)
    # Started once, set up, and 12 patches of a second on two slots.
    assert stages["embed"]["minutes"] == pytest.approx((9 + 6 + 6) / 60, abs=1e-3)
    # Two seeds: 5 trials of knn with 8 patches on two slots; one of majority.
    assert stages["tune"]["items"] == 2 * (5 + 1)
    assert stages["tune"]["minutes"] == pytest.approx(2 * (1 + 4) / 60, abs=1e-3)
    assert stages["report"]["minutes"] == pytest.approx(8 / 60, abs=1e-3)
    assert found.to_json()["trials"] == 12
    assert found.minutes == pytest.approx(
        sum(item["minutes"] for item in stages.values()), abs=0.01
    )
    assert all(item["not_known"] == [] for item in stages.values())


def test_what_was_not_measured_is_not_known(experiment: Path, rates: Rates) -> None:
    found = plan(experiment, rates)
    assert found.minutes is None
    assert by_stage(found)["embed"]["minutes"] is None
    assert by_stage(found)["embed"]["not_known"] == ["mean_color"]
    table = found.table()
    cells = {row[0]: row for row in table.rows}
    assert cells["embed"][4] == "more than 0.35"
    assert cells["all"][4].startswith("more than ")
    assert any("has not computed it: embed of mean_color." in note for note in table.notes)


def test_a_machine_that_measured_nothing_knows_nothing(experiment: Path, tmp_path: Path) -> None:
    found = plan(experiment, Rates("local", tmp_path / "none.json"))
    assert found.minutes is None
    assert {row[4] for row in found.table().rows} == {"not known yet"}
    assert not any("rates that earlier runs" in note for note in found.table().notes)
    # Pixels, and embeddings of a known length, have a known size.
    assert by_stage(found)["patches"]["gigabytes"] == pytest.approx(12 * 3 * 256 / 1e9, abs=1e-4)


def test_a_rate_of_far_fewer_patches_is_noted(experiment: Path, tmp_path: Path) -> None:
    rates = Rates("local", tmp_path / "rates.json")
    rates.add({("tune", "knn"): Rate(seconds=1.0, num_items=10, num_patches=1000, num_bytes=9)})
    found = plan(experiment, rates, 'heads=["knn"]', stage="tune")
    assert [item.stage for item in found.stages] == ["tune"]
    assert by_stage(found)["tune"]["far"] == ["knn"]
    assert by_stage(found)["tune"]["gigabytes"] is None  # of other patches, not of these
    assert any("a rough guess: tune of knn." in note for note in found.table().notes)


def test_the_price_of_a_processor_is_said_where_it_is_left_to_pay(
    experiment: Path, rates: Rates
) -> None:
    with api.open_context(api.load(experiment, ())) as context:
        processor = Processor("P", "{}", abs, 1.23)
        first, second = context.backbones
        context.backbones = (replace(first, processor=processor), second)
        results = [result for entry in api.STAGES for result in entry.load().status(context)]
        found = estimate(context, results, rates)
        assert estimate(context, results, rates, stage="tune").prices == ()
    sentence = (
        f"Backbone '{first.name}': its P, which no setting describes, prepares patches on the "
        "CPU, about 810 patches/s in one process."
    )
    assert found.to_json()["prices"] == [sentence]
    assert sentence in found.table().notes


def test_caps_count_the_patches_that_will_be_drawn(experiment: Path, rates: Rates) -> None:
    found = plan(experiment, rates, "dataset.per_class=2")
    assert found.patches == PatchCounts(8, 4, "counted")


def test_patches_of_scenes_are_unknown_until_they_are_found(
    scenes: Path, tmp_path: Path, rates: Rates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scenes.toml").write_text(
        'name = "scenes"\nbackbones = ["mean_color"]\nheads = ["knn"]\n'
        f'[dataset]\nname = "chesapeake"\nroot = "{scenes}"\npatch_size = 32\n'
    )
    found = plan(Path("scenes.toml"), rates)
    document = found.to_json()
    assert (document["patches"], document["minutes"]) == (None, None)
    assert document["patches_are"] == "unknown until found"
    assert document["trials"] == 10
    assert found.table().rows[0][2] == "unknown until found"


def test_parts_that_an_earlier_run_embedded_are_not_left(experiment: Path, rates: Rates) -> None:
    with api.open_context(api.load(experiment)) as context:
        parts = [{"name": f"part-00000{n}.parquet", "num_rows": 6} for n in range(2)]
        counts = [{"split": "train", "region": "", "counts": {"class_0": 4, "class_1": 4}}]
        classes = ["class_0", "class_1"]
        context.patches.commit(
            {"num_patches": 12, "parts": parts, "class_counts": counts, "classes": classes}
        )
        context.embeddings(context.backbones[0]).write_bytes("part-000000.parquet", b"x")
        context.embeddings(context.backbones[1]).commit({})
    found = plan(experiment, rates)
    assert found.patches == PatchCounts(12, 8, "in the store")
    stages = by_stage(found)
    assert "patches" not in stages
    assert (stages["embed"]["cells"], stages["embed"]["items"]) == (1, 6)


def test_fine_tuning_counts_epochs_and_weights(experiment: Path, rates: Rates) -> None:
    rates.add(
        {("finetune", "random", "full", "224 px"): Rate(seconds=60.0, num_items=100, num_patches=8)}
    )
    given = ('finetune.backbones=["random"]', "finetune.num_epochs=5", "finetune.num_trials=2")
    found = by_stage(plan(experiment, rates, *given, stage="finetune"))["finetune"]
    assert (found["cells"], found["items"]) == (2, 4)
    assert found["minutes"] == pytest.approx(2 * 2 * 5 * 8 * 0.6 / 60)
    assert found["gigabytes"] == pytest.approx(2 * 3_371_008 * 4 / 1e9, abs=1e-4)


def test_a_dry_run_tells_it_as_json_without_ray(
    experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(experiment.parent.resolve() / "cache"))
    Rates("local").add(MEASURED)
    assert invoke(["embed", str(experiment), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["estimate"]["patches"] == 12
    assert [item["stage"] for item in document["estimate"]["stages"]] == ["embed"]
    assert document["estimate"]["minutes_at_least"] == pytest.approx(21 / 60, abs=1e-3)
    assert invoke(["embed", str(experiment), "--dry-run", "--json", "--address", "h:1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["estimate"]["minutes_at_least"] == 0
    assert not Path("runs").exists()


def test_a_complete_experiment_has_nothing_left(experiment: Path, rates: Rates) -> None:
    with api.open_context(api.load(experiment)) as context:
        context.patches.commit({})
    found = plan(experiment, rates, stage="patches")
    assert found.stages == ()
    assert found.to_json()["minutes"] == 0


def test_each_mode_of_fine_tuning_has_its_own_rate(experiment: Path, rates: Rates) -> None:
    rate = Rate(seconds=60.0, num_items=100, num_patches=8)
    rates.add({("finetune", "random", "linear_then_full", "224 px"): rate})
    given = ('finetune.backbones=["random"]', 'finetune.modes=["linear_then_full", "full"]')
    found = by_stage(plan(experiment, rates, *given, stage="finetune"))["finetune"]
    assert (found["cells"], found["items"]) == (4, 4)
    assert found["not_known"] == ["random (full)"]
    assert found["minutes"] is None
