"""Synthetic aerial pictures: colours, textures, shadows and a sensor for a landscape's plan.

Colours of the classes overlap on purpose (brown fields, bare soil and roofs; dark conifers and
dark water; algae and lawns), so that only structure separates them. Each part draws two colours
and a weight for each texture; a picture is their product.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmark.catalog.synthetic.landscape import (
    BARREN,
    FIELD,
    FOREST,
    LAWN,
    LOT,
    ROAD,
    ROOF,
    WATER,
    FloatArray,
    Landscape,
    smooth_noise,
)

# Reflectances of red, green, blue and near-infrared.
_GREEN = np.array([0.08, 0.12, 0.06, 0.46])
_DRY = np.array([0.26, 0.23, 0.14, 0.33])
_SOIL = np.array([0.27, 0.21, 0.15, 0.32])
_GREY_SOIL = np.array([0.22, 0.20, 0.17, 0.27])
_SAND = np.array([0.42, 0.38, 0.30, 0.46])
_LEAVES = np.array([0.065, 0.10, 0.055, 0.40])
_NEEDLES = np.array([0.04, 0.06, 0.045, 0.19])
_TWIGS = np.array([0.17, 0.145, 0.115, 0.24])
_DEEP = np.array([0.04, 0.055, 0.055, 0.03])
_MUD = np.array([0.21, 0.18, 0.12, 0.12])
_ALGAE = np.array([0.07, 0.115, 0.06, 0.33])
_HAZY = np.array([0.15, 0.17, 0.17, 0.11])
_ROOFS = np.array(
    [
        [0.55, 0.54, 0.52, 0.52],
        [0.30, 0.30, 0.30, 0.29],
        [0.13, 0.13, 0.14, 0.13],
        [0.29, 0.17, 0.13, 0.30],
        [0.25, 0.21, 0.17, 0.27],
        [0.16, 0.19, 0.17, 0.22],
    ]
)
_ASPHALT = np.array([0.17, 0.17, 0.17, 0.17])
_CONCRETE = np.array([0.36, 0.34, 0.31, 0.36])

Colour = NDArray[np.float64]
Material = tuple[tuple[Colour, Colour], dict[int, float]]
"""Two colours of four bands, and the weights of the textures."""

# Textures, in the order of the columns of the weights.
GRAIN, FINE, MEDIUM, COARSE, BROAD, STRIPES, CROWNS, CONIFERS, RELIEF = range(9)


class Look(NamedTuple):
    """Season, light and sensor of one scene."""

    dryness: float
    """Share of the fields that is ripe, mown or bare, 0...1."""
    leaf_off: float
    """Bareness of the deciduous trees, 0...1."""
    conifers: float
    """Share of conifer stands."""
    sun: float
    """Azimuth of the shadows in radians."""
    shadow: float
    """Length of the shadows in px per 10 m of height."""
    haze: tuple[float, float, float, float]
    gain: tuple[float, float, float, float]
    gamma: float
    blur: float
    """Standard deviation of the optics' blur in px."""
    noise: float
    """Standard deviation of the sensor's noise, in levels of 0...255."""


_STATE_LOOKS = {
    # dryness, leaf-off, conifers, shadow azimuth, shadow length, haze, gamma, warmth
    "de": (0.45, 0.10, 0.20, 0.6, 6.0, 0.020, 0.62, 0.02),
    "md": (0.55, 0.05, 0.20, 0.8, 7.0, 0.035, 0.66, -0.04),
    "ny": (0.35, 0.45, 0.40, 0.3, 10.0, 0.015, 0.58, 0.05),
    "pa": (0.50, 0.30, 0.30, 1.1, 9.0, 0.030, 0.60, 0.00),
    "va": (0.60, 0.15, 0.35, 0.9, 5.0, 0.040, 0.70, 0.06),
    "wv": (0.40, 0.20, 0.15, 1.4, 11.0, 0.010, 0.64, -0.05),
}


def draw_look(rng: np.random.Generator, state: str) -> Look:
    """Draw the look of one scene: that of its state, shifted by the day of the flight."""
    dryness, leaf_off, conifers, sun, shadow, haze, gamma, warmth = _STATE_LOOKS[state]
    warmth += rng.normal(0, 0.05)
    level = 1.35 * np.exp(rng.normal(0, 0.14))
    gains = level * np.array([1 + warmth, 1.0, 1 - warmth, np.exp(rng.normal(0, 0.12))])
    veil = max(haze + rng.normal(0, 0.012), 0.0) * np.array([0.7, 0.9, 1.3, 0.4])
    return Look(
        dryness=float(np.clip(dryness + rng.normal(0, 0.15), 0, 1)),
        leaf_off=float(np.clip(leaf_off + rng.normal(0, 0.18), 0, 1)),
        conifers=conifers,
        sun=float(np.clip(sun + rng.normal(0, 0.3), 0, np.pi / 2)),
        shadow=max(shadow + rng.normal(0, 2), 2.0),
        haze=tuple(veil.tolist()),
        gain=tuple(gains.tolist()),
        gamma=gamma + rng.normal(0, 0.03),
        blur=rng.uniform(0.35, 1.0),
        noise=rng.uniform(1.0, 3.5),
    )


def draw_picture(rng: np.random.Generator, land: Landscape, look: Look) -> NDArray[np.uint8]:
    """Draw the picture of a landscape.

    Returns:
        picture (4, H, W): red, green, blue, near-infrared; 0 where ``land.is_blank``.
    """
    size = len(land.lc)
    base, other, weights, waves = _paint(rng, land.surface_of_part, look)
    textures = _textures(rng, land, look, waves)
    tone = np.ones((size, size), np.float32)
    for column, texture in enumerate(textures):
        texture *= weights[:, column][land.part]
        tone += texture
    _add_details(rng, land, tone)
    tone *= _shadows(land, look)
    np.clip(tone, 0.12, 3.5, out=tone)
    blend = smooth_noise(rng, (size, size), 90, 4)
    blend *= 0.22
    blend += 0.5
    np.clip(blend, 0, 1, out=blend)
    glint = _glint(rng, land)
    picture = np.empty((4, size, size), np.uint8)
    change = other - base
    # Leaves scatter near-infrared, so shadows are lighter there.
    tone_nir = np.sqrt(tone)
    for band in range(4):
        light = change[:, band][land.part]
        light *= blend
        light += base[:, band][land.part]
        light *= tone_nir if band == 3 else tone
        light += glint
        light *= np.float32(look.gain[band])
        light += np.float32(look.haze[band])
        light = ndimage.gaussian_filter(light, look.blur, truncate=2.0)
        np.clip(light, 0, 1, out=light)
        np.power(light, np.float32(look.gamma), out=light)
        light *= 255
        light += rng.standard_normal(light.shape, np.float32) * np.float32(look.noise)
        np.clip(light, 1, 255, out=light)
        picture[band] = light
    picture[:, land.is_blank] = 0
    return picture


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return np.asarray(first * (1 - share) + second * share)


def _paint(
    rng: np.random.Generator, surfaces: NDArray[np.uint8], look: Look
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Draw two colours (P, 4), the weights of the textures (P, 9) and the waves (P, 4)."""
    num_parts = len(surfaces)
    base, other = np.empty((num_parts, 4)), np.empty((num_parts, 4))
    weights = np.zeros((num_parts, 9))
    waves = np.empty((num_parts, 4))
    for part, surface in enumerate(surfaces):
        colours, texture = _MATERIALS[int(surface)](rng, look)
        base[part], other[part] = colours
        for column, weight in texture.items():
            weights[part, column] = weight
        # Furrows follow one of the two edges of a field; the wave is 2 pi / period.
        angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.04)
        wave = 2 * np.pi / rng.choice([3.2, 4.5, 6.5, 10.0, 17.0])
        warp = 0.4
        if surface == WATER:
            angle, wave, warp = rng.uniform(0, 2 * np.pi), wave / 1.5, 1.5
        waves[part] = np.cos(angle) * wave, np.sin(angle) * wave, rng.uniform(0, 6.28), warp
    # Near-infrared varies most, through moisture, minerals, coatings and leaves.
    spread = np.exp(rng.normal(0, 1, base.shape) * [0.05, 0.05, 0.05, 0.17])
    base *= spread
    other *= spread
    single = np.float32
    return base.astype(single), other.astype(single), weights.astype(single), waves.astype(single)


def _field(rng: np.random.Generator, look: Look) -> Material:
    bare = _mix(_SOIL, _GREY_SOIL, rng.random()) * rng.uniform(0.55, 1.45)
    ripe = _mix(_DRY, _SAND, rng.uniform(0, 0.5)) * rng.uniform(0.7, 1.1)
    green = _GREEN * rng.uniform(0.55, 1.3)
    ground = bare if rng.random() < 0.5 else ripe
    share = float(np.clip(rng.normal(look.dryness, 0.38), 0, 1))
    first = _mix(green, ground, share)
    second = _mix(green, ground, float(np.clip(share + rng.normal(0, 0.25), 0, 1)))
    kind = rng.random()
    texture = {GRAIN: rng.uniform(0.04, 0.10), FINE: rng.uniform(0.01, 0.05)}
    if kind < 0.2:
        second = _mix(second, bare, rng.random())
        texture |= {MEDIUM: rng.uniform(0.0, 0.05), BROAD: rng.uniform(0.0, 0.08)}
    elif kind < 0.4:
        texture |= {FINE: rng.uniform(0.05, 0.12), COARSE: rng.uniform(0.03, 0.10)}
        texture |= {RELIEF: rng.uniform(0.0, 0.05)}
    else:
        texture |= {STRIPES: rng.uniform(0.05, 0.30), COARSE: rng.uniform(0, 0.08)}
    return (first, second), texture


def _lawn(rng: np.random.Generator, look: Look) -> Material:
    dry = float(np.clip(rng.normal(look.dryness * 0.6, 0.2), 0, 1))
    first = _mix(_GREEN * rng.uniform(0.8, 1.4), _DRY, dry)
    return (first, _mix(first, _DRY, 0.25)), {GRAIN: 0.06, FINE: 0.05, MEDIUM: 0.08}


def _forest(rng: np.random.Generator, look: Look) -> Material:
    if rng.random() < look.conifers:
        first = _NEEDLES * rng.uniform(0.7, 1.7)
        texture = {CONIFERS: rng.uniform(0.10, 0.40), FINE: 0.06}
    else:
        bare = float(np.clip(rng.normal(look.leaf_off, 0.12), 0, 1))
        first = _mix(_LEAVES * rng.uniform(0.7, 1.7), _TWIGS * rng.uniform(0.7, 1.2), bare)
        texture = {CROWNS: rng.uniform(0.10, 0.40), FINE: 0.05, GRAIN: 0.1 * bare}
    second = _mix(first, _LEAVES, rng.uniform(0, 0.6))
    return (first, second), texture | {MEDIUM: rng.uniform(0.02, 0.10), RELIEF: 0.04}


def _water(rng: np.random.Generator, look: Look) -> Material:
    del look
    tints = np.array([_DEEP, _MUD, _ALGAE, _HAZY])
    first = rng.dirichlet([0.6, 0.55, 0.5, 0.5]) @ tints
    second = _mix(first, tints[rng.integers(4)], rng.uniform(0, 0.6))
    level = rng.uniform(0.75, 1.35)
    texture = {GRAIN: rng.uniform(0.0, 0.02), COARSE: rng.uniform(0, 0.12)}
    if rng.random() < 0.6:
        texture |= {STRIPES: rng.uniform(0.02, 0.09), MEDIUM: rng.uniform(0, 0.08)}
    return (first * level, second * level), texture


def _barren(rng: np.random.Generator, look: Look) -> Material:
    del look
    tints = np.array([_SOIL, _GREY_SOIL, _SAND, _DRY])
    first = rng.dirichlet([0.8, 0.8, 0.6, 0.5]) @ tints * rng.uniform(0.55, 1.35)
    second = _mix(first, tints[rng.integers(3)], rng.uniform(0.2, 0.8))
    relief = {RELIEF: rng.uniform(0.03, 0.13), MEDIUM: rng.uniform(0.02, 0.10)}
    return (first, second), relief | {FINE: rng.uniform(0.02, 0.08), GRAIN: 0.04}


def _roof(rng: np.random.Generator, look: Look) -> Material:
    del look
    first = _ROOFS[rng.integers(len(_ROOFS))] * rng.uniform(0.75, 1.25)
    return (first, first * rng.uniform(0.9, 1.1)), {GRAIN: 0.03, BROAD: 0.03, STRIPES: 0.04}


def _lot(rng: np.random.Generator, look: Look) -> Material:
    del look
    first = _mix(_ASPHALT, _CONCRETE, rng.beta(0.7, 1.0)) * rng.uniform(0.7, 1.3)
    first = _mix(first, _SOIL, rng.uniform(0, 0.85))
    return (first, first * rng.uniform(0.7, 1.3)), {GRAIN: 0.04, FINE: 0.04, COARSE: 0.05}


_MATERIALS = {
    WATER: _water,
    FOREST: _forest,
    FIELD: _field,
    BARREN: _barren,
    LOT: _lot,
    ROOF: _roof,
    ROAD: _lot,
    LAWN: _lawn,
}


def _textures(
    rng: np.random.Generator, land: Landscape, look: Look, waves: FloatArray
) -> list[FloatArray]:
    """Draw the textures, each (H, W) of about unit standard deviation, in the fixed order."""
    size = len(land.lc)
    grain = rng.standard_normal((size, size), np.float32)
    noises = [smooth_noise(rng, (size, size), scale) for scale in (2.6, 9, 34, 170)]
    phase = land.along * waves[:, 0][land.part]
    phase += land.across * waves[:, 1][land.part]
    # Furrows are neither straight nor equally strong, and ripples even less so.
    phase += noises[2] * waves[:, 3][land.part]
    phase += waves[:, 2][land.part]
    stripes = np.sin(phase, out=phase)
    stripes *= 1.2 + 0.4 * noises[2]
    crowns = _crowns(rng, size, int(rng.integers(8, 12)), look.sun)
    conifers = _crowns(rng, size, int(rng.integers(5, 7)), look.sun)
    mounds = noises[1] + 1.6 * noises[2]
    relief = _slope(mounds, look.sun, 3)
    relief /= max(float(relief.std()), 1e-6)
    return [grain, *noises, stripes, crowns, conifers, relief]


def _crowns(rng: np.random.Generator, size: int, spacing: int, sun: float) -> FloatArray:
    """Draw tree crowns, one in each cell of a jittered grid, lit from one side.

    A crown is a paraboloid; where several overlap, the highest is visible. The texture repeats
    after some 700 px, which is not a multiple of a patch.
    """
    cells = min(-(-size // spacing) + 1, 701 // spacing)
    place = rng.random((2, cells, cells), np.float32)
    steep = (rng.uniform(0.62, 1.15, (cells, cells)) ** -2).astype(np.float32)
    tint = rng.standard_normal((cells, cells), np.float32)
    inner = (np.arange(spacing, dtype=np.float32) + 0.5) / spacing
    height = np.full((cells, spacing, cells, spacing), -1.0, np.float32)
    tints = np.zeros_like(height)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            moved = (-down, -right)
            y = np.roll(place[0], moved, (0, 1))[:, None, :, None] + down
            x = np.roll(place[1], moved, (0, 1))[:, None, :, None] + right
            dy, dx = inner[None, :, None, None] - y, inner[None, None, None, :] - x
            here = 1 - (dy * dy + dx * dx) * np.roll(steep, moved, (0, 1))[:, None, :, None]
            higher = here > height
            np.copyto(height, here, where=higher)
            np.copyto(tints, np.roll(tint, moved, (0, 1))[:, None, :, None], where=higher)
    side = cells * spacing
    height = np.maximum(height.reshape(side, side), -0.4)
    lit = _slope(height, sun, 2, wrap=True)
    texture = height + 1.6 * lit + 0.16 * tints.reshape(side, side)
    texture = (texture - texture.mean()) / texture.std()
    repeats = -(-size // side)
    return np.ascontiguousarray(np.tile(texture, (repeats, repeats))[:size, :size])


def _slope(height: FloatArray, sun: float, step: int, *, wrap: bool = False) -> FloatArray:
    """Return the rise of a surface towards the sun over ``step`` px."""
    shift = round(step * np.sin(sun)), round(step * np.cos(sun))
    ahead = np.roll(height, shift, (0, 1))
    slope = height - ahead
    if not wrap:
        slope[: abs(shift[0])] = 0
        slope[len(slope) - abs(shift[0]) :] = 0
        slope[:, : abs(shift[1])] = 0
        slope[:, slope.shape[1] - abs(shift[1]) :] = 0
    return slope


def _shadows(land: Landscape, look: Look) -> FloatArray:
    """Return the share of light (H, W) left by the shadows of trees and buildings."""
    tall = (land.surface == FOREST) | (land.surface == ROOF)
    shaded = np.zeros_like(tall)
    length = max(round(look.shadow), 2)
    for step in range(1, length + 1, 2):
        # Azimuths are between 0 and 90 degrees, so shadows fall down and to the right.
        down, right = round(step * np.sin(look.sun)), round(step * np.cos(look.sun))
        shaded[down:, right:] |= tall[: len(tall) - down, : len(tall) - right]
    shaded &= ~tall
    return np.where(shaded, np.float32(0.42), np.float32(1))


def _add_details(rng: np.random.Generator, land: Landscape, tone: FloatArray) -> None:
    """Draw cars and white lines on lots, vents on roofs, and ruts on bare ground."""
    bare = np.flatnonzero(land.surface == BARREN)
    if len(bare):
        way = smooth_noise(rng, land.lc.shape, 120).ravel()[bare]
        tone.ravel()[bare] -= np.where(np.abs(np.abs(way) - 0.06) < 0.03, 0.22, 0).astype(
            np.float32
        )
    lots = np.flatnonzero(land.surface == LOT)
    if len(lots):
        along = land.along.ravel()[lots].astype(np.intp)
        across = land.across.ravel()[lots].astype(np.intp)
        in_row = across % 18
        slot = (along // 3 * 31 + across // 18 * 57 + (in_row > 6) * 13) % 509
        shade = rng.choice([-0.55, -0.35, 0.5, 1.2, 2.0], 509) * (rng.random(509) < 0.55)
        is_car = (in_row < 12) & (in_row % 6 > 0) & (along % 3 > 0)
        full = smooth_noise(rng, land.lc.shape, 60).ravel()[lots] > rng.uniform(-1, 1.4)
        tone.ravel()[lots] += np.where(is_car & full, shade[slot], 0).astype(np.float32)
        tone.ravel()[lots] += np.where((in_row < 12) & (along % 3 == 0), 0.12, 0).astype(np.float32)
    roofs = np.flatnonzero(land.surface == ROOF)
    if len(roofs):
        along = land.along.ravel()[roofs].astype(np.intp)
        across = land.across.ravel()[roofs].astype(np.intp)
        vent = rng.choice([0, 0.7, -0.5], 997, p=[0.9, 0.05, 0.05])
        vent = vent[(along // 5 * 41 + across // 5) % 997]
        tone.ravel()[roofs] += np.where((along % 5 < 3) & (across % 5 < 3), vent, 0).astype(
            np.float32
        )


def _glint(rng: np.random.Generator, land: Landscape) -> FloatArray:
    """Return sunlight reflected by water (H, W): sparkle in patches, in half of the scenes."""
    size = len(land.lc)
    if rng.random() < 0.5:
        return np.zeros((size, size), np.float32)
    patches = np.clip(smooth_noise(rng, (size, size), 240) + rng.uniform(-1, 0.8), 0, 2)
    sparkle = np.clip(1 + 0.5 * smooth_noise(rng, (size, size), 14, 4), 0, 3)
    glint: FloatArray = patches * sparkle * np.float32(rng.uniform(0.02, 0.08))
    glint[land.surface != WATER] = 0
    return glint
