"""Whether a GPU waits for anything but itself: python -m perf.overlap

The real stage on a real Ray that books one GPU, which is not there: the network sleeps for 20 ms a
batch, without a core and without Python's lock. Its rate, from the first batch to the last
embeddings handed over, against the rate of the sleep alone, and against a bare loop of the same
network over patches in memory. About 2 minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmark.catalog.backbones import BACKBONES
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.stages.embed import EmbedStage
from benchmark.stages.patches import PatchesStage
from benchmark.tables import images_array, vectors_array
from perf.toys import Noise, open_noise

DIM = 768
PART = 1024


class Sleeping(torch.nn.Module):
    """Takes the same time for each batch: (B, C, H, W) to (B, 768), its pixels in other order."""

    def __init__(self, num_bands: int, seconds: float) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.seconds = seconds
        self.scale = torch.nn.Parameter(torch.ones(DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x[:, 0, :24, :32].flatten(1) * self.scale


def build_sleeping(seconds: float, num_bands: int) -> torch.nn.Module:
    return Sleeping(num_bands, seconds)


def sleeping(seconds: float, number: int):
    """Return a backbone with a name of its own: what is complete would not be computed again."""
    build = partial(build_sleeping, seconds)
    name = f"sleeping-{number}"
    return replace(BACKBONES.get("random"), name=name, build=build, dim=DIM, image_size=None)


def device_path(context, seconds: float, batch_size: int) -> Embedder:
    plan = plan_device(device="cpu", precision="float32", batch_size=batch_size)
    return Embedder(sleeping(seconds, 0), context.source.bands, plan)


def bare_loop(embedder: Embedder, pixels: np.ndarray) -> float:
    """Return patches/s of the device path over parts in memory."""
    embedder.warm_up(pixels)
    began = time.perf_counter()
    for start in range(0, len(pixels), PART):
        embedder(pixels[start : start + PART])
    return len(pixels) / (time.perf_counter() - began)


def measure(context, backbone, expected: np.ndarray) -> dict:
    """Embed all patches, compare the embeddings, and return the manifest."""
    context.backbones = (backbone,)
    (cell,) = EmbedStage().run(context).cells
    assert cell.status == "complete", cell.reason
    artefact = context.embeddings(backbone)
    assert np.array_equal(vectors_array(artefact.read_table()["embedding"]), expected)
    return artefact.manifest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=48_000, help="patches")
    parser.add_argument("--size", type=int, default=32, help="pixels of a patch's side")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--milliseconds", type=float, default=20.0, help="of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds, size = options.milliseconds / 1000, options.batch_size
    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            2 * options.count // 1000 * 1000,
            backbones=["random"],
            heads=["majority"],
            dataset={
                "name": "synthetic",
                "root": "noise",
                "patch_size": options.size,
                "per_class": -(-options.count // 15),
            },
            embed={"compile": False, "batch_size": size, "num_gpus": 1.0},
        )
        context.__dict__["source"] = Noise(2 * options.count // 1000 * 1000, options.size)
        with context.cluster:
            context.cluster.connect(num_gpus=1)
            PatchesStage().run(context)
            images = context.patches.read_table(columns=["image"])["image"]
            pixels = images_array(images, (4, options.size, options.size))
            expected, _ = device_path(context, 0.0, size)(pixels)
            for number in range(options.rounds):
                bare = bare_loop(device_path(context, seconds, size), pixels[: 20 * PART])
                manifest = measure(context, sleeping(seconds, number), expected)
                spent = manifest["seconds"]
                count = manifest["num_patches"]
                mine = count / spent["this_run"]
                alone = size / seconds
                print(
                    f"{count:,} patches in batches of {size}: the stage "
                    f"{mine:.0f} patches/s, the sleep alone {alone:.0f}, ratio {mine / alone:.3f}; "
                    f"a bare loop {bare:.0f}, ratio {mine / bare:.3f}; on the device "
                    f"{spent['device']:.2f} of {spent['this_run']:.2f} s, peak "
                    f"{manifest['peak_memory_bytes'] / 2**20:.0f} MiB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
