"""Train sets: which patches train, validate and test a cell, as a dimension of the grid.

A train set gives every patch a role, which replaces its split. Whoever reads patches through
``ChosenPatches`` sees the roles as splits, so heads, fine-tuning and scores get the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from benchmark.specs import slug_of
from benchmark.store.artefacts import Artefact
from benchmark.tables import SPLITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("patch_id", "split", "label", "scene", "region")
UNUSED = ""
"""The role of a patch that a cell does not use."""


class PatchRows(NamedTuple):
    """What a rule may know of the patches: one entry per patch (N,), sorted by ``patch_id``."""

    ids: NDArray[Any]
    splits: NDArray[Any]
    labels: NDArray[np.int32]
    """Those of patches that a rule gives the role test may divide them, and nothing else."""
    scenes: NDArray[Any]
    """None where scenes are unknown."""
    regions: NDArray[Any]
    classes: tuple[str, ...]
    """Names of the K classes."""

    def units(self) -> NDArray[np.int64]:
        """Return the number of each patch's scene (N,); a patch without one is alone."""
        import pandas as pd

        units, scenes = pd.factorize(self.scenes)
        found: NDArray[np.int64] = units
        is_alone = found < 0
        found[is_alone] = len(scenes) + np.arange(is_alone.sum())
        return found

    def begin(self, *kept: str) -> NDArray[np.str_]:
        """Return roles (N,) for a rule to fill: those of some splits, and ``UNUSED``."""
        # Wide enough for every role: NumPy cuts longer texts without an error.
        return np.where(np.isin(self.splits, kept), self.splits, UNUSED).astype("U5")


class Rule(Protocol):
    """Divides the patches: a frozen dataclass, whose fields enter the fingerprint."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, rows: PatchRows, seed: int) -> NDArray[Any]:
        """Return the role of each patch (N,): train, val, test or ``UNUSED``.

        The patches of test must not depend on the seed.

        Raises:
            UsageError: the patches cannot be divided so.
        """
        ...


@dataclass(frozen=True)
class TrainSet:
    """A named choice of the patches that train, validate and test a cell."""

    name: str
    """The value of the column ``train_set``."""
    rule: Rule | None = None
    """None: every patch keeps its split."""

    @property
    def kind(self) -> str:
        """``all``, or the name of its rule in lower case."""
        return "all" if self.rule is None else type(self.rule).__name__.lower()

    @property
    def is_drawn(self) -> bool:
        """Whether the seed of a cell changes its patches."""
        return getattr(self.rule, "is_drawn", self.rule is not None)

    @property
    def identity(self) -> Any:
        """Its part of a fingerprint."""
        if self.rule is None:
            return self.name
        return {"rule": type(self.rule).__name__, **asdict(self.rule)}

    @property
    def slug(self) -> str:
        """Its part of an artefact's name, with a hyphen at the end; empty for ``all``."""
        return "" if self.rule is None else f"{slug_of(self.name.replace('%', ' percent'))}-"


ALL = TrainSet("all")


@dataclass(frozen=True)
class ChosenPatches:
    """The patches as the cells of one train set and seed see them: roles in place of splits.

    It can be pickled; another process chooses the same rows again.
    """

    patches: Artefact
    train_set: TrainSet
    seed: int

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the roles: a million of them for each cell.
        return type(self), (self.patches, self.train_set, self.seed)

    @property
    def rows(self) -> PatchRows:
        """Every patch, with its split in the data."""
        return _read_rows(self.patches)

    @cached_property
    def roles(self) -> NDArray[Any]:
        """The role of each of ``rows`` (N,).

        Raises:
            UsageError: the patches cannot be divided so.
            CellError: the patches cannot be read.
        """
        if self.train_set.rule is None:
            return self.rows.splits
        roles = self.train_set.rule(self.rows, self.seed)
        if unknown := set(np.unique(roles).tolist()) - {*SPLITS, UNUSED}:
            raise ValueError(f"train set '{self.train_set.name}': unknown roles {sorted(unknown)}")
        return roles

    @cached_property
    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """The patches of each class (K,) by role.

        Raises:
            UsageError: the patches cannot be divided so.
        """
        if self.train_set.rule is None:
            manifest = self.patches.manifest()
            rows = [(row["split"], row["counts"]) for row in manifest["class_counts"]]
            return {
                split: tuple(
                    sum(counts[name] for found, counts in rows if found == split)
                    for name in manifest["classes"]
                )
                for split in SPLITS
            }
        num_classes = len(self.rows.classes)
        return {
            role: tuple(
                np.bincount(self.rows.labels[self.roles == role], minlength=num_classes).tolist()
            )
            for role in SPLITS
        }

    @property
    def num_train(self) -> int:
        """The number of train patches; raises as ``class_counts`` does."""
        return sum(self.class_counts["train"])

    def files(self, prefix: str = "") -> list[str]:
        """Return the sorted names of the files of ``patches``."""
        return self.patches.files(prefix)

    def read_table(
        self,
        *,
        columns: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> pa.Table:
        """Read ``patches`` as ``Artefact.read_table`` does, with roles in place of splits."""
        if self.train_set.rule is None:
            return self.patches.read_table(columns=columns, names=names, splits=splits)
        wanted = self.roles != UNUSED if splits is None else np.isin(self.roles, list(splits))
        # The splits of the data that hold wanted rows: of the others no pixel is read.
        kept = np.unique(self.rows.splits[wanted]).tolist() or ["train"]
        needed = None if columns is None else list(dict.fromkeys([*columns, "patch_id"]))
        table = self.patches.read_table(columns=needed, names=names, splits=kept)
        at = np.searchsorted(self.rows.ids, table["patch_id"].to_numpy())
        is_wanted = wanted[at]
        table = table.filter(pa.array(is_wanted))
        if "split" in table.column_names:
            place = table.column_names.index("split")
            roles = pa.array(self.roles[at[is_wanted]], table.schema.field(place).type)
            table = table.set_column(place, table.schema.field(place), roles)
        return table if columns is None else table.select(list(columns))


def rows_of_table(table: pa.Table, classes: Sequence[str]) -> PatchRows:
    """Return the rows of ``patches``, or of its candidates."""
    ids, splits, labels, scenes, regions = (
        table[name].to_numpy(zero_copy_only=False) for name in COLUMNS
    )
    return PatchRows(ids, splits, labels, scenes, regions, tuple(classes))


@lru_cache(maxsize=1)
def _read_rows(patches: Artefact) -> PatchRows:
    return rows_of_table(patches.read_table(columns=COLUMNS), patches.manifest()["classes"])
