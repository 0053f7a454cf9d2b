"""The draw of patches: exact counts, the same at any order, val and test untouched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.stages.patches.sampling import check_classes, choose, sampling_notes
from benchmark.tables import CANDIDATES

CLASSES = ("water", "trees", "barren")
SPLIT_OF = {"delaware": "val", "pennsylvania": "test"}


def candidates(
    counts: dict[str, tuple[int, int, int]], *, order_seed: int | None = None
) -> pa.Table:
    """Return candidates with these counts of each class, by region."""
    rows = [
        {
            "patch_id": f"{region}-{name}-{number}",
            "split": SPLIT_OF.get(region, "train"),
            "label": label,
            "region": region or None,
        }
        for region, of_class in counts.items()
        for label, name in enumerate(CLASSES)
        for number in range(of_class[label])
    ]
    if order_seed is not None:
        rows = [rows[i] for i in np.random.default_rng(order_seed).permutation(len(rows))]
    nothing = dict.fromkeys(CANDIDATES.names)
    return pa.Table.from_pylist([nothing | row for row in rows], schema=CANDIDATES)


def config(**settings: Any) -> DatasetConfig:
    return DatasetConfig(name="chesapeake", root="x", **settings)


def draw(table: pa.Table, **settings: Any) -> Counter[tuple[str, str]]:
    """Return the number of chosen patches by split and class."""
    chosen = choose(table, config(**settings), CLASSES)
    pairs = zip(chosen["split"].to_pylist(), chosen["label"].to_pylist(), strict=True)
    return Counter((split, CLASSES[label]) for split, label in pairs)


def ids(table: pa.Table, **settings: Any) -> set[str]:
    return set(choose(table, config(**settings), CLASSES)["patch_id"].to_pylist())


STATES = {
    "virginia": (300, 600, 20),
    "maryland": (100, 300, 30),
    "delaware": (50, 200, 10),
    "pennsylvania": (80, 400, 20),
}


def test_a_cap_by_class_holds_in_each_split_and_leaves_the_other_classes() -> None:
    found = draw(candidates(STATES), per_class={"water": 60, "barren": 1000})
    assert found == {
        ("train", "water"): 60, ("train", "trees"): 900, ("train", "barren"): 50,
        ("val", "water"): 50, ("val", "trees"): 200, ("val", "barren"): 10,
        ("test", "water"): 60, ("test", "trees"): 400, ("test", "barren"): 20,
    }  # fmt: skip


def test_a_table_of_equal_caps_draws_what_one_number_draws() -> None:
    table = candidates(STATES)
    assert ids(table, per_class=dict.fromkeys(CLASSES, 40)) == ids(table, per_class=40)


def test_balanced_cuts_each_class_of_train_to_the_rarest_and_nothing_else() -> None:
    table = candidates(STATES)
    found = draw(table, sampling="balanced")
    assert [found["train", name] for name in CLASSES] == [50, 50, 50]
    assert [found["test", name] for name in CLASSES] == [80, 400, 20]
    assert [found["val", name] for name in CLASSES] == [50, 200, 10]


def test_balanced_regions_are_filled_with_equal_numbers_before_classes_are_cut() -> None:
    # 90 of each region: 35 + 35 + 20 in virginia, 30 of each in maryland.
    found = draw(candidates(STATES), sampling="balanced", per_region=90)
    assert [found["train", name] for name in CLASSES] == [50, 50, 50]
    assert sum(count for (split, _), count in found.items() if split == "test") == 90
    # Within a natural draw of 90 patches, only about 6 are barren.
    assert draw(candidates(STATES), per_region=90)["train", "barren"] < 15


def test_a_boost_keeps_all_of_the_rare_class_and_thins_the_others() -> None:
    # 50 of 1,350 candidates are barren: fewer than half an equal share, which is 225.
    found = draw(candidates(STATES), rare_class_boost=4)
    assert [found["train", name] for name in CLASSES] == [100, 225, 50]
    assert [found["test", name] for name in CLASSES] == [80, 400, 20]


def test_a_boost_by_class_thins_each_class_by_its_factor() -> None:
    found = draw(candidates(STATES), rare_class_boost={"barren": 10, "water": 5})
    assert [found["train", name] for name in CLASSES] == [200, 90, 50]


def test_a_boost_keeps_the_total_of_each_region() -> None:
    table = candidates(STATES)
    plain, boosted = draw(table, per_region=130), draw(table, per_region=130, rare_class_boost=5)
    chosen = choose(table, config(per_region=130, rare_class_boost=5), CLASSES)
    assert Counter(chosen["region"].to_pylist()) == dict.fromkeys(STATES, 130)
    # Kept shares: 5 f of barren and f of the others, up to 1, fill the total.
    # virginia: f = 130 / (900 + 5 * 20); maryland: f = (130 - 30) / 400, its barren all kept.
    assert boosted["train", "barren"] == round(100 * 0.13) + 30
    assert boosted["train", "water"] == round(300 * 0.13) + round(100 * 0.25)
    assert plain["train", "barren"] < boosted["train", "barren"]


@pytest.mark.parametrize(
    "settings", [{"sampling": "balanced"}, {"rare_class_boost": 6}], ids=["balanced", "boost"]
)
@pytest.mark.parametrize("caps", [{}, {"per_region": 70}, {"per_class": 30}], ids=str)
def test_val_and_test_are_those_of_the_natural_draw(
    settings: dict[str, Any], caps: dict[str, Any]
) -> None:
    # A region in several splits, as folders without regions are.
    table = candidates(STATES)
    one = table.set_column(4, CANDIDATES.field("region"), pa.nulls(table.num_rows, pa.string()))
    for given in (table, one):
        plain, other = ids(given, **caps), ids(given, **caps, **settings)
        held_out = {name for name in plain if name.startswith(("delaware", "pennsylvania"))}
        assert held_out
        assert held_out == {n for n in other if n.startswith(("delaware", "pennsylvania"))}


COUNTS = st.tuples(*[st.integers(1, 40)] * 3)
SETTINGS = st.fixed_dictionaries(
    {"seed": st.integers(0, 3)},
    optional={
        "per_class": st.one_of(
            st.integers(1, 30), st.dictionaries(st.sampled_from(CLASSES), st.integers(1, 30))
        ),
        "per_region": st.integers(3, 60),
        "rare_class_boost": st.one_of(
            st.floats(1.5, 20), st.dictionaries(st.sampled_from(CLASSES), st.floats(1.5, 20))
        ),
    },
)


@hypothesis.given(
    COUNTS, COUNTS, COUNTS, SETTINGS, st.integers(0, 99), st.sampled_from(["natural", "balanced"])
)
@hypothesis.settings(max_examples=60)
def test_the_draw_is_exact_and_independent_of_the_order(
    one: Any, two: Any, held_out: Any, settings: dict[str, Any], order_seed: int, sampling: str
) -> None:
    if sampling == "balanced":
        settings = {**settings, "sampling": sampling}
        settings.pop("rare_class_boost", None)
    counts = {"virginia": one, "": two, "pennsylvania": held_out}
    table = candidates(counts)
    found = ids(table, **settings)
    assert found == ids(candidates(counts, order_seed=order_seed), **settings)
    drawn = draw(table, **settings)
    caps = settings.get("per_class", 40)
    for (_, name), count in drawn.items():
        assert count <= (caps.get(name, 40 * 2) if isinstance(caps, dict) else 2 * caps)
    per_region = settings.get("per_region", 1000)
    for region in ("virginia", "pennsylvania"):
        assert sum(name.startswith(region) for name in found) <= per_region
    train = [drawn["train", name] for name in CLASSES]
    if sampling == "balanced":
        assert len({count for count in train if count}) == 1
    elif "rare_class_boost" in settings and "per_region" in settings:
        plain = {**settings}
        plain.pop("rare_class_boost")
        assert len(found) == len(ids(table, **plain))


@pytest.mark.parametrize(
    "settings",
    [
        {"per_class": {"trees": 40}},
        {"sampling": "balanced"},
        {"rare_class_boost": 5, "per_region": 100},
    ],
    ids=str,
)
def test_another_seed_draws_other_patches_of_the_same_counts(settings: dict[str, Any]) -> None:
    table = candidates({**STATES, "delaware": (9, 9, 9), "pennsylvania": (9, 9, 9)})
    assert draw(table, **settings, seed=0) == draw(table, **settings, seed=1)
    assert ids(table, **settings, seed=0) != ids(table, **settings, seed=1)


def test_unknown_classes_of_the_settings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"x\.toml \[dataset\]: 'per_class' names the unknown cl"):
        check_classes(config(per_class={"Water": 5}), CLASSES, "x.toml")
    with pytest.raises(UsageError, match=r"'rare_class_boost' .* 'barre'. Did you mean 'barren'"):
        check_classes(config(rare_class_boost={"barre": 5}), CLASSES, "x.toml")
    check_classes(config(per_class={"water": 5}, rare_class_boost=2), CLASSES, "x.toml")


def test_notes_say_how_train_was_sampled_and_which_caps_are_not_reached() -> None:
    table = candidates(STATES)
    assert sampling_notes(table, config(), CLASSES) == []
    (balanced,) = sampling_notes(table, config(sampling="balanced"), CLASSES)
    assert balanced.startswith("Train is balanced")
    (boosted,) = sampling_notes(table, config(rare_class_boost=4), CLASSES)
    assert "barren 4. Val and test keep" in boosted
    even = candidates({"virginia": (10, 10, 10), "delaware": (5, 5, 5)})
    (nothing,) = sampling_notes(even, config(rare_class_boost=4), CLASSES)
    assert nothing.startswith("rare_class_boost changes nothing")
    one, two = sampling_notes(table, config(per_class={"barren": 15}, per_region=400), CLASSES)
    assert one == "Fewer patches than per_class asks for: val barren 10 of 15."
    assert two == "Fewer patches than per_region asks for: delaware 260 of 400."
