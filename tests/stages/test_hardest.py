"""Scenes and regions ranked by errors."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmark.errors import UsageError
from benchmark.stages.hardest import hardest_tables, rank_hardest, write_hardest


def patches(rows: list[tuple[str, str | None, str | None, str, str | None]]) -> pd.DataFrame:
    """Return footprints of (split, scene, region, class, predicted)."""
    frame = pd.DataFrame(rows, columns=["split", "scene", "region", "class_name", "predicted"])
    frame["predicted"] = frame["predicted"].astype("string")
    is_error = (frame["predicted"] != frame["class_name"]).astype("boolean")
    frame["is_error"] = is_error.where(frame["predicted"].notna())
    return frame


def scene(name: str, region: str | None, right: int, wrong: int) -> list:
    return [
        *[("test", name, region, "water", "water")] * right,
        *[("test", name, region, "water", "barren")] * wrong,
    ]


def test_scenes_are_ranked_by_what_is_certain_of_their_errors() -> None:
    frame = patches([*scene("a", "pa", 18, 2), *scene("b", "pa", 10, 10), *scene("c", "va", 0, 1)])
    found = rank_hardest(frame)
    scenes = found[found["kind"] == "scene"].set_index("name")
    # One wrong patch of one shows less than ten of twenty.
    assert scenes["rank"].to_dict() == {"b": 1, "c": 2, "a": 3}
    assert scenes["num_errors"].to_dict() == {"b": 10, "c": 1, "a": 2}
    assert scenes.loc["a", "error_rate"] == 0.1
    assert (scenes["ci_low"] < scenes["error_rate"]).all()
    assert (scenes["error_rate"] <= scenes["ci_high"]).all()
    regions = found[found["kind"] == "region"].set_index("name")
    assert regions["num_patches"].to_dict() == {"pa": 40, "va": 1}
    wider = rank_hardest(frame, confidence=0.99)
    assert (wider["ci_low"] < found["ci_low"]).all()


def test_the_expected_rate_is_that_of_a_scenes_classes() -> None:
    frame = patches(
        [
            *[("test", "easy", "pa", "water", "water")] * 3,
            ("test", "hard", "pa", "water", "barren"),
            *[("test", "hard", "pa", "barren", "trees")] * 2,
            ("test", "hard", "pa", "barren", "barren"),
        ]
    )
    found = rank_hardest(frame).set_index("name")
    assert found.loc["easy", "expected_rate"] == 0.25
    assert found.loc["hard", "expected_rate"] == pytest.approx((0.25 + 3 * 2 / 3) / 4)
    assert found.loc["pa", "expected_rate"] == pytest.approx(found.loc["pa", "error_rate"])
    assert found.loc["hard", "common_error"] == "barren as trees"
    assert found.loc["easy", "common_error"] == ""


def test_only_predicted_patches_of_test_count_and_what_has_no_scene_has_no_row() -> None:
    rows = scene("a", None, 1, 1)
    frame = patches(
        [
            *rows,
            ("val", "v", None, "water", "barren"),
            ("test", "a", None, "water", None),
            ("test", None, None, "water", "barren"),
        ]
    )
    found = rank_hardest(frame)
    assert found[["kind", "name", "num_patches", "num_errors"]].to_numpy().tolist() == [
        ["scene", "a", 2, 1]
    ]
    (table,) = hardest_tables(found, "x/knn/seed0")
    assert table.title == "Hardest scenes of test for x/knn/seed0"
    assert rank_hardest(patches([("test", None, None, "water", "barren")])).empty


def test_the_terminal_shows_ten_and_the_file_has_all(tmp_path: Path) -> None:
    frame = patches([row for i in range(14) for row in scene(f"s{i:02d}", "pa", 20 - i, i)])
    found = rank_hardest(frame)
    scenes, regions = hardest_tables(found, "x/knn/seed0")
    assert scenes.title.endswith(", 10 of 14")
    assert [row[0] for row in scenes.rows] == [f"s{i:02d}" for i in range(13, 3, -1)]
    assert scenes.rows[0][1:4] == ("20", "13", "65.0")
    assert len(regions.rows) == 1
    path = write_hardest(found, tmp_path / "map.parquet")
    assert path == tmp_path / "map-hardest.csv"
    assert len(pd.read_csv(path)) == 15
    with pytest.raises(UsageError, match=r"map-hardest\.csv cannot be written: "):
        write_hardest(found, tmp_path / "no" / "map.parquet")
