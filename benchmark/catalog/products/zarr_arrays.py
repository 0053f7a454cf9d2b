"""An array of a Zarr store with what its metadata and its neighbours say of it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.catalog.products.zarr_stores import check_array, read_part
from benchmark.catalog.rasters.files import FileError
from benchmark.errors import tidy
from benchmark.fields import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ZarrArray:
    """An array of a store."""

    store: str
    """Path below the root."""
    path: str
    """Below the store; empty: the store is the array."""
    nodes: Mapping[str, Any]
    """All groups and arrays of the store by their paths."""

    @property
    def own(self) -> Any:
        """The array itself."""
        return self.nodes[self.path]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of its dimensions; empty: not all have one."""
        own = self.own
        names = getattr(own.metadata, "dimension_names", None) or own.attrs.get("_ARRAY_DIMENSIONS")
        if not isinstance(names, list | tuple) or len(names) != own.ndim:
            return ()
        return tuple(names) if all(isinstance(name, str) and name for name in names) else ()

    @property
    def sides(self) -> Mapping[str, int]:
        """Lengths of its dimensions by their names."""
        return dict(zip(self.dimensions, self.own.shape, strict=True)) if self.dimensions else {}

    @property
    def words(self) -> str:
        """Description for messages."""
        names = ", ".join(self.dimensions) or "no names"
        sides = " x ".join(map(str, self.own.shape))
        return tidy(f"{self.path or self.store} ({names}: {sides})", 100)

    def attribute(self, name: str) -> Any:
        """Return an attribute of the array or else its group: those above are not inherited."""
        found = self.own.attrs.get(name)
        if found is None and self.path:
            found = self.nodes[self.path.rpartition("/")[0]].attrs.get(name)
        return found

    def beside(self, name: object) -> ZarrArray | None:
        """Return the array of a name in the same group; None: there is none."""
        if not self.path or not isinstance(name, str) or "/" in name:
            return None
        path = f"{self.path.rpartition('/')[0]}/{name}".lstrip("/")
        if path not in self.nodes or hasattr(self.nodes[path], "members"):
            return None
        return ZarrArray(self.store, path, self.nodes)

    def coordinates(self, name: str) -> NDArray[Any] | None:
        """Return the coordinates of a dimension, unpacked; None: there are none.

        Raises:
            FileError: they are damaged.
        """
        array = self.beside(name)
        if array is None or array.own.shape != (self.sides[name],):
            return None
        check_array(array.own, name)
        found = read_part(array.own, name)
        factor, first = (array.number(key) for key in ("scale_factor", "add_offset"))
        if (factor, first) != (None, None):
            found = found * (1.0 if factor is None else factor) + (first or 0.0)
        return found

    def number(self, name: str) -> float | None:
        """Return an attribute as a number; None: there is none.

        Raises:
            FileError: it is something else.
        """
        found = self.own.attrs.get(name)
        if found is None:
            return None
        try:
            if isinstance(found, str) and len(found) == 12 and found.endswith("="):
                # So xarray writes float numbers in version 3: eight bytes as base64.
                return float(struct.unpack("<d", base64.b64decode(found))[0])
            return float(found)
        except (TypeError, ValueError, struct.error):
            told = shown(found, 100)
            raise FileError(f"has the attribute '{name}' = {told}, which is no number") from None


def arrays_of(store: str, nodes: Mapping[str, Any]) -> Iterator[ZarrArray]:
    """Yield the arrays of a store, sorted by path."""
    for path in sorted(nodes):
        if not hasattr(nodes[path], "members"):
            yield ZarrArray(store, path, nodes)
