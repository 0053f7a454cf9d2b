"""Arrays in a folder as a source of patches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.arrays.writing import FACTS, IMAGES, TABLE, digest_image
from benchmark.catalog.folder.assignment import Given, assign
from benchmark.catalog.folder.images import crop_and_resize
from benchmark.catalog.folder.listed import (
    ListedSource,
    Unusable,
    digest_rows,
    read_images,
    tabulate,
)
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError, one_line
from benchmark.specs import Images

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ArraySource(ListedSource):
    """Images of one file, one patch each; a ``patch_id`` is the number of the image."""

    root: Path
    bands: tuple[str, ...]
    shape: tuple[int, int, int]
    """(C, H, W) of an image in the file."""
    patch_size: int
    digests: pa.Array
    """The digest of each image, in the order of the file."""

    def read(self, candidates: pa.Table) -> Images:
        """Return the images of the candidates, uint8 (N, C, P, P), in the order of the rows.

        One that is not as it was written becomes a Problem.
        """
        import numpy as np

        path = self.root / IMAGES
        shape = (len(self.bands), self.patch_size, self.patch_size)
        stored: NDArray[np.uint8] | None = None
        reason = ""
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape == (len(self.digests), *self.shape):
                stored = found
            else:
                reason = f"its shape is {found.shape}"
        except (OSError, ValueError) as error:
            reason = one_line(error)

        def read_one(name: str) -> NDArray[np.uint8]:
            row = int(name)
            if stored is None:
                raise Unusable(str(path), f"cannot be read on this machine: {reason}")
            if digest_image(stored[row]) != self.digests[row].as_py():
                raise Unusable(
                    str(path),
                    f"image {row} has changed; delete the folder '{self.root}' and make it again "
                    "with from_arrays",
                )
            patch = crop_and_resize(stored[row], self.patch_size)
            return patch.repeat(len(self.bands), axis=0) if len(patch) == 1 else patch

        return read_images(candidates["patch_id"].to_pylist(), shape, read_one)


def open_arrays(config: DatasetConfig) -> ArraySource:
    """Open a folder that an experiment wrote for the arrays of ``from_arrays``.

    Raises:
        UsageError: there are no such arrays, or the splits are not valid.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"[dataset] root = '{config.root}'"
    root = Path(config.root).absolute()
    if not (root / TABLE).is_file() or not (root / IMAGES).is_file():
        raise UsageError(
            f"{where}: holds no arrays; make them in Python: "
            "benchmark.build(dataset=benchmark.from_arrays(images, labels), ...)"
        )
    try:
        table = pq.read_table(root / TABLE)
        facts = json.loads((table.schema.metadata or {})[FACTS])
        columns = {
            name: table[name].to_pylist()
            for name in ("patch_id", "label", "split", "scene", "region")
        }
        digests = table["digest"].combine_chunks()
        classes, bands, notes, shape = (
            tuple(facts[name]) for name in ("classes", "bands", "notes", "shape")
        )
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{where}: {TABLE} is damaged: {one_line(error)}; delete the folder and make it again "
            "with from_arrays"
        ) from None
    names = columns.pop("patch_id")
    given = {
        name: Given(label, split, scene, region, row)
        for row, (name, label, split, scene, region) in enumerate(
            zip(names, *columns.values(), strict=True)
        )
    }
    digest_of = dict(zip(names, digests.to_pylist(), strict=True))
    rows, split_notes = assign(given, digest_of, config, where=where, unit="row")
    class_of = {name: item.label for name, item in given.items()}
    return ArraySource(
        root=root,
        classes=classes,
        candidates=tabulate(rows, class_of, classes),
        notes=(*notes, *split_notes),
        content_digest=digest_rows(rows, class_of, digest_of, classes=classes, more=[bands, shape]),
        shape=shape,
        bands=bands,
        patch_size=config.patch_size,
        digests=digests,
    )
