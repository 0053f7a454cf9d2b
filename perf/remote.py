"""Scenes over HTTP, and a calculation for all six states: python -m perf.remote

One synthetic scene of 6,000 x 6,000 px from a web server on this machine, as strips and as tiles:
bytes, requests and CPU seconds (client and server) of the labels, and of 1 %, 10 % and all of the
windows. About 3 minutes, most of it to draw the scene.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio

from benchmark.catalog.chesapeake.scenes import open_chesapeake
from benchmark.config import DatasetConfig
from perf.patches import PATCH, draw_scene
from tests.ranges import Server, serve

NUM_SCENES = 750
ROUND_TRIP_S = 0.03
BYTES_PER_S = 10e6
NUM_PROCESSES = 8
"""Of the calculation: a machine of 8 cores at 80 MB/s, 30 ms from the server."""
DOLLARS_PER_HOUR = 0.40
"""Of that machine (docs/CLUSTERS.md)."""
SHARES = (0.01, 0.1, 1.0)


class Cost(NamedTuple):
    """What one scene costs."""

    num_bytes: int
    num_requests: int
    seconds: float

    def plus(self, other: Cost) -> Cost:
        """Return the sum of two."""
        return Cost(*(mine + yours for mine, yours in zip(self, other, strict=True)))

    def hours(self) -> float:
        """Return the hours of all scenes, if nothing overlaps within a process."""
        waited = self.num_requests * ROUND_TRIP_S + self.num_bytes / BYTES_PER_S
        return NUM_SCENES * (self.seconds + waited) / NUM_PROCESSES / 3600


def measure(server: Server, work: Callable[[], object]) -> Cost:
    """Return the cost of some work."""
    server.reset()
    began = time.process_time()
    work()
    seconds = time.process_time() - began
    return Cost(server.num_bytes(), len(server.requests), seconds)


def write_tiles(path: Path) -> None:
    """Write an image anew in tiles of 256 px."""
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    profile.update(tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)


def show(name: str, cost: Cost) -> None:
    """Print a row: of one scene, and of all."""
    print(
        f"   {name:28s}{cost.num_bytes / 1e6:8.1f} MB{cost.num_requests:6d} requests"
        f"{cost.seconds:7.2f} s   all: {NUM_SCENES * cost.num_bytes / 1e9:7.1f} GB"
        f"{cost.hours():7.2f} h{cost.hours() * DOLLARS_PER_HOUR:7.2f} $",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=6000, help="side of the scene in px")
    size = parser.parse_args().size
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_scene(root, size)
        (image,) = root.glob("pa*test*/*_naip-new.tif")
        with serve(root) as server:
            for layout in ("strips", "tiles"):
                if layout == "tiles":
                    write_tiles(image)
                print(f"   image in {layout}: {image.stat().st_size / 1e6:.1f} MB")
                config = DatasetConfig(name="chesapeake", root=server.url, patch_size=PATCH)
                source = open_chesapeake(config)
                (unit,) = source.units()
                head = measure(server, source.digest)
                labels = measure(server, partial(source.find, unit))
                show("digest and labels", head.plus(labels))
                candidates = source.find(unit).candidates
                rows = np.random.default_rng(0).permutation(candidates.num_rows)
                for share in SHARES:
                    chosen = candidates.take(np.sort(rows[: round(share * len(rows))]))
                    pixels = measure(server, partial(source.read, chosen))
                    name = f"and {share:.0%} of the windows ({chosen.num_rows})"
                    show(name, head.plus(labels).plus(pixels))


if __name__ == "__main__":
    main()
