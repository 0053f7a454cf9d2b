from __future__ import annotations

import numpy as np
import pytest

from benchmark.statistics.design import find_design, least_units, rare_classes
from benchmark.statistics.selection import missing_patches, optimism


def test_scenes_are_the_units_where_they_are_known() -> None:
    design = find_design([0, 0, 1, 1], ["b", "a", "a", "b"])
    assert (design.kind, design.num_units, design.unit.tolist()) == ("scene", 2, [1, 0, 0, 1])
    assert "2 scenes for independent" in design.reason
    assert "fewer than 6 scenes no difference" in design.reason
    assert design.unit_weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("scenes", "why"),
    [
        (None, "there is no scene column"),
        (["a", "a", None, "b"], "the scene of 1 patches is unknown"),
        ([np.nan] * 4, "the scene of 4 patches is unknown"),
        (["a"] * 4, "all of them come from one scene"),
    ],
)
def test_otherwise_the_patches_are_and_the_reason_says_why(scenes: object, why: str) -> None:
    design = find_design([0, 0, 1, 1], scenes)  # type: ignore[arg-type]
    assert (design.kind, design.num_units, design.num_groups) == ("patch", 4, 1)
    assert why in design.reason


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="no patch"):
        find_design([], None)
    with pytest.raises(ValueError, match="scenes has shape"):
        find_design([0, 1], ["a"])


def test_contributions_add_up_to_the_balanced_accuracy() -> None:
    y_true = np.array([0, 0, 0, 2, 2, 2, 2])
    right = np.array([1, 1, 0, 1, 0, 0, 0], float)
    for scenes in (None, list("abcabca")):
        design = find_design(y_true, scenes)
        expected = (2 / 3 + 1 / 4) / 2
        assert design.contributions(right).sum() == pytest.approx(expected)
        assert design.unit_weights.sum() == pytest.approx(1.0)


def test_rare_classes_are_said_in_words() -> None:
    y_true = [0] * 20 + [1] * 9 + [2] + [4] * 30
    scenes = [f"s{i % 7}" for i in range(30)] + ["s1"] * 30
    names = ["water", "tree", "sand", "ice", "road"]
    assert rare_classes(find_design(y_true, scenes), names) == [
        "tree rests on 9 test patches.",
        "sand rests on one scene (1 test patch).",
        "road rests on one scene (30 test patches).",
    ]
    assert rare_classes(find_design(y_true, None), names)[1] == "sand rests on 1 test patch."
    alike = find_design([0, 1, 1, 2, 3, 3], None)
    assert rare_classes(alike, ["a", "b", "c", "d"]) == [
        "a and c rest on 1 test patch each.",
        "b and d rest on 2 test patches each.",
    ]
    (many,) = rare_classes(find_design(range(1000), None), [f"c{k}" for k in range(1000)])
    assert many.startswith("c0, c1, c2") and many.endswith(
        "c19 and 980 more rest on 1 test patch each."
    )


def test_the_optimism_of_equal_methods_is_found_and_that_of_a_clear_winner_is_none() -> None:
    """24 equal methods: on average the largest of 24 normal errors, 1.95 deviations."""
    rng = np.random.default_rng(0)
    weights = np.full(400, 1 / 400)
    found, truth = [], []
    for seed in range(30):
        scores = weights[:, None] * (rng.random((400, 24)) < 0.8)
        found.append(optimism(scores, weights, num_draws=100, seed=seed))
        truth.append(scores.sum(axis=0).max() - 0.8)
    assert np.mean(truth) == pytest.approx(1.95 * 0.02, rel=0.1)
    assert np.mean(found) == pytest.approx(np.mean(truth), rel=0.25)
    clear = scores.copy()
    clear[:, 0] = weights
    assert optimism(clear, weights, num_draws=100, seed=0) < 0.005
    assert np.isnan(optimism(scores[:, :1], weights, num_draws=10, seed=0))
    assert np.isnan(optimism(scores[:3], weights[:3], num_draws=10, seed=0))


def test_the_missing_patches_are_those_of_the_rarest_class_and_suffice() -> None:
    """With the patches that are said to be missing, 5 points are found in about 80 %."""
    from benchmark.statistics.flips import flip_table

    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1, 2], [1500, 1500, 30])
    one, other = (rng.random(len(y_true)) < p for p in (0.8, 0.8))
    design = find_design(y_true, None)
    found = missing_patches(
        design, one.astype(float), other.astype(float), difference=0.05, alpha=0.05
    )
    assert (found.label, found.suffices) == (2, True)
    assert 40 < found.num_patches < 600
    y_true = np.repeat([0, 1, 2], [1500, 1500, 30 + found.num_patches])
    design = find_design(y_true, None)
    hits = 0
    for seed in range(60):
        gap = (rng.random(len(y_true)) < 0.825).astype(float) - (rng.random(len(y_true)) < 0.775)
        test = flip_table(
            design.contributions(gap)[:, None], design.unit_weights, alpha=0.05, seed=seed
        )
        hits += bool(test.is_detected[0])
    assert 0.6 < hits / 60 <= 1.0
    many = np.repeat(one, 100).astype(float)
    enough = missing_patches(
        find_design(np.repeat([0, 1], len(many) // 2), None),
        many,
        many,
        difference=0.05,
        alpha=0.05,
    )
    assert enough.num_patches == 0


def test_report_and_test_agree_on_how_few_scenes_are_too_few() -> None:
    from benchmark.statistics.flips import flip_table

    for alpha, least in ((0.05, 6), (0.1, 5), (0.01, 8), (0.125, 4)):
        assert least_units(alpha) == least
        for num in (least - 1, least):
            design = find_design(np.arange(2 * num) % 2, np.arange(2 * num) % num, alpha=alpha)
            found = flip_table(np.full((num, 1), 1 / num), np.full(num, 1 / num), alpha=alpha)
            assert ("fewer than" in design.reason) == found.is_too_little == (num < least)
            assert bool(found.is_detected[0]) == (num == least)
