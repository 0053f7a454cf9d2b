"""Where the time of a run went: intervals by hand, and the sentence that follows from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.experiment.usage import (
    StageUsage,
    load_usage,
    rate_text,
    run_seconds,
    save_usage,
    summarise,
    usage_notes,
    usage_table,
    usage_to_json,
)
from benchmark.store.artefacts import Store


def used(
    stage: str,
    began_s: float,
    ended_s: float,
    busy: float | None = None,
    *,
    slots: int = 2,
    items: int = 100,
    unit: str = "patches",
) -> StageUsage:
    """A stage that was busy for that share of its time."""
    busy_s = None if busy is None else busy * slots * (ended_s - began_s)
    return StageUsage(stage, began_s, ended_s, busy_s, slots, 3, items, unit)


def notes(usages: list[StageUsage]) -> tuple[str, ...]:
    """The sentences about a run; that of its bottleneck comes first."""
    return usage_notes(usages, summarise(usages))


def test_one_after_the_other() -> None:
    usages = [
        used("patches", 1000, 1010),
        used("embed", 1010, 1090, 0.9),
        used("tune", 1090, 1100, 0.2, unit="trials"),
    ]
    assert run_seconds(usages) == 100
    patches, embed, tune = summarise(usages)
    assert (patches.share, embed.share, tune.share) == (0.1, 0.8, 0.1)
    assert (patches.utilisation, tune.utilisation) == (None, pytest.approx(0.2))
    assert embed.utilisation == pytest.approx(0.9)
    assert embed.items_per_s == pytest.approx(1.25)
    assert [row.limiting_s for row in summarise(usages)] == [10, 80, 10]
    assert notes(usages) == (
        "embed is the bottleneck (80 % of 100.0 s): its 2 slots were busy 90 % of the time.",
    )


def test_a_stage_that_waits_for_another_is_no_bottleneck() -> None:
    # Heads are searched from the first finished backbone on, and are soon done with each.
    usages = [used("embed", 0, 100, 0.95, slots=4), used("tune", 20, 110, 0.1, slots=1)]
    assert run_seconds(usages) == 110
    embed, tune = summarise(usages)
    assert (embed.limiting_s, tune.limiting_s) == (100, 10)
    assert embed.share + tune.share == pytest.approx(190 / 110)
    limit, overlap = notes(usages)
    assert limit.startswith("embed is the bottleneck (91 % of 110.0 s): its 4 slots were busy")
    assert "more than 100 %" in overlap


def test_a_bottleneck_may_be_idle() -> None:
    usages = [used("tune", 0, 50, 0.12, slots=1), used("evaluate", 50, 60)]
    assert notes(usages) == (
        "tune is the bottleneck (83 % of 60.0 s): its one slot was idle 88 % of the time.",
    )


def test_a_stage_that_measures_nothing_says_so() -> None:
    assert notes([used("patches", 0, 9), used("embed", 9, 10, 1.0)]) == (
        "patches is the bottleneck (90 % of 10.0 s); its utilisation is not measured.",
    )
    # Beside one that is mostly idle it may be the one that works, beside a busy one not.
    idle = summarise([used("patches", 0, 10), used("embed", 0, 10, 0.3)])
    busy = summarise([used("patches", 0, 10), used("embed", 0, 10, 0.8)])
    assert [row.limiting_s for row in idle] == [10, 0]
    assert [row.limiting_s for row in busy] == [0, 10]


def test_usages_of_one_stage_are_one_row() -> None:
    usages = [
        used("embed", 0, 10, 1.0, slots=2, items=30),
        used("embed", 5, 15, 0.5, slots=4, items=30),
        used("embed", 15, 15, slots=1, items=7, unit="cells"),
    ]
    (row,) = summarise(usages)
    assert row.wall_s == run_seconds(usages) == 15
    assert row.utilisation == pytest.approx((20 + 20) / (20 + 40))
    assert (row.num_slots, row.num_items, row.unit, row.num_cells) == (4, 60, "patches", 9)
    assert row.limiting_s == 15
    assert len(notes(usages)) == 1


def test_time_between_stages_is_named_and_not_counted() -> None:
    usages = [used("patches", 0, 10), used("embed", 40, 50, 0.9)]
    assert run_seconds(usages) == 20
    assert notes(usages)[-1] == "Not counted: 30.0 s between the stages."


def test_no_stage_computed_anything() -> None:
    assert notes([]) == ()
    assert usage_table([]).rows == []
    assert usage_to_json([]) == []
    assert notes([used("evaluate", 5, 5)]) == ()
    (row,) = summarise([used("evaluate", 5, 5, 0.0)])
    assert (row.share, row.utilisation, row.items_per_s) == (0.0, None, None)


def test_the_table_has_a_row_for_each_stage() -> None:
    table = usage_table([used("embed", 10, 90, 0.5), used("patches", 0, 10)])
    assert [dict(zip(table.columns, row, strict=True)) for row in table.rows] == [
        {
            **{"stage": "patches", "cells": "3", "seconds": "10.0", "% of run": "11"},
            **{"slots": "2", "% busy": "-", "items": "100", "per s": "10.0", "unit": "patches"},
        },
        {
            **{"stage": "embed", "cells": "3", "seconds": "80.0", "% of run": "89"},
            **{"slots": "2", "% busy": "50", "items": "100", "per s": "1.2", "unit": "patches"},
        },
    ]
    assert table.notes[0].startswith("embed is the bottleneck")


def test_json_names_what_a_program_wants() -> None:
    first, second = usage_to_json([used("embed", 10, 90, 0.5), used("patches", 0, 10)])
    assert (first["stage"], first["utilisation"]) == ("patches", None)
    assert (second["wall_s"], second["utilisation"], second["busy_s"]) == (80, 0.5, 80)
    json.dumps([first, second], allow_nan=False)


intervals = st.lists(
    st.builds(
        lambda stage, began, wall, busy: used(stage, began, began + wall, busy),
        st.sampled_from(["patches", "embed", "tune"]),
        st.integers(0, 50),
        st.integers(0, 20),
        st.sampled_from([None, 0.0, 0.25, 1.0]),
    ),
    max_size=8,
)


@given(intervals)
def test_each_second_of_a_run_belongs_to_one_stage(usages: list[StageUsage]) -> None:
    # On a grid of seconds the union can be counted one by one.
    seconds = {t for item in usages for t in range(int(item.began_s), int(item.ended_s))}
    assert run_seconds(usages) == pytest.approx(len(seconds))
    assert sum(row.limiting_s for row in summarise(usages)) == pytest.approx(len(seconds))
    for row in summarise(usages):
        assert row.limiting_s <= row.wall_s + 1e-9


def test_of_each_stage_the_last_run_that_computed_something_is_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert load_usage(store, "small").usages == ()
    killed = [used("patches", 0, 10), used("embed", 10, 90, 0.9)]
    save_usage(store, "small", killed[:1])
    save_usage(store, "small", killed)
    assert load_usage(store, "small").usages == tuple(killed)
    assert load_usage(store, "small").num_runs == 1

    resumed = [used("embed", 500, 510, 0.8), used("tune", 510, 520, 0.7)]
    save_usage(store, "small", resumed)
    saved = load_usage(store, "small")
    assert saved.usages == (killed[0], *resumed)
    assert saved.num_runs == 2
    # A run that computes nothing changes nothing, and other experiments have their own.
    save_usage(store, "small", [])
    assert load_usage(store, "small") == saved
    assert load_usage(store, "other").usages == ()
    assert load_usage(store, "small", without=["patches"]).num_runs == 1


@pytest.mark.parametrize("content", ["", "[]", '{"stages": [{"run": 1, "stage": "embed"}]}', "{}"])
def test_a_file_of_somebody_else_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "usage").mkdir()
    (tmp_path / "usage" / "small.json").write_text(content)
    store = Store(str(tmp_path))
    assert load_usage(store, "small").usages == ()
    save_usage(store, "small", [used("embed", 0, 1)])
    assert len(load_usage(store, "small").usages) == 1


def test_a_store_that_fails_does_not_fail_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "usage").write_text("a file where a folder should be")
    save_usage(Store(str(tmp_path)), "small", [used("embed", 0, 1)])
    assert "could not save the durations of the stages" in caplog.text


def test_failed_trials_are_named_below_the_table(tmp_path: Path) -> None:
    usage = replace(
        used("tune", 0, 10, 0.9, items=8, unit="trials"), num_failed=2, failure="no such k"
    )
    said = "tune: 2 of 8 trials failed, the first: no such k"
    assert notes([usage])[-1] == said
    assert usage_table([usage]).notes[-1] == said
    store = Store(str(tmp_path))
    save_usage(store, "small", [usage])
    assert load_usage(store, "small").usages == (usage,)


def test_a_slow_rate_is_never_zero() -> None:
    assert [rate_text(rate) for rate in (None, 0.0, 12 / 376, 0.0949, 0.096, 1234.56)] == [
        *("-", "0.0", "0.032", "0.095", "0.1", "1,234.6"),
    ]
