"""Facts on the pixels of every image of a folder, remembered by the files' contents.

One image of 64 x 64 px takes 0.3 ms (JPEG) to 3 ms (TIFF of 13 bands) once; later openings take
them from the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.catalog.folder.decoding import (
    Decoded,
    ImageError,
    alpha_kind,
    decode_in_thread,
    without_warnings,
)
from benchmark.progress import say
from benchmark.store.memory import open_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Raised by hand when the facts of a content change, so that none of the cache is taken."""
NUM_SAMPLED = 4096
"""Most values of an image of which the quantiles are taken."""
NUM_QUANTILES = 51
MAX_INVALID = 0.5
"""Largest share of an image's values without data; images with more are left out."""
THUMB_SHAPE = (16, 17)
"""(H, W) of the grey thumbnail: 16 differences in each of 16 rows."""
MAX_THREADS = min(4, os.cpu_count() or 1)
"""Images decoded at once: the largest takes some GiB."""
CHUNK = 1024
"""Images after which the cache is written: an interrupted opening goes on there."""
MAX_EXAMINED = 100_000
"""Contents that are examined; of more, evenly spread ones: their facts would fill the memory."""
MANY = 2_000
"""Images whose examination takes seconds: it is said before it begins."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one image besides its pixels; JSON.

    Shares and values are those of the bands besides alpha.
    """

    dtype: str
    num_bands: int
    """With alpha."""
    alpha: str
    """Empty without alpha, else its kind: ``opaque``, ``mask`` or ``varied``."""
    descriptions: list[str | None]
    names: list[str] | None
    invalid: float
    """Share of the values that hold no data, those that alpha hides included."""
    invalid_beside_alpha: float
    """The same if alpha is kept as data."""
    highest_invalid: float | None
    """Largest stored value that holds no data; None: there is none, or NaN alone."""
    low: float | None
    high: float | None
    """Smallest and largest value that holds data; None: there is none."""
    quantiles: list[float]
    """Of values that hold data, at even steps from 0 to 1; empty for uint8."""
    how: list[str]
    pixels: str
    """Digest of the decoded pixels."""
    thumb: str
    """Grey thumbnail of ``THUMB_SHAPE``, uint8 in hex digits."""
    thumb_low: float
    thumb_high: float
    """Grey values of 0 and 255 in the thumbnail."""

    def without_data(self, *, alpha: bool) -> float:
        """Return the share of the values that hold no data; ``alpha``: whether it is data."""
        return self.invalid_beside_alpha if alpha else self.invalid

    def clipped(self, value_range: tuple[float, float]) -> float:
        """Return the share of the values with data that lie outside a range, to about 2 %."""
        outside = [not value_range[0] <= value <= value_range[1] for value in self.quantiles]
        return sum(outside) / len(outside) if outside else 0.0


def examine_images(
    root: Path, digest_of: Mapping[str, str | None], *, where: str
) -> dict[str, Facts]:
    """Return the facts of each image that can be decoded, by its path; of some, if there are many.

    Args:
        root: the folder; paths are relative to it.
        digest_of: the digest of each file's content, None for files that cannot be read.
        where: start of the message on what is done.
    """
    paths: dict[str, str] = {}
    for path, digest in digest_of.items():
        if digest:
            paths.setdefault(_key(path, digest), path)
    chosen = list(paths)[:: step_of(len(paths))]
    with open_memory("images", VERSION) as memory:
        found = {key: Facts(**content) for key, content in memory.recall(chosen).items()}
        todo = [key for key in chosen if key not in found]
        if len(todo) >= MANY:
            say(f"{where}: looks at the pixels of {len(todo):,} images, once for each content")
        with without_warnings(), ThreadPoolExecutor(MAX_THREADS) as pool:
            for start in range(0, len(todo), CHUNK):
                keys = todo[start : start + CHUNK]
                results = pool.map(lambda key: _examine(root / paths[key]), keys)
                fresh = {key: facts for key, facts in zip(keys, results, strict=True) if facts}
                memory.remember({key: asdict(facts) for key, facts in fresh.items()})
                found |= fresh
    return {
        path: facts
        for path, digest in digest_of.items()
        if digest and (facts := found.get(_key(path, digest)))
    }


def step_of(count: int) -> int:
    """Return 1 if that many contents are all examined, else n: every nth is."""
    return max(1, -(-count // MAX_EXAMINED))


def _key(path: str, digest: str) -> str:
    # The suffix decides how a content is decoded.
    return f"{digest}{os.path.splitext(path)[1].lower()}"  # noqa: PTH122, a million times


def _examine(path: Path) -> Facts | None:
    try:
        return describe(decode_in_thread(path))
    except ImageError:
        # Reading it gives a Problem, and on_error decides how to handle that.
        return None


def describe(image: Decoded) -> Facts:
    """Return the facts of one decoded image."""
    import numpy as np

    pixels, invalid = image.data(keeps_alpha=False)
    beside = image.data(keeps_alpha=True)[1]
    valid = pixels.reshape(-1) if invalid is None else pixels[~invalid]
    hidden = pixels[invalid] if invalid is not None else pixels[:0].reshape(-1)
    hidden = hidden[~np.isnan(hidden)]
    quantiles: list[float] = []
    if pixels.dtype.name != "uint8" and valid.size:
        sampled = valid[:: valid.size // NUM_SAMPLED + 1].astype(np.float64)
        quantiles = np.quantile(sampled, np.linspace(0, 1, NUM_QUANTILES)).tolist()
    thumb, low, high = _thumbnail(pixels, invalid)
    state = blake2b(f"{image.pixels.dtype.str} {image.pixels.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(image.pixels).data)
    return Facts(
        dtype=pixels.dtype.name,
        num_bands=len(image.pixels),
        alpha=alpha_kind(image.pixels[-1]) if image.has_alpha else "",
        descriptions=list(image.descriptions),
        names=None if image.names is None else list(image.names),
        invalid=0.0 if invalid is None else float(invalid.mean()),
        invalid_beside_alpha=0.0 if beside is None else float(beside.mean()),
        # Infinity is no JSON; what counts is that it is larger than any range.
        highest_invalid=min(float(hidden.max()), 1e300) if hidden.size else None,
        low=valid.min().item() if valid.size else None,
        high=valid.max().item() if valid.size else None,
        quantiles=quantiles,
        how=list(image.how),
        pixels=state.hexdigest(),
        thumb=thumb.tobytes().hex(),
        thumb_low=low,
        thumb_high=high,
    )


def _thumbnail(
    pixels: NDArray[Any], invalid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint8], float, float]:
    import numpy as np
    from PIL import Image

    whole = pixels if invalid is None else np.where(invalid, 0, pixels)
    dtype = np.float32 if whole.itemsize < 4 else np.float64
    grey = whole.mean(axis=0, dtype=dtype)
    if dtype is np.float64:
        grey = grey.clip(-1e38, 1e38).astype(np.float32)
    height, width = THUMB_SHAPE
    small = np.asarray(
        Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR), np.float64
    )
    low, high = float(small.min()), float(small.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.rint((small - low) * scale).astype(np.uint8), low, high
