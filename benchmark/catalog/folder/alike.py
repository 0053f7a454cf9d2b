"""Images that are nearly the same: re-encoded or resized copies.

The difference hash (dHash: N. Krawetz, "Kind of Like That", hackerfactor.com, 2013) of a grey
thumbnail of 16 x 17 px has one bit per pair of neighbours: whether the right one is brighter. Two
images are alike if their hashes differ in at most ``MAX_BITS`` of 256 bits and their thumbnails in
at most ``MAX_DIFFERENCE`` of the thumbnails' standard deviation. The second rule keeps apart what
has hardly any contrast, such as water, whose hashes are alike by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from benchmark.catalog.folder.facts import THUMB_SHAPE, Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BITS = 24
"""Bits of 256 in which the hashes of two images may differ. Of aerial photographs (UC Merced),
copies in JPEG of quality 40 to 90 or of half the size differ in at most 18 bits, and different
images in at least 99."""
MAX_DIFFERENCE = 0.1
"""Mean difference of two thumbnails, in standard deviations of the one with less contrast."""
MAX_IMAGES = 200_000
"""Different images that are compared; the time grows with the square of their number."""
_BLOCK = 64


def find_alike(facts: Mapping[str, Facts]) -> dict[str, str] | None:
    """Return the first path of its group for each image that is nearly the same as another.

    Images with the same pixels are one image here. 27,000 images take 2 s of one core, or up to
    16 s if they have little structure. None: there are too many images to compare.

    Args:
        facts: of each image, by its path.
    """
    import numpy as np

    first_of: dict[str, str] = {}
    for path, item in facts.items():
        first_of.setdefault(item.pixels, path)
    paths = list(first_of.values())
    if len(paths) > MAX_IMAGES:
        return None
    if not paths:
        return {}
    # Values of different pixel types cannot be compared.
    kinds = np.unique([facts[path].dtype for path in paths], return_inverse=True)[1]
    low = np.array([facts[path].thumb_low for path in paths], np.float64)
    high = np.array([facts[path].thumb_high for path in paths], np.float64)
    stored = bytes.fromhex("".join(facts[path].thumb for path in paths))
    thumbs = np.frombuffer(stored, np.uint8).reshape(len(paths), *THUMB_SHAPE)
    leader = {path: path for path in paths}

    def find(path: str) -> str:
        while leader[path] != path:
            leader[path] = leader[leader[path]]
            path = leader[path]
        return path

    for first, second in _pairs(thumbs, low, high, kinds):
        one, other = sorted((find(paths[first]), find(paths[second])))
        leader[other] = one
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(find(path), []).append(path)
    alike = {path: name for name, members in groups.items() if len(members) > 1 for path in members}
    return {
        path: alike[first_of[item.pixels]]
        for path, item in facts.items()
        if first_of[item.pixels] in alike
    }


def difference_hash(thumbs: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the difference hashes (N, 4) of thumbnails (N, 16, 17)."""
    import numpy as np

    bits = thumbs[:, :, 1:] > thumbs[:, :, :-1]
    return np.packbits(bits.reshape(len(thumbs), -1), axis=1).view(np.uint64)


def _pairs(
    thumbs: NDArray[np.uint8],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    kinds: NDArray[np.int64],
) -> list[tuple[int, int]]:
    import numpy as np

    flat = thumbs.reshape(len(thumbs), -1)
    scale = (high - low) / 255.0
    mean = low + flat.mean(axis=1) * scale
    std = flat.std(axis=1) * scale
    # The means of alike images differ by less than the tolerance: sorted, few come in question.
    order = np.argsort(mean, kind="stable")
    order = order[std[order] > 0]
    hashes = difference_hash(thumbs)[order]
    flat, low, scale, mean, std, kinds = (
        values[order] for values in (flat, low, scale, mean, std, kinds)
    )
    tolerance = MAX_DIFFERENCE * std
    ends = np.searchsorted(mean, mean + tolerance, side="right")
    found: list[tuple[int, int]] = []
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        end = int(ends[start:stop].max())
        differs = np.zeros((stop - start, end - start), np.uint16)
        for word in range(hashes.shape[1]):
            differs += np.bitwise_count(hashes[start:stop, None, word] ^ hashes[start:end, word])
        rows, cols = np.nonzero(differs <= MAX_BITS)
        rows, cols = rows + start, cols + start
        near = (rows < cols) & (kinds[rows] == kinds[cols])
        rows, cols = rows[near], cols[near]
        for part in range(0, len(rows), 4096):
            a, b = rows[part : part + 4096], cols[part : part + 4096]
            one = flat[a] * scale[a, None] + low[a, None]
            two = flat[b] * scale[b, None] + low[b, None]
            same = np.abs(one - two).mean(axis=1) <= np.minimum(tolerance[a], tolerance[b])
            found += zip(order[a[same]].tolist(), order[b[same]].tolist(), strict=True)
    return found
