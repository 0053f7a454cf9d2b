"""The contract of a data set: a source that lists candidates and reads their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from benchmark.catalog.contracts.checks import Check, expect, pickles
from benchmark.tables import CANDIDATES, SPLITS, check_table

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmark.config import DatasetConfig
    from benchmark.specs import Dataset, Found, Source

MAX_UNITS = 8
NUM_READ = 4


@dataclass(frozen=True)
class Case:
    """A data set with the settings of ``[dataset]``."""

    dataset: Dataset
    config: DatasetConfig

    @cached_property
    def source(self) -> Source:
        """The opened source."""
        return self.dataset.open(self.config)

    @cached_property
    def found(self) -> list[Found]:
        """The candidates of its first units."""
        return [self.source.find(unit) for unit in self.source.units()[:MAX_UNITS]]

    @property
    def some(self) -> pa.Table:
        """A few candidates of the first unit that has any."""
        table = next((item.candidates for item in self.found if item.candidates.num_rows), None)
        expect(table is not None, "its first units have no candidates")
        assert table is not None
        return table.slice(0, NUM_READ)


def opens(case: Case) -> None:
    """It opens, with at least two classes and one band, each named once."""
    for what, names, least in (
        ("classes", case.source.classes, 2),
        ("bands", case.source.bands, 1),
    ):
        expect(len(names) >= least, f"{what} = {names}: at least {least}")
        expect(len(set(names)) == len(names), f"{what} = {names}: a name is there twice")


def has_the_same_digest_twice(case: Case) -> None:
    """Opened again, it has the same digest."""
    one, other = case.source.digest(), case.dataset.open(case.config).digest()
    expect(bool(one) and one == other, f"its digest is {one!r}, then {other!r}")


def lists_its_units(case: Case) -> None:
    """It lists at least one unit, each once, in the same order each time."""
    units = list(case.source.units())
    expect(len(units) > 0 and len(set(units)) == len(units), f"units: {units[:3]}")
    expect(list(case.source.units()) == units, "units differ in a second call")


def finds_candidates(case: Case) -> None:
    """Candidates have the columns of tables.CANDIDATES, known splits and labels."""
    k = len(case.source.classes)
    for item in case.found:
        table = check_table(item.candidates, CANDIDATES, what="candidates")
        splits = set(table["split"].to_pylist())
        expect(splits <= set(SPLITS), f"unknown splits: {sorted(splits - set(SPLITS))}")
        labels = set(table["label"].to_pylist())
        expect(labels <= set(range(k)), f"labels {sorted(labels)} of {k} classes")
        expect(item.num_examined >= table.num_rows, "num_examined is below the candidates")


def reads_uint8(case: Case) -> None:
    """It reads pixels uint8 (N, C, H, W) of the patch size."""
    images = case.source.read(case.some)
    expect(not images.problems, f"it could not read: {images.problems[:1]}")
    pixels, size = np.asarray(images.pixels), case.config.patch_size
    wanted = (case.some.num_rows, len(case.source.bands), size, size)
    expect(pixels.dtype == np.uint8, f"it reads {pixels.dtype}; read uint8")
    expect(pixels.shape == wanted, f"it reads shape {pixels.shape}; read {wanted}")


def reads_the_same_in_any_order(case: Case) -> None:
    """The pixels of a candidate do not depend on those that are read with it."""
    whole, last = case.source.read(case.some), case.some.num_rows - 1
    alone = case.source.read(case.some.slice(last, 1))
    same = np.array_equal(np.asarray(whole.pixels)[-1], np.asarray(alone.pixels)[0])
    expect(same, "a patch that is read alone has other pixels")


def pickles_for_workers(case: Case) -> None:
    """The opened source reaches another process, and reads there."""
    copy = pickles(case.source)
    images = copy.read(case.some)
    same = np.array_equal(images.pixels, case.source.read(case.some).pixels)
    expect(same, "a copy reads other pixels")


CHECKS: Sequence[Check[Case]] = (
    opens,
    has_the_same_digest_twice,
    lists_its_units,
    finds_candidates,
    reads_uint8,
    reads_the_same_in_any_order,
    pickles_for_workers,
)
