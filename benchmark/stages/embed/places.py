"""Take the vectors of a product of rasters at the footprints of patches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.products import PlacedProduct, Sampler, SampleRequest
from benchmark.specs import LocatedSource
from benchmark.stages.embed.taking import Taken, Tasks, answer

COLUMNS = ("patch_id", "scene", "row", "col", "lon", "lat")


class TakeFootprints:
    """Samples some footprints (a Ray Data read task)."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __call__(self, item: tuple[int, SampleRequest]) -> pa.Table:
        """Return one row: vectors with their shares without data, float32 (n, D + 1), as bytes."""
        number, request = item
        return answer(number, partial(self._sampler.sample, request))


class PlaceTaker:
    """Takes vectors by the place of patches (``taking.Taker``)."""

    def __init__(
        self, product: PlacedProduct, corners: NDArray[np.float64], tasks: Tasks, where: str
    ) -> None:
        """Read the headers of the product.

        Args:
            product: of rasters.
            corners: of the patches in degrees, (N, M, 2); NaN: unknown.
            tasks: run the reading.
            where: start of each message.

        Raises:
            UsageError: the product is damaged, touches no patch, or is of two years at one place.
        """
        self._product, self._tasks, self._where = product, tasks, where
        self._sampler = product.open()
        self._known = np.flatnonzero(np.isfinite(corners).all(axis=(1, 2)))
        self._requests = self._sampler.requests(corners[self._known])

    @property
    def rule(self) -> str:
        """How a footprint becomes a vector (see ``Taker``)."""
        return f"place: {self._product.words}"

    def take(self, patches: NDArray[np.int64]) -> Taken:
        """Return the vectors of patches (see ``Taker``)."""
        place_of = np.full(1 + max(patches.max(initial=-1), self._known.max(initial=-1)), -1)
        place_of[patches] = np.arange(len(patches))
        requests, places = [], []
        for request in self._requests:
            at = place_of[self._known[request.patches]]
            if (at >= 0).any():
                requests.append(request.choose(at >= 0))
                places.append(at[at >= 0])
        dim = self._product.dim
        found = np.full((len(patches), dim + 1), np.nan, np.float32)
        work = TakeFootprints(self._sampler)
        for number, content in self._tasks.run(work, list(enumerate(requests))):
            found[places[number]] = np.frombuffer(content, np.float32).reshape(-1, dim + 1)
        return Taken(found[:, :dim], found[:, dim])


def find_corners(
    context: Context, names: Mapping[str, Any], *, needs_outlines: bool, where: str
) -> NDArray[np.float64]:
    """Return the corners of patches in degrees, (N, 4, 2), or their centres, (N, 1, 2).

    Args:
        context: of the experiment.
        names: of the parts of ``patches``, in the order wanted.
        needs_outlines: whether centres are not enough.
        where: start of each message.

    Raises:
        UsageError: the data set does not tell them.
        CellError: a scene cannot be read.
    """
    tables = [context.patches.read_table(names=[name], columns=list(COLUMNS)) for name in names]
    table = pa.concat_tables(tables)
    source: Any = context.source
    if isinstance(source, LocatedSource):
        corners = source.corners(table)
        if np.isfinite(corners).all(axis=(1, 2)).any():
            return corners
    lon, lat = (table[name].to_numpy(zero_copy_only=False) for name in ("lon", "lat"))
    centres: NDArray[np.float64] = np.stack([lon, lat], axis=-1)[:, None].astype(np.float64)
    if not np.isfinite(centres).any():
        raise UsageError(
            f"{where}: its vectors are found by the places of patches, but those of "
            f"'{context.dataset.name}' have no coordinates; use scenes, or GeoTIFF images with a "
            "coordinate reference system"
        )
    if needs_outlines:
        raise UsageError(
            f"{where}: its vectors are found by the footprints of patches, but of those of "
            f"'{context.dataset.name}' only the centres are known; set sample = \"centre\" for "
            'rasters, or join = "centre" for tables'
        )
    return centres
