"""Names of an image's bands, from the file's descriptions, sensor codes and colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

RGB = ("red", "green", "blue")
RGB_NIR = (*RGB, "nir")

_LANDSAT_8 = "coastal blue green red nir swir1 swir2 pan cirrus tir1 tir2"
_LANDSAT_4 = "blue green red nir swir1 tir swir2 pan"
_SENTINEL_2 = (
    "coastal blue green red rededge1 rededge2 rededge3 nir water_vapour cirrus swir1 swir2"
)
SENSORS = {
    "Sentinel-2": {
        **{str(n): name for n, name in enumerate(_SENTINEL_2.split()[:8], 1)},
        "8a": "nir_narrow",
        **{str(n): name for n, name in enumerate(_SENTINEL_2.split()[8:], 9)},
    },
    "Landsat 8 or 9": {str(n): name for n, name in enumerate(_LANDSAT_8.split(), 1)},
    "Landsat 4 to 7": {str(n): name for n, name in enumerate(_LANDSAT_4.split(), 1)},
}
"""Name of a band by its number, in the products' own numbering."""

_CODE = re.compile(r"(?:sr|toa|sur_refl)?[ _]?b(?:and)?[ _]?0*(\d{1,2}a?)")
_WORDS = {word: name for name in RGB_NIR for word in (name, name[0])} | {
    "nearinfrared": "nir",
    "infrared": "nir",
    "nir1": "nir",
}
_OTHER_BANDS = re.compile(r"edge|coastal|yellow|swir|short|narrow|thermal|pan|green_?i\b")


class Sensed(NamedTuple):
    """Names of bands by the codes of a sensor."""

    names: tuple[str, ...]
    sensor: str


def name_bands(
    descriptions: Sequence[str | None], colors: Sequence[str | None] = ()
) -> tuple[str, ...] | None:
    """Return the names of three or four bands, or None if the file does not tell them.

    Descriptions come first: colours (``Red``, ``B``, ``near infrared``), or the codes of a sensor
    (``B4``, ``SR_B4``, ``Band 4``). Then the colour interpretation. Codes that count from 1, as
    many tools number bands, tell nothing. Other numbers of bands are named by ``band_names``.

    Args:
        descriptions: of the bands, besides alpha.
        colors: rasterio's names of the colour interpretation, of the same bands.
    """
    if len(descriptions) not in (3, 4):
        return None
    texts = [(text or "").strip().lower() for text in descriptions]
    if sensed := by_sensor(texts):
        return sensed.names
    words = [_colour(text) for text in texts]
    if any(words):
        names = tuple(word or text for word, text in zip(words, texts, strict=True))
        # One band without a description: its name follows if there is one colour left.
        left = [name for name in RGB_NIR[: len(names)] if name not in names]
        names = tuple(name or (left[0] if len(left) == 1 else "") for name in names)
        return names if all(names) and len(set(names)) == len(names) else None
    found = tuple(color or "" for color in colors)
    return found if set(found) in (set(RGB), set(RGB_NIR)) else None


def by_sensor(descriptions: Sequence[str | None]) -> Sensed | None:
    """Return the names of bands whose descriptions are the codes of one sensor, or None.

    A sensor by which they are red, green, blue (and near infrared) is preferred.
    """
    found = [_CODE.fullmatch((text or "").strip().lower()) for text in descriptions]
    codes = [match[1] for match in found if match]
    counted = [str(number) for number in range(1, len(codes) + 1)]
    if len(codes) < len(found) or codes == counted or len(set(codes)) < len(codes):
        return None
    fitting = [
        Sensed(tuple(table[code] for code in codes), sensor)
        for sensor, table in SENSORS.items()
        if table.keys() >= set(codes)
    ]
    usual = [item for item in fitting if set(item.names) in (set(RGB), set(RGB_NIR))]
    return next(iter(usual or fitting), None)


def band_names(descriptions: tuple[str | None, ...]) -> tuple[str, ...]:
    """Return the names of a file's bands from their number and their descriptions.

    One or three bands are red, green, blue, and four are red, green, blue, nir, unless the
    descriptions give the same names in another order. Other numbers of bands get the descriptions
    in lower case if all are set and distinct, else ``band_1`` and so on.
    """
    described = tuple((text or "").strip().lower() for text in descriptions)
    usual = {1: RGB, 3: RGB, 4: RGB_NIR}.get(len(described))
    if usual is not None:
        return described if sorted(described) == sorted(usual) else usual
    if all(described) and len(set(described)) == len(described):
        return described
    return tuple(f"band_{number}" for number in range(1, len(described) + 1))


def is_doubtful(descriptions: Sequence[str | None]) -> bool:
    """Return whether descriptions name colours, but not one for each of three or four bands."""
    texts = [(text or "").strip().lower() for text in descriptions]
    is_named = len(texts) in (3, 4) and any(_colour(text) for text in texts)
    return is_named and name_bands(descriptions) is None


def _colour(text: str) -> str | None:
    """Return the one colour that a description names (``B4 (Red)``, ``red band``), or None."""
    if text in _WORDS:
        return _WORDS[text]
    if _OTHER_BANDS.search(text):
        return None
    plain = re.sub(r"near[ _-]?infra[ _-]?red", "nir", text)
    words = {_WORDS[word] for word in re.findall(r"[a-z]+1?", plain) if word in _WORDS and word[1:]}
    return words.pop() if len(words) == 1 else None
