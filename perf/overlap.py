"""Whether a GPU waits for anything but itself: python -m perf.overlap

The real stage on a real Ray that books one GPU, which is pretended: a network that holds its device
for 20 ms a batch, without a core and without Python's lock. As on a GPU, a batch is queued while
the one before it computes. Two backbones in one run, on patches of 32 px read from Parquet; the
embeddings are compared with those of the bare device path. Prints the rate of the first backbone,
from its first batch to the end of its last part, as a share of the device's own rate, and how long
the device waits between the two backbones. About 2 minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from benchmark.catalog.backbones import BACKBONES
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.specs import Backbone
from benchmark.stages.embed import EmbedStage
from benchmark.stages.embed.calls import join_parts
from benchmark.stages.patches import PatchesStage
from benchmark.tables import images_array, vectors_array
from perf.toys import UNIT_ROWS, Noise, open_noise

DIM = 768


class Sleeping(torch.nn.Module):
    """Holds its device for the same time for each batch: (B, C, H, W) to (B, 768)."""

    def __init__(self, num_bands: int, seconds: float, log: str, name: str) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.seconds, self.log, self.name = seconds, log, name
        self.free_s = 0.0
        self.scale = torch.nn.Parameter(torch.ones(DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.seconds:
            now = time.time()
            began = max(now, self.free_s)
            self.free_s = began + self.seconds
            with Path(self.log).open("a") as file:
                file.write(f"{self.name} {began}\n")
            time.sleep(began - now)
        return x[:, 0, :24, :32].flatten(1) * self.scale


def build_sleeping(seconds: float, log: str, name: str, num_bands: int) -> torch.nn.Module:
    return Sleeping(num_bands, seconds, log, name)


def sleeping(seconds: float, log: str, name: str) -> Backbone:
    build = partial(build_sleeping, seconds, log, name)
    return replace(BACKBONES.get("random"), name=name, build=build, dim=DIM, image_size=None)


def expect(context, batch_size: int) -> np.ndarray:
    """Return the embeddings of the device path alone, which sleeps not at all."""
    shape = (len(context.source.bands), *2 * (context.source.patch_size,))
    images = context.patches.read_table(columns=["image"])["image"]
    plan = plan_device(device="cpu", precision="float32", batch_size=batch_size)
    embedder = Embedder(sleeping(0.0, "", "expected"), context.source.bands, plan)
    return embedder(images_array(images, shape))[0]


def measure(context, backbones: list[Backbone], log: str, expected: np.ndarray, batch_size: int):
    """Embed all patches with both backbones, check the embeddings, and print the rates."""
    context.backbones = tuple(backbones)
    began = time.time()
    for result in EmbedStage().run(context).cells:
        assert result.status == "complete", result.reason
    for backbone in backbones:
        table = context.embeddings(backbone).read_table(columns=["embedding"])
        assert np.array_equal(vectors_array(table["embedding"]), expected)
    lines = [line.split() for line in Path(log).read_text().splitlines()]
    calls = join_parts(
        context.patches.manifest()["parts"],
        len(context.source.bands) * context.source.patch_size**2,
    )
    count = sum(-(-sum(rows for _, rows in call) // batch_size) for call in calls)
    # The batches before these warm up or calibrate.
    times = {
        b.name: [float(at) for name, at in lines if name == b.name][-count:] for b in backbones
    }
    seconds = backbones[0].build.args[0]
    first, second = times.values()
    manifest = context.embeddings(backbones[0]).manifest()
    # The device works on the last batch while its embeddings, known before, are handed over.
    whole_s = manifest["seconds"]["this_run"] + seconds
    stage, alone = len(expected) / whole_s, len(expected) / count / seconds
    busy = count * seconds / (first[-1] + seconds - first[0])
    print(
        f"{len(expected):,} patches in batches of {batch_size}, {1000 * seconds:g} ms each: the "
        f"stage {stage:.0f} patches/s, the device alone {alone:.0f}, ratio {stage / alone:.3f}; "
        f"busy from first to last batch {busy:.3f}; first batch after {first[0] - began:.1f} s; "
        f"{second[0] - first[-1] - seconds:.2f} s to the second backbone, "
        f"{len(list(groupby(name for name, _ in lines))) - 2} more changes; peak "
        f"{manifest['peak_memory_bytes'] / 2**20:.0f} MiB; load of the machine "
        f"{os.getloadavg()[0]:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=48_000, help="patches")
    parser.add_argument("--size", type=int, default=32, help="pixels of a patch's side")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--milliseconds", type=float, default=20.0, help="of a batch")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    found = 2 * -(-options.count // UNIT_ROWS) * UNIT_ROWS
    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            found,
            backbones=["random"],
            heads=["majority"],
            dataset={
                "name": "synthetic",
                "root": "noise",
                "patch_size": options.size,
                "per_class": -(-options.count // 15),
            },
            embed={"compile": False, "batch_size": options.batch_size, "num_gpus": 1.0},
        )
        context.__dict__["source"] = Noise(found, options.size)
        with context.cluster:
            context.cluster.connect(num_gpus=1)
            PatchesStage().run(context)
            expected = expect(context, options.batch_size)
            for number in range(options.rounds):
                log = f"{folder}/{number}.log"
                # New names, because what is complete would not be computed again.
                names = [f"sleeping-{number}-{letter}" for letter in "ab"]
                backbones = [sleeping(options.milliseconds / 1000, log, name) for name in names]
                measure(context, backbones, log, expected, options.batch_size)


if __name__ == "__main__":
    main()
