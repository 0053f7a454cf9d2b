"""What a run learns of its speed, and what a damaged or foreign file does to it: nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.experiment import rates as module
from benchmark.experiment.rates import Rate, Rates, learn

MUCH = Rate(seconds=100.0, num_items=10_000, num_slots=2, setup_s=3.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rates.json"


def test_the_time_of_items_is_that_of_their_slots_and_of_the_setup() -> None:
    assert MUCH.wall_s(400) == 3.0 + 400 * 0.01 / 2
    assert MUCH.wall_s(0) == 3.0


def test_rates_are_kept_for_each_machine_and_cluster(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Rates("local", path).add({("embed", "net", "32 px"): MUCH})
    assert Rates("local", path).find("embed", "net", "32 px") == MUCH
    assert Rates("local", path).find("embed", "net", "64 px") is None
    assert Rates("10.0.0.7:6379", path).find("embed", "net", "32 px") is None
    monkeypatch.setattr(module.provenance, "machine", lambda: "another")
    assert Rates("local", path).find("embed", "net", "32 px") is None
    Rates("local", path).add({("tune", "knn"): MUCH})
    monkeypatch.undo()
    assert Rates("local", path).find("embed", "net", "32 px") == MUCH


def test_a_much_smaller_measurement_does_not_replace_a_larger_one(path: Path) -> None:
    rates = Rates("local", path)
    rates.add({("a",): MUCH})
    rates.add({("a",): Rate(seconds=50.0, num_items=100), ("b",): Rate(seconds=1.0, num_items=1)})
    assert rates.find("a") == MUCH
    newer = Rate(seconds=50.0, num_items=2_000)
    rates.add({("a",): newer})
    found = Rates("local", path)
    assert found.find("a") == newer
    assert found.find("b") == Rate(seconds=1.0, num_items=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"x": 1}',
        b"null",
    ],
)
def test_a_damaged_file_is_no_rate_and_is_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    rates = Rates("local", path)
    assert rates.find("a") is None
    rates.add({("a",): MUCH})
    assert Rates("local", path).find("a") == MUCH


@pytest.mark.parametrize(
    "row",
    [
        {"seconds": 1},
        {"seconds": 1, "num_items": 0},
        {"seconds": "x", "num_items": 1},
        {"seconds": 1, "num_items": 1, "of_a_later_version": 1},
        [1],
        None,
    ],
)
def test_a_foreign_row_is_no_rate(path: Path, row: object) -> None:
    Rates("local", path).add({("a",): MUCH, ("b",): MUCH})
    content = json.loads(path.read_text())
    (place,) = content
    content[place]["a"] = row
    path.write_text(json.dumps(content))
    rates = Rates("local", path)
    assert rates.find("a") is None
    assert rates.find("b") == MUCH


def test_a_cache_that_cannot_be_written_costs_only_the_rates(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    rates = Rates("local", tmp_path / "file" / "rates.json")
    rates.add({("a",): MUCH})
    assert Rates("local", tmp_path / "file" / "rates.json").find("a") is None


def test_a_stage_whose_manifest_says_nothing_is_not_learned_and_fails_nothing(open_small) -> None:
    from benchmark.experiment.cells import Cell
    from benchmark.experiment.usage import StageUsage

    context = open_small()
    context.patches.commit({})
    cell = Cell(stage="patches", artefact=context.patches, dataset="chesapeake")
    before = Rates("local").find("patches", "chesapeake", "32 px")
    learn(context, "patches", [cell], [StageUsage("patches", 0.0, 1.0, None, 1, 1, 1, "patches")])
    learn(context, "patches", [cell], [])
    assert Rates("local").find("patches", "chesapeake", "32 px") == before


def test_each_mode_of_fine_tuning_is_measured(open_small, new_store, tmp_path, monkeypatch) -> None:
    from benchmark.experiment.usage import StageUsage
    from tests.finetuned import learned

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    modes = ["lora", "full"]
    context = open_small(store=new_store(), backbones=[learned("net")], finetune={"modes": modes})
    cells = context.finetune_cells()
    for cell, seconds in zip(cells, (10.0, 30.0), strict=True):
        cell.artefact.commit({"num_trials": 1, "seconds": {"device": seconds}})
    learn(context, "finetune", cells, [StageUsage("finetune", 0.0, 9.0, 9.0, 1, 2, 2, "trials")])
    found = [Rates("local").find("finetune", "net", mode, "224 px") for mode in modes]
    assert [rate.seconds for rate in found if rate] == [10.0, 30.0]
