"""A registry keeps its order, and duplicates and typos are errors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.datasets import DATASETS
from benchmark.catalog.heads import HEADS
from benchmark.catalog.metrics import METRICS
from benchmark.errors import UsageError
from benchmark.registry import Registry
from benchmark.stages import STAGES


@dataclass(frozen=True)
class Fruit:
    name: str


FRUITS = Registry("fruit", [Fruit("pear"), Fruit("apple"), Fruit("cherry")])


def test_entries_keep_the_order_of_the_catalog() -> None:
    assert FRUITS.names() == ["pear", "apple", "cherry"]
    assert [fruit.name for fruit in FRUITS] == FRUITS.names()
    assert len(FRUITS) == 3


def test_an_entry_is_found_by_its_name() -> None:
    assert FRUITS.get("apple") == Fruit("apple")
    assert "apple" in FRUITS
    assert "banana" not in FRUITS
    assert 5 not in FRUITS


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two fruits are named 'pear'"):
        Registry("fruit", [Fruit("pear"), Fruit("fig"), Fruit("pear")])


def test_a_typo_names_the_place_and_the_nearest_entry() -> None:
    with pytest.raises(UsageError, match=r"^x\.toml: unknown fruit 'aple'\. Did you mean 'apple'"):
        FRUITS.get("aple", where="x.toml")


def test_a_name_that_resembles_none_lists_all_of_them() -> None:
    with pytest.raises(UsageError, match=r"^unknown fruit 'zzz'\. Known: apple, cherry, pear\.$"):
        FRUITS.get("zzz")


def test_names_are_not_changed_through_the_list_that_is_returned() -> None:
    FRUITS.names().append("fig")
    assert "fig" not in FRUITS


def test_an_empty_registry_says_that_a_name_is_unknown() -> None:
    empty: Registry[Fruit] = Registry("fruit", [])
    with pytest.raises(UsageError, match=r"^unknown fruit 'apple'\.$"):
        empty.get("apple")


@pytest.mark.parametrize(
    "registry", [BACKBONES, DATASETS, HEADS, METRICS, STAGES], ids=lambda item: item.kind
)
def test_every_entry_of_every_catalog_is_found_and_has_a_file_name(registry: Registry) -> None:
    for entry in registry:
        assert registry.get(entry.name) is entry
        assert entry.name.isidentifier()
