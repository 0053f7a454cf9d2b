"""Requests and bytes of footprints of a raster product over HTTP: python -m perf.footprints

A raster of SIMULATED vectors in AlphaEarth's layout lies on a web server on this machine that
counts its answers. Footprints of 128 m (12.8 px) lie in one quarter of it; the blocks of 64 px that
they touch are counted in the file's own table, and compared with what was sent. One process, which
the server shares. `--count 15809 --side 1024` is the study's number (half a minute).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from benchmark.catalog.backbones import find_backbone
from tests.product_rasters import footprints, unit_vectors, write_alphaearth
from tests.ranges import serve

SIZE = 12.8
"""Side of a footprint, in px."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--count", type=int, default=1_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = write_alphaearth(Path(name), unit_vectors(asked.side, asked.side))
        quarter = asked.side // 2
        rng = np.random.default_rng(0)
        rows, cols = np.sort(rng.uniform(0, quarter - SIZE - 1, size=(2, asked.count)))
        rng.shuffle(cols)
        with rasterio.open(path) as file:
            block = file.block_shapes[0][0]
            places = {
                (int(row + dy) // block, int(col + dx) // block)
                for row, col in zip(rows, cols, strict=True)
                for dy in (0, SIZE)
                for dx in (0, SIZE)
            }
            touched = sum(file.block_size(1, *place) for place in places)
        with serve(path.parent) as server:
            product = find_backbone(f"embeddings:{server.url}/{path.name}").product
            server.reset()
            began, cpu = time.perf_counter(), time.process_time()
            sampler = product.open()
            num_sampled = 0
            for request in sampler.requests(footprints(rows, cols, SIZE)):
                num_sampled += len(sampler.sample(request))
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            num_gets = sum(item.method == "GET" for item in server.requests)
            print(
                f"{num_sampled:,} footprints, {len(places)} blocks touched with "
                f"{touched / 1e6:.1f} MB of a file of {path.stat().st_size / 1e6:.1f} MB: "
                f"{num_gets} GET requests, {server.num_bytes() / 1e6:.1f} MB sent, "
                f"{wall:.0f} s, {cpu:.0f} CPU seconds",
                flush=True,
            )


if __name__ == "__main__":
    main()
