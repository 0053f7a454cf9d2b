"""Folds: every patch tested once, whole scenes, stratified, reproducible; and their refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark.config import build
from benchmark.errors import UsageError
from benchmark.experiment.fold_sets import Fold, Pooled, draw_parts, find_folds, fold_sets
from benchmark.experiment.label_sets import epoch_factor
from benchmark.experiment.train_sets import ChosenPatches, PatchRows, TrainSet

CLASSES = ("water", "trees", "barren", "absent")
CONTENT: dict[str, Any] = {
    "name": "x",
    "backbones": ["mean_color"],
    "dataset": {"name": "synthetic", "root": "here"},
}


def rows(num: int = 400, *, scenes: int = 0, alone: int = 0) -> PatchRows:
    """Patches of three classes out of four, in scenes of very unequal sizes."""
    rng = np.random.default_rng(5)
    names = np.full(num, None, object)
    if scenes:
        share = rng.dirichlet(np.full(scenes, 2.0))
        names = np.array([f"s{one}" for one in rng.choice(scenes, num, p=share)], object)
        names[:alone] = None
    return PatchRows(
        ids=np.array([f"p{i:05d}" for i in range(num)], object),
        splits=np.array(["train", "val", "test", "train"], object)[np.arange(num) % 4],
        labels=rng.choice(3, num, p=[0.6, 0.3, 0.1]).astype(np.int32),
        scenes=names,
        regions=np.full(num, None, object),
        classes=CLASSES,
    )


DATA = {
    "patches alone": rows(),
    "scenes": rows(scenes=60),
    "scenes and patches alone": rows(scenes=60, alone=100),
}


def counts_of(data: PatchRows, folds: Any, num: int) -> Any:
    return np.stack([np.bincount(data.labels[folds == fold], minlength=4) for fold in range(num)])


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_every_patch_is_tested_once_and_never_trains_its_own_test(name: str, count: int) -> None:
    data = DATA[name]
    roles = np.stack([Fold(number, count)(data, 0) for number in range(1, count + 1)])
    assert ((roles == "test").sum(axis=0) == 1).all()
    assert (np.argmax(roles == "test", axis=0) == find_folds(data, count)).all()
    for of_fold in roles:
        assert set(of_fold) == {"train", "val", "test"}
        for role in ("train", "val", "test"):
            assert np.bincount(data.labels[of_fold == role], minlength=4)[:3].min() > 0
        for scene in set(data.scenes) - {None}:
            assert len(set(of_fold[data.scenes == scene])) == 1
    if count > 2:
        # The next fold validates.
        assert (roles[0] == "val").tolist() == (roles[1] == "test").tolist()


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_patches_alone_are_stratified_exactly(count: int) -> None:
    data = DATA["patches alone"]
    found = counts_of(data, draw_parts(data, count), count)
    assert (found.max(axis=0) - found.min(axis=0) <= 1).all()
    assert np.ptp(found.sum(axis=1)) <= 3


def test_scenes_are_stratified_as_far_as_they_go() -> None:
    data = rows(4000, scenes=100)
    found = counts_of(data, find_folds(data, 5), 5)
    whole = np.bincount(data.labels, minlength=4)
    assert np.abs(found - whole / 5)[:, :3].max() < 0.2 * (whole / 5)[:3].max()
    assert np.ptp(found[:, 2]) <= 0.1 * whole[2]


def test_folds_depend_neither_on_the_seed_nor_on_the_splits_of_the_data() -> None:
    data = DATA["scenes"]
    found = Fold(2, 5)(data, 0)
    assert (Fold(2, 5)(data, 17) == found).all()
    other = data._replace(splits=np.full(len(found), "train", object))
    assert (Fold(2, 5)(other, 0) == found).all()
    # Drawn once and for all: another version of a library must not change them.
    alone, scenes = find_folds(rows(80), 3), find_folds(rows(80, scenes=16), 3)
    assert alone[:16].tolist() == [0, 0, 1, 0, 2, 0, 2, 0, 2, 0, 1, 1, 2, 0, 2, 1]
    assert scenes[:16].tolist() == [1, 0, 0, 0, 1, 0, 2, 0, 1, 0, 0, 2, 2, 1, 0, 2]


def test_pooled_predictions_are_of_every_patch() -> None:
    assert set(Pooled(5)(DATA["scenes"], 0)) == {"test"}


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (rows(80), 20, "20 folds leave one without class 'barren', which has 7 patches; use 7 at"),
        (rows(400, scenes=4), 5, r"'barren', which has \d+ patches in 4 scenes; use 4 at most"),
        # Two folds are drawn as four quarters, so that train and val are of different scenes.
        (rows(400, scenes=3), 2, r"2 folds leave .* in 3 scenes; use 3$"),
        (rows(400, scenes=1), 5, r"in 1 scene; remove the setting, or add patches: each class"),
        (rows(400, scenes=3), 4, r"in 3 scenes; use 3 at most"),
    ],
)
def test_folds_that_lack_a_class_are_refused_with_the_largest_number(
    data: PatchRows, count: int, message: str
) -> None:
    with pytest.raises(UsageError, match=f"^cross_validation: .*{message}"):
        Fold(1, count)(data, 0)


def test_a_protocol_lists_a_train_set_for_each_fold() -> None:
    protocol = build({**CONTENT, "protocol": {"cross_validation": 3}}).protocol
    sets = fold_sets(protocol)
    assert [item.name for item in sets] == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    assert sets[1].identity == {"rule": "Fold", "number": 2, "count": 3, "version": 1}
    assert (sets[1].kind, sets[1].slug) == ("fold", "fold-2-of-3-")
    assert fold_sets(build(CONTENT).protocol) == ()


def test_a_fold_takes_no_more_epochs() -> None:
    chosen = ChosenPatches(None, TrainSet("fold 1 of 3", Fold(1, 3)), 0)  # type: ignore[arg-type]
    assert epoch_factor(chosen) == 1


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"cross_validation": 1}, r"'cross_validation' = 1: .*greater than or equal to 2"),
        ({"cross_validation": 21}, r"'cross_validation' = 21: .*less than or equal to 20"),
        ({"cross_validation": 2.5}, r"'cross_validation' = 2.5: .*integer"),
        ({"cross_validation": "5"}, r"'cross_validation' = '5': .*integer"),
        ({"cross_validation": True}, r"'cross_validation' = (True|true): .*integer"),
        ({"cross_validation": 5, "shots": [1]}, r"'shots' = \[1\] divides .*; remove one$"),
        (
            {"cross_validation": 5, "label_fractions": [0.5]},
            r"'label_fractions' = \[0.5\] .* 'cross_validation' = 5 .*; remove one$",
        ),
    ],
)
def test_settings_that_are_no_cross_validation_are_refused(
    protocol: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=rf"^here.toml \[protocol\]: {message}"):
        build({**CONTENT, "protocol": protocol}, where="here.toml")
