"""Match the identifiers of a product with those of patches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.catalog.products.locating import name_first
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLDERS = r"^.*[/\\]"
_EXTENSION = r"(?i)\.(tiff?|png|jpe?g|jp2|npy|npz|nc|h5|hdf5|zarr|zip|parquet)$"
"""Of files of images: other ends of a name may tell patches apart."""


def _file_name(ids: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(ids, _FOLDERS, "")


def _stem(ids: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(_file_name(ids), _EXTENSION, "")


RULES: dict[str, Callable[[pa.Array], pa.Array]] = {
    "the whole patch_id": lambda ids: ids,
    "the file name": _file_name,
    "the file name without extension": _stem,
}
"""How identifiers are compared, the strictest first; both sides are shortened alike."""


class Matched(NamedTuple):
    """The rows of patches: K pairs, sorted by patch; patches without a row are in none."""

    rule: str
    """How they were found, for users."""
    patches: NDArray[np.int64]
    """Number of the patch, (K,)."""
    pieces: NDArray[np.int64]
    """Number of the piece that holds the row, (K,)."""
    rows: NDArray[np.int64]
    """Number of the row in the piece, (K,)."""
    weights: NDArray[np.float64] | None = None
    """Of the row in the mean that becomes the patch's vector, (K,); None: each is alone."""


class Wanted:
    """The identities of patches, as each rule compares them. It pickles."""

    def __init__(self, patch_ids: Sequence[str]) -> None:
        """Take unique identities; a rule that makes two of them equal is left out."""
        self.patch_ids = pa.array(patch_ids, pa.string())
        keys = {rule: key(self.patch_ids) for rule, key in enumerate(RULES.values())}
        self._keys = {
            rule: found
            for rule, found in keys.items()
            if pc.count_distinct(found).as_py() == len(found)
        }

    def find(self, batches: Iterable[pa.Array]) -> NDArray[np.int64]:
        """Return the matches with identifiers, (M, 3): numbers of rule, patch and row.

        Args:
            batches: texts, in the order of the rows.
        """
        found, start = [np.empty((0, 3), np.int64)], 0
        for ids in batches:
            for rule, key in enumerate(RULES.values()):
                if rule in self._keys:
                    at = pc.index_in(key(ids), value_set=self._keys[rule], skip_nulls=True)
                    rows = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
                    patches = at.drop_null().to_numpy(zero_copy_only=False)
                    rules = np.full(len(rows), rule)
                    found.append(np.stack([rules, patches, rows + start], axis=1))
            start += len(ids)
        return np.concatenate(found)

    def choose(
        self,
        found: NDArray[np.int64],
        where: str,
        example: Callable[[], str | None],
        *,
        drops_missing: bool = False,
    ) -> Matched:
        """Return the row of each patch by the first rule that finds most of them.

        Args:
            found: matches of all pieces, (M, 4): those of ``find``, and the number of the piece.
            where: start of each message.
            example: returns an identifier of the product, if it has any.
            drops_missing: whether a patch may have no row.

        Raises:
            UsageError: a patch has no row, or several.
        """
        count = len(self.patch_ids)
        numbers = [
            np.bincount(found[found[:, 0] == rule, 1], minlength=count)
            for rule in range(len(RULES))
        ]
        best = max(range(len(RULES)), key=lambda rule: (numbers[rule] > 0).sum())
        rule, times = list(RULES)[best], numbers[best]
        if not times.any():
            raise UsageError(
                f"{where}: none of its identifiers is that of a patch: they are like "
                f"{example()!r}, and those of the {count:,} patches like "
                f"{self.patch_ids[0].as_py()!r}; write patch_id into the file, or set 'id_column'"
            )
        if (times > 1).any():
            raise UsageError(
                f"{where}: {(times > 1).sum():,} patches have several rows by {rule} "
                f"({self._named(times > 1)}); keep one row of each"
            )
        if not times.all() and not drops_missing:
            raise UsageError(
                f"{where}: {(times == 0).sum():,} of {count:,} patches have no row by {rule} "
                f'({self._named(times == 0)}); add them to the file, or set missing = "drop" to '
                "compare all rows without these patches"
            )
        mine = found[found[:, 0] == best]
        mine = mine[np.argsort(mine[:, 1])]
        return Matched(rule, mine[:, 1], mine[:, 3], mine[:, 2])

    def _named(self, which: NDArray[np.bool_]) -> str:
        return name_patches(self.patch_ids, which)


def name_patches(patch_ids: pa.Array, which: NDArray[np.bool_]) -> str:
    """Return the first identities of some patches, and how many there are."""
    return name_first(patch_ids.filter(pa.array(which)).to_pylist())
