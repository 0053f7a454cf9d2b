"""The share of the forward passes in the time of a map, and the memory: python -m perf.maps

Takes about 2 minutes on two cores. The model is EfficientNet-Lite0 with a linear head, exported
from noise as a program, or as ONNX with --onnx. Its start is excluded, the writing of the maps is
included. Both times are of one run, so that other load on the machine changes them alike.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from benchmark.peaks import peak_memory_bytes

SIDE = 128
BANDS = ("red", "green", "blue")
CLASSES = tuple("abcde")


def write_model(folder: Path, *, as_onnx: bool) -> Path:
    """Write an exported folder without an experiment."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from benchmark.catalog.backbones import find_backbone
    from benchmark.exporting import onnx
    from benchmark.exporting.heads import build_head
    from benchmark.exporting.program import write_program
    from benchmark.exporting.running import record_program, write_description
    from benchmark.networks.embedder import Network

    backbone = find_backbone("efficientnet_lite0")
    network = Network(backbone, BANDS).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, SIDE, SIDE), np.uint8)
    with torch.inference_mode():
        x = network.preprocess(torch.from_numpy(pixels)).clone()
        embeddings = network.backbone(x).numpy()
    head = build_head(LogisticRegression().fit(embeddings, np.arange(20) % 5), len(CLASSES))
    facts = {"classes": list(CLASSES), "bands": list(BANDS), "patch_size": SIDE}
    folder.mkdir()
    if as_onnx:
        prepare = onnx.FixedPreprocessing(backbone, BANDS, SIDE)
        graph = onnx._Whole(prepare, network.backbone, head).eval()
        traced = onnx.Traced(graph, pixels, np.empty(0, np.float32))
        takes_batches = onnx._write_graph(folder / "model.onnx", traced, name="it")
        write_description(folder, {**facts, "kind": "onnx", "takes_batches": takes_batches})
    else:
        facts["kind"] = "program"
        write_program(folder, network, head, x, backbone=backbone, description=facts)
        record_program(folder)
    return folder


def write_scene(path: Path, side: int) -> None:
    """Write a scene of noise in strips, as large ones are."""
    rng = np.random.default_rng(0)
    profile = {
        **{"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8"},
        **{"crs": "EPSG:26918", "tiled": True, "compress": "deflate"},
    }
    with rasterio.open(path, "w", transform=from_origin(5e5, 4e6, 1, 1), **profile) as file:
        for row in range(0, side, 512):
            height = min(512, side - row)
            block = rng.integers(0, 256, (3, height // 8, side // 8), np.uint8)
            pixels = block.repeat(8, axis=1).repeat(8, axis=2)
            file.write(pixels, window=((row, row + height), (0, side)))


class Timed:
    """A model that measures the time of its forward passes, within the run that is measured."""

    def __init__(self, model) -> None:
        self._model, self.classes = model, model.classes
        self.wall_s = self.cpu_s = 0.0

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        began, cpu = time.perf_counter(), time.process_time()
        found = self._model.predict(pixels)
        self.wall_s += time.perf_counter() - began
        self.cpu_s += time.process_time() - cpu
        return found


def peak_mb() -> float:
    return peak_memory_bytes() / 2**20


def main() -> None:
    from benchmark.exporting.running import open_model
    from benchmark.mapping.finding import Work
    from benchmark.mapping.running import map_whole, plan_maps

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--onnx", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_maps(str(write_model(folder / "model", as_onnx=asked.onnx)))
        model = open_model(plan.model)
        for side in asked.sides:
            scene = folder / f"scene{side}.tif"
            write_scene(scene, side)
            count = (side // SIDE) ** 2
            alone = Timed(model)
            began, cpu = time.perf_counter(), time.process_time()
            result = map_whole(plan, alone, Work(str(scene), str(folder / f"map{side}.tif")))
            whole, whole_cpu = time.perf_counter() - began, time.process_time() - cpu
            assert result.num_patches == count
            print(
                f"{side} x {side} px, {os.cpu_count()} cores: forward only "
                f"{count / alone.wall_s:.1f} patches/s, maps {count / whole:.1f} patches/s, share "
                f"{alone.wall_s / whole:.2f} (of CPU-seconds {alone.cpu_s / whole_cpu:.2f}), peak "
                f"memory {peak_mb():.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
