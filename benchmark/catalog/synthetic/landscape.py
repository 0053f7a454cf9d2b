"""Plans of synthetic landscapes: the surface and the part of each pixel.

A part is a field, a stand of trees, a roof or a pit; it has one colour and one texture. Lengths
are in px of 1 m.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]

WATER, FOREST, FIELD, BARREN, LOT, ROOF, ROAD, LAWN = range(8)
LC_OF_SURFACE = np.array([1, 2, 3, 4, 5, 5, 6, 3], np.uint8)
NODATA, ABERDEEN = 0, 15
"""The two values of ``lc`` without a class; 15 marks the gap at Aberdeen Proving Ground."""


class Landscape(NamedTuple):
    """The plan of one scene."""

    lc: NDArray[np.uint8]
    """Land cover (H, W), the values of ``lc``."""
    surface: NDArray[np.uint8]
    """Surface (H, W), finer than ``lc``, and defined where ``lc`` is nodata, too."""
    part: IntArray
    """Index of the part (H, W)."""
    surface_of_part: NDArray[np.uint8]
    """Surface of each part (P,)."""
    along: FloatArray
    across: FloatArray
    """Coordinates (H, W) in the directions of the fields' edges."""
    is_blank: NDArray[np.bool_]
    """Where the picture has no data (H, W)."""


class Site(NamedTuple):
    """A rectangle on the ground: centre, half sides and angle in radians."""

    y: float
    x: float
    half_length: float
    half_width: float
    angle: float


class Plan(NamedTuple):
    """The contents of a scene."""

    forest: float
    """Share of the land with trees."""
    lake: float
    """Share of the scene covered by a lake; 0: no lake."""
    num_towns: int
    num_pits: int
    num_paved: int


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], scale: float, octaves: int = 1
) -> FloatArray:
    """Draw smooth noise of mean 0 and standard deviation 1.

    Args:
        rng: random generator.
        shape: H and W in px.
        scale: distance in px of the knots of the coarsest octave.
        octaves: their number; each has half the scale and half the amplitude of the last.

    Returns:
        noise (H, W) float32.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        knots = scale / 2**octave
        grid_shape = int(height / knots) + 5, int(width / knots) + 5
        grid = rng.standard_normal(grid_shape, np.float32)
        offset = rng.random(2)
        tall = _stretch(grid, height, knots, offset[0])
        total += 0.5**octave * _stretch(tall.T, width, knots, offset[1]).T
    total -= total.mean()
    total /= max(float(total.std()), 1e-6)
    return total


def _stretch(grid: FloatArray, length: int, knots: float, offset: float) -> FloatArray:
    """Interpolate the first axis by cubic B-splines, as products of small dense matrices."""
    out = np.empty((length, grid.shape[1]), np.float32)
    for start in range(0, length, 256):
        stop = min(start + 256, length)
        place = np.arange(start, stop) / knots + offset
        first = int(place[0])
        t = place - np.floor(place)
        cell = np.floor(place).astype(int) - first
        weights = np.zeros((stop - start, cell[-1] + 4), np.float32)
        basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
        for k, values in enumerate(basis):
            weights[np.arange(stop - start), cell + k] = values / 6
        out[start:stop] = weights @ grid[first : first + weights.shape[1]]
    return out


def draw_landscape(rng: np.random.Generator, size: int, plan: Plan) -> Landscape:
    """Draw the plan of one scene of ``size`` x ``size`` px."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    bend = smooth_noise(rng, (size, size), 420) * 10
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y + bend
    across = np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y - bend
    along -= along.min()
    across -= across.min()
    parts = _Parts()
    surface, part, edge = _fields(rng, along, across, parts)

    rough = smooth_noise(rng, (size, size), 24, 3)
    cover = smooth_noise(rng, (size, size), 340, 3) + 0.06 * rough
    forest = cover > np.quantile(cover[::8, ::8], 1 - plan.forest)
    hedges = (edge == 1) & (rough > -0.3)
    # Two noises of several octaves: stands meet at corners instead of forming contour rings.
    levels = [smooth_noise(rng, (size, size), 300, 3) + 0.06 * rough for _ in range(2)]
    stands = (levels[0] > 0.1) * 3 + np.digitize(levels[1], (-0.4, 0.5))
    _cover(surface, part, forest | hedges, FOREST, parts.add(FOREST, 6) + stands)
    _cover(surface, part, edge == 2, ROAD, parts.add(ROAD))
    for _ in range(plan.num_towns):
        _town(rng, surface, part, parts)
    for _ in range(int(rng.integers(3, 9)) * size // 1536):
        _farm(rng, surface, part, parts)
    _water(rng, surface, part, parts, plan, rough)
    for _ in range(plan.num_pits):
        _pit(rng, surface, part, parts, rough)
    for _ in range(plan.num_paved):
        _paved(rng, surface, part, parts)
    lc = LC_OF_SURFACE[surface]
    is_blank = _gaps(rng, lc, y, x)
    surfaces = np.array(parts.surfaces, np.uint8)
    return Landscape(lc, surface, part, surfaces, along, across, is_blank)


class _Parts:
    """The parts, numbered in the order of drawing."""

    def __init__(self) -> None:
        self.surfaces: list[int] = []

    def add(self, surface: int, count: int = 1) -> int:
        """Add parts of one surface; return the number of the first."""
        self.surfaces += [surface] * count
        return len(self.surfaces) - count


def _cover(
    surface: NDArray[np.uint8], part: IntArray, where: NDArray[np.bool_], code: int, parts: object
) -> None:
    np.copyto(surface, np.uint8(code), where=where)
    np.copyto(part, np.asarray(parts, np.intp), where=where)


def _fields(
    rng: np.random.Generator, along: FloatArray, across: FloatArray, parts: _Parts
) -> tuple[NDArray[np.uint8], IntArray, NDArray[np.uint8]]:
    """Divide the scene into parcels; the third array is 1 on hedges and 2 on roads."""
    column, column_edge = _bands(rng, int(along.max()) + 1, 90, 320)
    columns = column[along.astype(np.intp)]
    shift = rng.integers(0, 400, column[-1] + 1)
    row, row_edge = _bands(rng, int(across.max()) + 401, 130, 460)
    shifted = across.astype(np.intp) + shift[columns]
    num_rows = int(row[-1]) + 1
    part = columns * num_rows + row[shifted]
    edge = np.maximum(column_edge[along.astype(np.intp)], row_edge[shifted] % 2)
    parts.add(FIELD, (int(column[-1]) + 1) * num_rows)
    return np.full(part.shape, FIELD, np.uint8), part, edge


def _bands(
    rng: np.random.Generator, length: int, low: int, high: int
) -> tuple[IntArray, NDArray[np.uint8]]:
    """Cut a length into bands; return the band and the kind of edge of each px."""
    widths = rng.integers(low, high, length // low + 2)
    ends = np.cumsum(widths)
    band = np.searchsorted(ends, np.arange(length), side="right").astype(np.intp)
    edge = np.zeros(length, np.uint8)
    kinds = rng.choice([0, 1, 2], len(ends), p=[0.56, 0.32, 0.12])
    for end, kind in zip(ends, kinds, strict=True):
        half = 4 if kind == 2 else int(rng.integers(4, 9))
        edge[max(end - half, 0) : end + half] = kind
    return band, edge


def _water(
    rng: np.random.Generator,
    surface: NDArray[np.uint8],
    part: IntArray,
    parts: _Parts,
    plan: Plan,
    rough: FloatArray,
) -> None:
    """Draw a river and a lake with rough shores, or one of them, or none."""
    size = len(surface)
    first = parts.add(WATER, 2)
    valley = smooth_noise(rng, (size, size), 700) + 0.02 * rough
    if rng.random() < 0.75:
        river = np.abs(valley - rng.uniform(-0.7, 0.7)) < rng.uniform(0.01, 0.07)
        _cover(surface, part, river, WATER, first)
    if plan.lake:
        basin = smooth_noise(rng, (size, size), 520, 2) + 0.03 * rough
        lake = basin > np.quantile(basin[::8, ::8], 1 - plan.lake)
        _cover(surface, part, lake, WATER, first + 1)


def _local(
    size: int, site: Site, margin: float = 0
) -> tuple[tuple[slice, slice], FloatArray, FloatArray]:
    """Return the window of a site, and the coordinates along and across the site."""
    reach = int(np.hypot(site.half_length, site.half_width) + margin) + 2
    rows = slice(max(int(site.y) - reach, 0), max(min(int(site.y) + reach, size), 0))
    cols = slice(max(int(site.x) - reach, 0), max(min(int(site.x) + reach, size), 0))
    y, x = np.mgrid[rows, cols].astype(np.float32)
    y, x = y - np.float32(site.y), x - np.float32(site.x)
    cos, sin = np.float32(np.cos(site.angle)), np.float32(np.sin(site.angle))
    return (rows, cols), cos * x + sin * y, cos * y - sin * x


def _somewhere(
    rng: np.random.Generator, size: int, low: float, high: float, margin: float = 0.1
) -> Site:
    half = rng.uniform(low, high, 2) / 2
    place = rng.uniform(margin * size, (1 - margin) * size, 2)
    return Site(place[0], place[1], half[0], half[1], rng.uniform(0, np.pi))


def _town(
    rng: np.random.Generator, surface: NDArray[np.uint8], part: IntArray, parts: _Parts
) -> None:
    """Draw streets with houses, lawns and trees."""
    size = len(surface)
    site = _somewhere(rng, size, 260, 640)
    window, u, v = _local(size, site)
    radius = np.hypot(u / site.half_length, v / site.half_width)
    ragged = smooth_noise(rng, u.shape, 60, 2)
    inside = radius + 0.18 * ragged < 0.9
    part_here, surface_here = part[window], surface[window]
    block, depth = int(rng.integers(74, 110)), int(rng.integers(22, 34))
    u, v = u + 1000, v + 1000
    lot_u, lot_v = (u * 2 // block).astype(np.intp), (v // depth).astype(np.intp)
    in_u, in_v = u % (block / 2), v % depth
    lots = lot_u * 97 + lot_v
    number = lots % 101
    lengths, widths = rng.uniform(5, 9, 101)[number], rng.uniform(4, 7, 101)[number]
    shifts = rng.uniform(-4, 4, 101)[number]
    house = (np.abs(in_u - block / 4 - shifts) < lengths) & (np.abs(in_v - depth / 2) < widths)
    house &= rng.random(101)[number] < 0.85
    street = (u % block < 7) | (v % (depth * 6) < 7)
    drive = (np.abs(in_v - depth / 2) < 2) & (in_u < block / 4) & ~house
    _cover(surface_here, part_here, inside, LAWN, parts.add(LAWN, 7) + lots % 7)
    trees = inside & (smooth_noise(rng, u.shape, 9) > 1.0)
    _cover(surface_here, part_here, trees, FOREST, parts.add(FOREST))
    _cover(surface_here, part_here, inside & drive, LOT, parts.add(LOT))
    _cover(surface_here, part_here, inside & house, ROOF, parts.add(ROOF, 12) + number % 12)
    _cover(surface_here, part_here, inside & street, ROAD, parts.add(ROAD))


def _farm(
    rng: np.random.Generator, surface: NDArray[np.uint8], part: IntArray, parts: _Parts
) -> None:
    yard = _somewhere(rng, len(surface), 40, 80)
    code = LAWN if rng.random() < 0.6 else BARREN
    _rectangle(surface, part, yard, code, parts.add(code))
    for _ in range(int(rng.integers(1, 5))):
        half = rng.uniform(5, 16), rng.uniform(4, 8)
        barn = Site(yard.y + rng.uniform(-25, 25), yard.x + rng.uniform(-25, 25), *half, yard.angle)
        _rectangle(surface, part, barn, ROOF, parts.add(ROOF))


def _rectangle(
    surface: NDArray[np.uint8], part: IntArray, site: Site, code: int, number: int
) -> None:
    window, u, v = _local(len(surface), site)
    where = (np.abs(u) < site.half_length) & (np.abs(v) < site.half_width)
    _cover(surface[window], part[window], where, code, number)


def _pit(
    rng: np.random.Generator,
    surface: NDArray[np.uint8],
    part: IntArray,
    parts: _Parts,
    rough: FloatArray,
) -> None:
    """Draw a quarry, building site or beach: a ragged ellipse of bare ground."""
    site = _somewhere(rng, len(surface), 250, 330, margin=0.16)
    window, u, v = _local(len(surface), site, margin=30)
    bays = smooth_noise(rng, u.shape, 110)
    ragged = np.hypot(u / site.half_length, v / site.half_width) + 0.05 * rough[window]
    ragged += 0.14 * bays
    floors = (ragged * 2.2 + 0.5 * rough[window] > 1.2).astype(np.intp)
    _cover(surface[window], part[window], ragged < 1, BARREN, parts.add(BARREN, 2) + floors)


def _paved(
    rng: np.random.Generator, surface: NDArray[np.uint8], part: IntArray, parts: _Parts
) -> None:
    """Draw a mall, depot or plant: a lot with large roofs and strips of green."""
    site = _somewhere(rng, len(surface), 260, 370, margin=0.14)
    window, u, v = _local(len(surface), site)
    where = (np.abs(u) < site.half_length) & (np.abs(v) < site.half_width)
    _cover(surface[window], part[window], where, LOT, parts.add(LOT))
    green = where & (u % 97 < 5)
    _cover(surface[window], part[window], green, LAWN, parts.add(LAWN))
    cos, sin = np.cos(site.angle), np.sin(site.angle)
    for _ in range(int(rng.integers(2, 6))):
        a, b = site.half_length * rng.uniform(0.15, 0.5), site.half_width * rng.uniform(0.15, 0.5)
        du = rng.uniform(-1, 1) * (site.half_length - a)
        dv = rng.uniform(-1, 1) * (site.half_width - b)
        place = site.y + sin * du + cos * dv, site.x + cos * du - sin * dv
        _rectangle(surface, part, Site(*place, a, b, site.angle), ROOF, parts.add(ROOF))


def _gaps(
    rng: np.random.Generator, lc: NDArray[np.uint8], y: FloatArray, x: FloatArray
) -> NDArray[np.bool_]:
    """Blank a wedge of labels at the edge, or a disc inside; return the picture's gaps."""
    size = len(lc)
    blank = np.zeros(lc.shape, bool)
    if rng.random() < 0.3:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.42, 0.55) * size
        wedge = np.cos(angle) * (x - size / 2) + np.sin(angle) * (y - size / 2) > reach
        np.copyto(lc, NODATA, where=wedge)
        if rng.random() < 0.7:
            blank |= wedge
    if rng.random() < 0.25:
        site = _somewhere(rng, size, 60, 220)
        window, u, v = _local(size, site)
        np.copyto(lc[window], ABERDEEN, where=np.hypot(u, v) < site.half_width)
    return blank
