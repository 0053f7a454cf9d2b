"""The one format of a folder's images: bands and their order, pixel type and range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from benchmark.catalog.folder.bandnames import band_names, by_sensor, is_doubtful
from benchmark.catalog.folder.facts import Facts
from benchmark.catalog.folder.images import PatchReader, count_bands
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.fields import shown

MAX_CLIPPED = 0.03
"""Share of the pixels beyond ``value_range`` above which the report says it."""
MIN_USED = 0.1
"""Share of ``value_range`` that the images fill, below which the report says it."""


class Banded(Protocol):
    """What is known of an image's bands; see ``facts.Facts``."""

    @property
    def num_bands(self) -> int: ...  # noqa: D102

    @property
    def alpha(self) -> str: ...  # noqa: D102

    @property
    def descriptions(self) -> Sequence[str | None]: ...  # noqa: D102

    @property
    def names(self) -> Sequence[str] | None: ...  # noqa: D102


class Opened(NamedTuple):
    """A reader, what the report must say, and what changes pixels besides the files' bytes."""

    reader: PatchReader
    notes: list[str]
    marks: list[list[str]]
    """For the digest: empty where bytes, ``bands`` and ``value_range`` say it all."""


def open_reader(
    facts: Mapping[str, Facts], unreadable: str, config: DatasetConfig, *, where: str
) -> Opened:
    """Return a reader for the bands and the pixel type of the images.

    The first image gives the number of bands, most of the images the pixel type.

    Args:
        facts: of each image that can be decoded, by its path, sorted.
        unreadable: why the first of the other images cannot be decoded.
        config: gives ``bands``, ``patch_size`` and ``value_range``.
        where: start of each message.

    Raises:
        UsageError: no image is readable, ``bands`` does not match or is needed, or
            ``value_range`` is invalid, clips every pixel, or is missing for pixels that are not
            uint8.
    """
    value_range = config.value_range
    if value_range is not None and not value_range[0] < value_range[1]:
        raise UsageError(
            f"{where}: value_range = {list(value_range)} is not a range; write [low, high] with "
            "low < high"
        )
    if not facts:
        raise UsageError(f"{where}: no image is readable; {unreadable}")
    first = next(iter(facts.values()))
    keeps_alpha = config.bands is not None and len(config.bands) == first.num_bands
    bands, order, notes = choose_bands(facts, config, keeps_alpha, where)
    num_file_bands = first.num_bands - (bool(first.alpha) and not keeps_alpha)
    value_range, more = _choose_range(facts, value_range, config.on_error, where)
    reader = PatchReader(
        bands=bands,
        num_file_bands=num_file_bands,
        keeps_alpha=keeps_alpha,
        patch_size=config.patch_size,
        value_range=value_range,
        order=order,
    )
    notes += more
    notes += _invalid_notes(facts, keeps_alpha)
    for how, text in (
        ("pages", "Images whose bands are read from pages"),
        ("turned", "Images turned upright as their orientation (EXIF) says"),
        ("lab", "Images converted from L*a*b* to red, green, blue"),
    ):
        notes += _counted(text, [path for path, item in facts.items() if how in item.how])
    return Opened(reader, notes, _marks(facts, reader, are_named=config.bands is not None))


def choose_bands(
    facts: Mapping[str, Banded], config: DatasetConfig, keeps_alpha: bool, where: str
) -> tuple[tuple[str, ...], tuple[str, ...] | None, list[str]]:
    """Return the names of the bands, their order by the files' own names, and notes.

    Raises:
        UsageError: ``bands`` does not match the first image, or is needed.
    """
    path, first = next(iter(facts.items()))
    varied = [name for name, item in facts.items() if item.alpha == "varied"]
    notes = []
    if first.alpha and not keeps_alpha and varied:
        notes.append(
            f"The last of {count_bands(first.num_bands)} is marked as alpha and left out (e.g. in "
            f"'{varied[0]}'); if it holds data, name every band in [dataset] bands."
        )
    count = first.num_bands - (bool(first.alpha) and not keeps_alpha)
    described = tuple(first.descriptions[:count])
    named = {name: tuple(item.names) for name, item in facts.items() if item.names}
    fitting = {name: names for name, names in named.items() if len(names) == count}
    order = next(iter(fitting.values()), None)
    assumed = band_names(described)
    if order and path not in fitting and {*order} == {*assumed}:
        order = assumed
    bands = config.bands or order or assumed
    if len(set(bands)) != len(bands):
        raise UsageError(f"{where}: bands = {list(bands)} names a band twice; remove one")
    if len(bands) != count and not (count == 1 and len(bands) == 3):
        raise UsageError(
            f"{where}: bands = {list(bands)} names {len(bands)}, but '{path}' has "
            f"{count_bands(count)}; name each band once"
        )
    if config.bands is None and not order and is_doubtful(described):
        raise UsageError(
            f"{where}: '{path}' describes its bands as {shown(list(described), 200)}, which does "
            "not say which is red, green and blue; name every band in [dataset] bands"
        )
    if config.bands is not None and order and {*order} == {*bands} and order != bands:
        notes.append(
            f"[dataset] bands names the bands {', '.join(bands)}; the files' own names, "
            f"{', '.join(order)}, are not used."
        )
    if config.bands is None:
        notes += _naming_notes(facts, fitting, order, bands, described)
    return bands, order, notes


def _naming_notes(
    facts: Mapping[str, Banded],
    named: Mapping[str, tuple[str, ...]],
    order: tuple[str, ...] | None,
    bands: tuple[str, ...],
    described: tuple[str | None, ...],
) -> list[str]:
    """Return notes on what was assumed of the bands' names and order."""
    notes = []
    if order is None:
        counted = all(text in (None, "") or text.strip().isdigit() for text in described)
        if len(described) in (3, 4) and not counted:
            notes.append(
                f"The bands are described as {', '.join(map(str, described))} and taken for "
                f"{', '.join(bands)}; name them in [dataset] bands if that is wrong."
            )
        return notes
    path = next(iter(named))
    sensed = by_sensor(facts[path].descriptions[: len(order)])
    if sensed:
        codes = ", ".join(map(str, facts[path].descriptions[: len(order)]))
        notes.append(
            f"The bands {codes} are taken for those of {sensed.sensor}: "
            f"{', '.join(named[path])}; name them in [dataset] bands if that is wrong."
        )
    others = [name for name, names in named.items() if names != order and {*names} == {*order}]
    notes += _counted(f"Images whose bands were reordered to {', '.join(order)}", others)
    silent = [
        name for name, item in facts.items() if item.names is None and item.num_bands >= len(order)
    ]
    if silent:
        notes += _counted(
            f"Images that do not name their bands, taken for {', '.join(order)}", silent
        )
    return notes


def _choose_range(
    facts: Mapping[str, Facts],
    value_range: tuple[float, float] | None,
    on_error: str,
    where: str,
) -> tuple[tuple[float, float] | None, list[str]]:
    """Return the range of the pixels, None for uint8, and notes on how the images fill it.

    Raises:
        UsageError: it is missing, or every pixel lies beyond it.
    """
    types = Counter(item.dtype for item in facts.values())
    num_bytes = types["uint8"]
    num_others = types.total() - num_bytes
    is_uint8 = num_bytes > num_others or (
        num_bytes == num_others and next(iter(facts.values())).dtype == "uint8"
    )
    chosen = {name: item for name, item in facts.items() if (item.dtype == "uint8") == is_uint8}
    notes = []
    if len(types) > 1:
        told = ", ".join(
            f"{count} of {dtype} (e.g. "
            f"'{next(name for name, item in facts.items() if item.dtype == dtype)}')"
            for dtype, count in types.most_common()
        )
        if num_bytes and on_error == "fail":
            raise UsageError(
                f"{where}: the images differ in their pixel type: {told}; convert them to one, or "
                'set [dataset] on_error = "skip" to leave out those that are '
                f"{'not ' * is_uint8}uint8"
            )
        unusable = f"; those that are {'not ' * is_uint8}uint8 cannot be used" if num_bytes else ""
        notes.append(f"The images differ in their pixel type: {told}{unusable}.")
    if is_uint8:
        if value_range is not None:
            notes.append("value_range does not apply to uint8 images, which are used unchanged.")
        return None, notes
    bounds = [(item.low, item.high) for item in chosen.values()]
    low = min((one for one, _ in bounds if one is not None), default=0)
    high = max((one for _, one in bounds if one is not None), default=1)
    path, dtype = next((name, item.dtype) for name, item in chosen.items())
    if value_range is None:
        setting = f"[{low}, {high if high > low else low + 1}]"
        many = f"'{path}' holds" if len(chosen) == 1 else f"{len(chosen)} images hold"
        example = "" if len(chosen) == 1 else f" (e.g. '{path}')"
        raise UsageError(
            f"{where}: {many} {dtype} pixels from {low} to {high}{example}, nodata left out; set "
            f"[dataset] value_range = {setting}, or a narrower one that clips outliers"
        )
    shares = [item.clipped(value_range) for item in chosen.values() if item.quantiles]
    clipped = sum(shares) / len(shares) if shares else 0.0
    if clipped == 1:
        raise UsageError(
            f"{where}: value_range = {list(value_range)} clips every pixel; the images hold "
            f"{dtype} pixels from {low} to {high}"
        )
    worst = max(chosen, key=lambda name: chosen[name].clipped(value_range))
    if clipped > MAX_CLIPPED:
        notes.append(
            f"Pixels beyond value_range = {list(value_range)}, clipped to 0 or 255: about "
            f"{clipped:.0%}, and {chosen[worst].clipped(value_range):.0%} of '{worst}'."
        )
    used = (min(high, value_range[1]) - max(low, value_range[0])) / (
        value_range[1] - value_range[0]
    )
    if used < MIN_USED:
        notes.append(
            f"The images hold pixels from {low} to {high}: {max(used, 0):.1%} of value_range = "
            f"{list(value_range)}, so all patches have few and similar values."
        )
    return value_range, notes


def _invalid_notes(facts: Mapping[str, Facts], keeps_alpha: bool) -> list[str]:
    shares = {
        name: share
        for name, item in facts.items()
        if (share := item.without_data(alpha=keeps_alpha))
    }
    if not shares:
        return []
    worst = max(shares, key=lambda name: shares[name])
    return [
        f"Images with values without data (nodata, masked, transparent, NaN or infinite), which "
        f"became 0: {len(shares)}, at most {shares[worst]:.0%} of one ('{worst}')."
    ]


def _counted(text: str, paths: Sequence[str]) -> list[str]:
    return [f"{text}: {len(paths)}, e.g. '{paths[0]}'."] if paths else []


def _marks(facts: Mapping[str, Facts], reader: PatchReader, *, are_named: bool) -> list[list[str]]:
    """Return what sets the patches apart from those of plain files, for the digest.

    ``are_named``: whether the user names the bands, which is in the fingerprint by itself.
    """
    marks = []
    floor = reader.value_range[0] if reader.value_range else 0.0
    first = next(iter(facts.values()))
    count = reader.num_file_bands
    assumed = band_names(tuple(first.descriptions[:count]))
    if reader.order and not are_named and reader.order != assumed:
        marks.append(["bands", *reader.order])
    for name, item in facts.items():
        how = list(item.how)
        hidden = item.highest_invalid
        if item.without_data(alpha=reader.keeps_alpha) and hidden is not None and hidden > floor:
            how.append("filled")
        names = tuple(item.names) if item.names else None
        if reader.order and names and names != reader.order:
            how.append("reordered")
        if how:
            marks.append([name, *how])
    return marks
