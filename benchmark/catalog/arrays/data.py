"""Check arrays of pixels, labels, scenes, regions and splits: ``benchmark.from_arrays``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.catalog.folder.assignment import Given, assign, read_name, sort_classes
from benchmark.catalog.folder.bandnames import band_names
from benchmark.catalog.folder.images import observed_range, scale_pixels
from benchmark.catalog.folder.splits import read_split
from benchmark.config import DatasetConfig, build
from benchmark.errors import UsageError, did_you_mean, one_line
from benchmark.fields import check_file_path, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHERE = "from_arrays"
CHUNK_BYTES = 64 * 2**20
"""Pixels that are checked, scaled or written at once, as float64 at most eight times as many."""
MIN_SIDE, MAX_SIDE = 8, 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """Checked arrays, as ``from_arrays`` returns them for ``build(dataset=...)``."""

    name: str
    pixels: NDArray[Any] = field(repr=False)
    """(N, C, H, W), uint8 or any real type with ``value_range``."""
    given: Mapping[str, Given] = field(repr=False)
    """By ``patch_id``: the number of the image, as text of equal length."""
    classes: tuple[str, ...]
    bands: tuple[str, ...]
    value_range: tuple[float, float] | None
    folder: str | None
    """Where the arrays are written; None: in the experiment's store."""
    settings: Mapping[str, Any]
    """Of ``[dataset]``, without name and root."""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        n, c, h, w = self.pixels.shape
        return f"<{n} images ({c}, {h}, {w}) {self.pixels.dtype}, {len(self.classes)} classes>"

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the pixels in order as uint8 (n, C, H, W), scaled by ``value_range``."""
        import numpy as np

        for _, chunk in _chunks(self.pixels):
            yield np.ascontiguousarray(
                chunk if self.value_range is None else scale_pixels(chunk, self.value_range)
            )


def from_arrays(
    images: Any,
    labels: Any,
    *,
    scenes: Any = None,
    regions: Any = None,
    splits: Any = None,
    classes: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
    channels: Literal["first", "last"] = "first",
    name: str = "arrays",
    folder: str | Path | None = None,
    **settings: Any,
) -> Arrays:
    """Make a data set of arrays: ``bm.build(dataset=bm.from_arrays(images, labels), ...)``.

    The experiment writes the arrays once into a folder, from which its workers read them; the same
    arrays find their folder and their results again, in any process.

    Args:
        images: (N, C, H, W) pixels: an array of NumPy, a torch tensor, or a list of arrays
            (C, H, W). uint8 is used as it is; other types need ``value_range``. H and W are 8 to
            4096 px; one band is used as red, green and blue.
        labels: (N,) strings, or whole numbers (indices into ``classes``, if given).
        scenes: (N,) the source raster of each image, strings or whole numbers: a scene is in one
            split, and intervals are computed over scenes.
        regions: (N,) strings, or None where unknown; with the settings ``val_regions`` and
            ``test_regions`` they are the split.
        splits: (N,) train, val or test; default: by region, or at random, by scene if given.
        classes: names of the classes, in order.
        bands: names of the C bands; default: red, green, blue (and nir), or band_1, ...
        value_range: (low, high): pixel values that are mapped to 0 and 255.
        channels: ``last`` if the images are (N, H, W, C).
        name: of the data set and, by default, of the experiment.
        folder: where the arrays are written, e.g. one that all machines of a cluster read;
            default: ``arrays`` in the experiment's store.
        **settings: of ``[dataset]``, e.g. ``patch_size``, ``seed``, ``val_fraction``.

    Raises:
        UsageError: a shape, length, type or value is wrong, or the splits are.

    Example:
        >>> images = np.zeros((12, 3, 32, 32), np.uint8)
        >>> bm.from_arrays(images, ["water", "forest"] * 6, scenes=np.arange(12) // 2)
        <12 images (3, 32, 32) uint8, 2 classes>
    """
    pixels = _check_pixels(images, value_range, channels)
    count, num_bands, height, width = pixels.shape
    band_tuple = _check_bands(bands, num_bands)
    label_names, ordered = _check_labels(labels, count, classes)
    width_of_id = len(str(count - 1))
    scene_names = _names(scenes, "scenes", count) if scenes is not None else [None] * count
    region_names = (
        _names(regions, "regions", count, may_lack=True) if regions is not None else [None] * count
    )
    split_names: Sequence[str | None] = [None] * count
    if splits is not None:
        words = _names(splits, "splits", count)
        split_names = [
            read_split(str(word), f"{WHERE}: splits[{row}]") for row, word in enumerate(words)
        ]
    given = {
        f"{row:0{width_of_id}d}": Given(*values, row)
        for row, values in enumerate(
            zip(label_names, split_names, scene_names, region_names, strict=True)
        )
    }
    chosen = {"patch_size": min(height, width), **settings}
    config = _check_settings(name, chosen)
    assign(given, dict.fromkeys(given), config, where=WHERE, unit="row")
    present = set(label_names)
    absent = [item for item in ordered if item not in present]
    notes = [f"Classes without images: {', '.join(absent)}."] if absent else []
    if height != width:
        notes.append(f"Images of {height} x {width} px are cropped to their centre.")
    if value_range is not None and pixels.dtype.name == "uint8":
        notes.append("value_range does not apply to uint8 images, which are used unchanged.")
        value_range = None
    return Arrays(
        name=name,
        pixels=pixels,
        given=given,
        classes=tuple(item for item in ordered if item in present),
        bands=band_tuple,
        value_range=value_range,
        folder=_check_folder(folder),
        settings=chosen,
        notes=tuple(notes),
    )


def _check_settings(name: str, settings: Mapping[str, Any]) -> DatasetConfig:
    for key in ("root", "labels"):
        if key in settings:
            raise UsageError(f"{WHERE}: '{key}' does not apply to arrays; remove it")
    content = {"name": name, "backbones": ["any"], "dataset": {"name": "arrays", "root": "any"}}
    content["dataset"] = {"name": "arrays", "root": "any", **settings}
    return build(content, where=WHERE).dataset


def _check_folder(folder: str | Path | None) -> str | None:
    if folder is None:
        return None
    try:
        return check_file_path(str(Path(folder)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{WHERE}: folder = {shown(folder)}: {error}") from None


def _read_list(values: Any, what: str) -> tuple[str, ...]:
    """Return names given as a list, each once."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UsageError(f"{WHERE}: {what} = {shown(values)}; write a list of names")
    names = tuple(
        read_name(_text(item, f"{what}[{place}]"), "name", f"{WHERE}: {what}[{place}]")
        for place, item in enumerate(values)
    )
    if len(set(names)) != len(names):
        raise UsageError(f"{WHERE}: {what} = {shown(list(names))} names one twice; remove one")
    return names


def _chunks(pixels: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the first row and the pixels of each chunk."""
    rows = max(1, CHUNK_BYTES // max(1, pixels[0].nbytes))
    for start in range(0, len(pixels), rows):
        yield start, pixels[start : start + rows]


def _as_numpy(values: Any, what: str) -> NDArray[Any]:
    """Return an array, a tensor on any device, or a list of equal arrays, without a copy if it can.

    Raises:
        UsageError: it cannot be an array.
    """
    import numpy as np

    try:
        if hasattr(values, "detach"):
            return np.asarray(values.detach().cpu().numpy())
        if isinstance(values, (list, tuple)) and len(values) and hasattr(values[0], "shape"):
            items = [_as_numpy(item, f"{what}[{row}]") for row, item in enumerate(values)]
            for row, item in enumerate(items):
                if item.shape != items[0].shape or item.dtype != items[0].dtype:
                    raise UsageError(
                        f"{WHERE}: {what}[{row}] is {item.dtype} {item.shape}, but {what}[0] is "
                        f"{items[0].dtype} {items[0].shape}; give all the same shape and type"
                    )
            return np.stack(items)
        return np.asarray(values)
    except UsageError:
        raise
    # Tensors and array-likes of other libraries raise what they like.
    except Exception as error:
        raise UsageError(f"{WHERE}: {what} cannot be read as an array: {one_line(error)}") from None


def _check_pixels(
    images: Any, value_range: tuple[float, float] | None, channels: str
) -> NDArray[Any]:
    """Return the pixels as (N, C, H, W)."""
    import numpy as np

    if channels not in ("first", "last"):
        raise UsageError(f"{WHERE}: channels = {shown(channels)}; write 'first' or 'last'")
    pixels = _as_numpy(images, "images")
    expected = "(N, C, H, W)" if channels == "first" else "(N, H, W, C)"
    if pixels.ndim == 3 and len(pixels) > 4:
        raise UsageError(
            f"{WHERE}: images have the shape {pixels.shape}, not {expected}; write one band as "
            f"images[{':, None' if channels == 'first' else '..., None'}]"
        )
    if pixels.ndim != 4:
        raise UsageError(f"{WHERE}: images have the shape {pixels.shape}, not {expected}")
    if not pixels.size:
        raise UsageError(f"{WHERE}: images have the shape {pixels.shape}: there are none")
    if channels == "last":
        pixels = pixels.transpose(0, 3, 1, 2)
    _, _, height, width = pixels.shape
    if not MIN_SIDE <= min(height, width) <= max(height, width) <= MAX_SIDE:
        other = "last" if channels == "first" else "first"
        raise UsageError(
            f"{WHERE}: images {expected} are {height} x {width} px; the sides are {MIN_SIDE} to "
            f"{MAX_SIDE} px (is it channels='{other}'?)"
        )
    kind = pixels.dtype.kind
    if kind not in "uif":
        raise UsageError(
            f"{WHERE}: images hold {pixels.dtype} values; give uint8, or other real numbers with "
            "value_range"
        )
    if kind == "f":
        for start, chunk in _chunks(pixels):
            is_finite = np.isfinite(chunk).all(axis=(1, 2, 3))
            if not is_finite.all():
                row = start + int(np.argmin(is_finite))
                raise UsageError(
                    f"{WHERE}: images[{row}] holds NaN or infinite values; fill or remove them"
                )
    _check_range(pixels, value_range)
    return pixels


def _check_range(pixels: NDArray[Any], value_range: Any) -> None:
    if value_range is None:
        if pixels.dtype.name == "uint8":
            return
        low, high = observed_range(pixels)
        raise UsageError(
            f"{WHERE}: images hold {pixels.dtype} values from {low} to {high}; set value_range = "
            f"({low}, {high if high > low else low + 1})"
        )
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not -1e38 <= low < high <= 1e38:
        raise UsageError(
            f"{WHERE}: value_range = {shown(value_range)} is not a range; write (low, high) with "
            "low < high"
        )


def _check_bands(bands: Sequence[str] | None, num_bands: int) -> tuple[str, ...]:
    if bands is None:
        return band_names((None,) * num_bands)
    names = _read_list(bands, "bands")
    if len(names) != num_bands and not (num_bands == 1 and len(names) == 3):
        raise UsageError(
            f"{WHERE}: bands = {shown(list(names))} names {len(names)}, but images have "
            f"{num_bands}; name each band once"
        )
    return names


def _check_labels(
    labels: Any, count: int, classes: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """Return the name of each image's class, and the classes in order."""
    names = _names(labels, "labels", count)
    if classes is None:
        ordered = sort_classes(set(names))
    else:
        ordered = _read_list(classes, "classes")
        if _are_numbers(labels):
            names = [_class_at(int(name), row, ordered) for row, name in enumerate(names)]
        known = set(ordered)
        for row, name in enumerate(names):
            if name not in known:
                raise UsageError(
                    f"{WHERE}: labels[{row}] = {shown(name, 100)} is not in classes."
                    f"{did_you_mean(name, ordered)}"
                )
    if len(set(names)) < 2:
        raise UsageError(
            f"{WHERE}: there is only one class, {shown(names[0], 100)}; add images with another "
            "label"
        )
    return names, ordered


def _class_at(label: int, row: int, classes: Sequence[str]) -> str:
    if not 0 <= label < len(classes):
        raise UsageError(
            f"{WHERE}: labels[{row}] = {label}, but classes has {len(classes)} names: labels are 0 "
            f"to {len(classes) - 1}"
        )
    return classes[label]


def _are_numbers(values: Any) -> bool:
    array = _as_numpy(values, "labels")
    return array.dtype.kind in "ui" or (array.dtype.kind == "O" and not isinstance(array[0], str))


def _names(values: Any, what: str, count: int, *, may_lack: bool = False) -> list[Any]:
    """Return N texts; None stays None where it may."""
    import numpy as np

    # As a plain array, [1, "a"] and ["a", nan] would silently become texts.
    plain = isinstance(values, (list, tuple)) and not any(hasattr(item, "shape") for item in values)
    array = np.array([*values, None], object)[:-1] if plain else _as_numpy(values, what)
    if array.ndim != 1:
        is_one_hot = what == "labels" and array.ndim == 2
        hint = "; for one-hot labels give labels.argmax(axis=1)" if is_one_hot else ""
        raise UsageError(f"{WHERE}: {what} have the shape {array.shape}, not ({count},){hint}")
    if len(array) != count:
        raise UsageError(f"{WHERE}: there are {count} images, but {len(array)} {what}")
    kind = array.dtype.kind
    if kind not in "uibUOT":
        raise UsageError(
            f"{WHERE}: {what} are {array.dtype}; give strings or whole numbers without gaps"
        )
    items = array.tolist()
    if kind == "O":
        is_text = [isinstance(item, str) for item in items if item is not None]
        if any(is_text) and not all(is_text):
            raise UsageError(f"{WHERE}: {what} mix strings and other values; give one kind")
    seen: dict[str, str] = {}
    found: list[Any] = []
    for row, item in enumerate(items):
        if item is None and may_lack:
            found.append(None)
            continue
        place = f"{WHERE}: {what}[{row}]"
        text = _text(item, f"{what}[{row}]")
        if text not in seen:
            seen[text] = read_name(text, "name", place)
        found.append(seen[text])
    return found


def _text(item: Any, place: str) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, Integral):
        return str(item)
    raise UsageError(f"{WHERE}: {place} is {shown(item, 100)}; give strings or whole numbers")
