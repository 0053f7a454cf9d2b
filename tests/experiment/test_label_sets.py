"""Few labels: nested, stratified, by scene, reproducible; and their refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from benchmark.config import build
from benchmark.errors import UsageError
from benchmark.experiment.label_sets import Fraction, Shots, epoch_factor, label_sets
from benchmark.experiment.train_sets import ALL, ChosenPatches, PatchRows, TrainSet

CLASSES = ("water", "trees", "barren")
CONTENT: dict[str, Any] = {
    "name": "x",
    "backbones": ["mean_color"],
    "dataset": {"name": "synthetic", "root": "here"},
}


def rows(*, has_scenes: bool = True, num: int = 3000) -> PatchRows:
    """Patches of scenes of 20, with a rare class."""
    rng = np.random.default_rng(0)
    at = np.arange(num)
    split = np.array(["train", "train", "train", "val", "test"], object)[at // 20 % 5]
    return PatchRows(
        ids=np.array([f"p{i:05d}" for i in at], object),
        splits=split,
        labels=rng.choice(3, num, p=[0.6, 0.38, 0.02]).astype(np.int32),
        scenes=np.array([f"s{i // 20}" if has_scenes else None for i in at], object),
        regions=np.full(num, None, object),
        classes=CLASSES,
    )


def counts(found: PatchRows, roles: Any, role: str) -> list[int]:
    return np.bincount(found.labels[roles == role], minlength=3).tolist()


@pytest.mark.parametrize("has_scenes", [True, False])
def test_every_class_keeps_its_share_and_test_is_whole(has_scenes: bool) -> None:
    found = rows(has_scenes=has_scenes)
    roles = Fraction(0.1)(found, 0)
    for split in ("train", "val"):
        whole = counts(found, found.splits, split)
        assert counts(found, roles, split) == [max(1, int(0.1 * n + 0.5)) for n in whole]
        assert set(found.splits[roles == split]) == {split}
    np.testing.assert_array_equal(roles == "test", found.splits == "test")


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_smaller_sets_are_within_larger_ones_of_the_same_seed(seed: int) -> None:
    found = rows()
    for chain in (
        [Fraction(share) for share in (0.05, 0.06, 0.3, 0.99)],
        [Shots(number) for number in (1, 2, 10)],
    ):
        sets = [rule(found, seed) for rule in chain]
        for role in ("train", "val"):
            for small, large in itertools.pairwise(sets):
                assert set(np.flatnonzero(small == role)) <= set(np.flatnonzero(large == role))
        assert (sets[0] == "train").sum() < (sets[-1] == "train").sum()


def test_a_seed_draws_the_same_labels_again_and_another_seed_others() -> None:
    found = rows()
    for rule in (Fraction(0.2), Shots(5)):
        np.testing.assert_array_equal(rule(found, 3), rule(found, 3))
        assert (rule(found, 3) != rule(found, 4)).any()


def test_the_labels_of_test_change_no_train_set() -> None:
    found, other = rows(), rows()
    other.labels[other.splits == "test"] = 0
    for rule in (Fraction(0.2), Shots(5)):
        np.testing.assert_array_equal(rule(found, 0), rule(other, 0))


def test_a_fraction_fills_one_scene_after_another() -> None:
    found = rows()
    roles = Fraction(0.2)(found, 0)
    taken = roles == "train"
    for k in range(3):
        of_class = (found.splits == "train") & (found.labels == k)
        scenes = set(found.scenes[of_class & taken])
        cut = [s for s in scenes if (of_class & ~taken & (found.scenes == s)).any()]
        assert len(cut) <= 1
    # About a fifth of the scenes, where a draw of patches would touch all of them.
    num_scenes = len(set(found.scenes[found.splits == "train"]))
    assert len(set(found.scenes[taken & (found.labels < 2)])) <= 0.3 * num_scenes


def test_shots_are_drawn_from_all_of_train_and_val_keeps_its_share() -> None:
    found = rows()
    roles = Shots(10)(found, 0)
    assert counts(found, roles, "train") == [10, 10, 10]
    assert len(set(found.scenes[(roles == "train") & (found.labels == 0)])) >= 8
    train, val = (counts(found, found.splits, split) for split in ("train", "val"))
    expected = [max(1, int(10 / n * m + 0.5)) for n, m in zip(train, val, strict=True)]
    assert counts(found, roles, "val") == expected


def test_a_fraction_that_leaves_a_class_out_is_refused_with_the_smallest_that_works() -> None:
    found = rows()
    rare = counts(found, found.splits, "train")[2]
    with pytest.raises(
        UsageError,
        match=rf"^label_fractions: 0.001 leaves class 'barren' without a patch of its {rare}",
    ) as error:
        Fraction(0.001)(found, 0)
    least = float(str(error.value).split("use ")[1].split()[0])
    assert min(counts(found, Fraction(least)(found, 0), "train")) == 1
    with pytest.raises(UsageError, match="without a patch"):
        Fraction(least * 0.99)(found, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 25, 49, 1234])
def test_the_smallest_fraction_that_is_told_works_and_is_short(count: int) -> None:
    num = 2 * count
    splits, nothing = np.full(num, "train", object), np.full(num, None, object)
    labels = np.repeat([0, 1], count).astype(np.int32)
    found = PatchRows(np.arange(num).astype(str), splits, labels, nothing, nothing, ("a", "b"))
    with pytest.raises(UsageError, match="without a patch") as error:
        Fraction(0.4 / count)(found, 0)
    least = str(error.value).split("use ")[1].split()[0]
    assert counts(found, Fraction(float(least))(found, 0), "train")[:2] == [1, 1]
    assert float(least) == pytest.approx(0.5 / count, rel=0.01)
    assert len(least) <= 8


def test_more_shots_than_a_class_has_are_refused() -> None:
    found = rows()
    rare = counts(found, found.splits, "train")[2]
    message = f"^shots: {rare + 1} of class 'barren', which has {rare} patches in train; use {rare}"
    with pytest.raises(UsageError, match=message):
        Shots(rare + 1)(found, 0)
    assert counts(found, Shots(rare)(found, 0), "train") == [rare] * 3


def test_a_class_that_train_lacks_stays_without_a_patch() -> None:
    found = rows()
    found.labels[(found.labels == 2) & (found.splits == "train")] = 0
    for rule in (Fraction(0.1), Shots(3)):
        roles = rule(found, 0)
        assert counts(found, roles, "train")[2] == 0
        assert counts(found, roles, "val")[2] >= 1


def test_the_sets_of_a_protocol_are_named_and_the_fullest_is_first() -> None:
    protocol = build(
        {**CONTENT, "protocol": {"label_fractions": [0.01, 1, 0.125], "shots": [1, 10]}}
    ).protocol
    sets = label_sets(protocol)
    assert [item.name for item in sets] == ["all", "12.5%", "1%", "10 shots", "1 shot"]
    assert [item.kind for item in sets] == ["all", "fraction", "fraction", "shots", "shots"]
    assert sets[0] is ALL
    assert len({item.slug for item in sets}) == 5
    assert label_sets(build(CONTENT).protocol) == (ALL,)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"label_fractions": [0.5, 1.5]},
            r"\[protocol\]: 'label_fractions' = .*less than",
        ),
        ({"label_fractions": [0.0]}, "greater than 0"),
        ({"label_fractions": [-0.1]}, "greater than 0"),
        ({"label_fractions": [0.1, 0.1]}, "0.1 is listed twice"),
        ({"label_fractions": [0.1, 0.1000000001]}, "0.1 is listed twice"),
        ({"label_fractions": [k / 100 for k in range(1, 22)]}, "at most 20 items"),
        ({"label_fractions": "all"}, "label_fractions"),
        ({"label_fractions": [True]}, "label_fractions"),
        ({"label_fractions": [float("nan")]}, "finite"),
        ({"label_fractions": [], "shots": []}, "list at least one number"),
        ({"shots": [0]}, "greater than 0"),
        ({"shots": [1.5]}, "shots"),
        ({"shots": [5, 5]}, "5 is listed twice"),
        ({"shots": list(range(1, 22))}, "at most 20 items"),
        ({"fractions": [0.1]}, "unknown setting 'fractions'"),
    ],
)
def test_a_bad_protocol_is_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        build({**CONTENT, "protocol": table}, where="x.toml")
    assert "\n" not in str(error.value)


def test_fine_tuning_takes_more_epochs_on_few_labels_up_to_ten_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ChosenPatches, "rows", rows())
    sets = [ALL, *(TrainSet(str(share), Fraction(share)) for share in (0.5, 0.3, 0.02))]
    factors = [epoch_factor(ChosenPatches(None, item, 0)) for item in sets]
    assert factors == [1, 2, 3, 10]
