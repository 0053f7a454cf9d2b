"""How embedding scales: python -m perf.scaling

First measured: the stage with 1, 2 and 4 actors whose backbone only waits, so that two cores carry
four of them; and what a part costs the driver and a core. Then SIMULATED, from those costs and from
assumed networks and GPUs: 1 to 256 GPUs and 1,000 to 15.8 million patches. About 6 minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pyarrow as pa
import torch

from benchmark.catalog.backbones import BACKBONES
from benchmark.stages.embed import EmbedStage
from benchmark.stages.embed.calls import Task
from benchmark.stages.embed.workers import ReadParts
from benchmark.stages.patches import PatchesStage
from benchmark.tables import embeddings_column
from perf.pipeline_model import Rates, Simulated, simulate
from perf.toys import open_noise

FEW = 2048
"""Patches, in 32 parts of 64."""
MANY = 8192
"""Patches, in 32 parts of 256: a multiple of every number of actors."""
DIM = 768

GPU_RATES = {"BEiT-base, bf16, a consumer card": 2700.0, "BEiT-base, bf16, an H200": 6450.0}
"""Patches/s of one GPU, forward only: ASSUMED of the card (of 2022, as others have measured), and
measured of the H200 by perf.gpu."""
NODE_BYTES_PER_S = 25e9 / 8
"""ASSUMED: machines of eight GPUs and 32 cores on 25 Gbit/s."""
STORE_BYTES_PER_S = 10e9
"""ASSUMED: what an object store gives one account."""
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COUNTS = (1_000, 16_000, 160_000, 1_600_000, 15_800_000)


class Waiting(torch.nn.Module):
    """Takes so long for each patch, and no core: (B, C, H, W) to (B, 768)."""

    def __init__(self, num_bands: int, seconds: float) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.seconds = seconds
        self.scale = torch.nn.Parameter(torch.ones(DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds * len(x))
        return x.mean(dim=(1, 2, 3))[:, None] * self.scale


def build_waiting(seconds: float, num_bands: int) -> torch.nn.Module:
    return Waiting(num_bands, seconds)


def waiting(seconds: float, name: str):
    build = partial(build_waiting, seconds)
    return replace(BACKBONES.get("random"), name=name, build=build, dim=DIM, image_size=None)


def measure(context, seconds: float, num_actors: int, number: int = 0) -> tuple[float, float]:
    """Return patches/s from first batch to last, and seconds from the begin to the first batch."""
    # A name of its own: what is complete would not be computed again.
    backbone = waiting(seconds, f"waiting-{seconds}-{num_actors}-{number}")
    context.backbones = (backbone,)
    embed = context.experiment.embed.model_copy(update={"num_actors": num_actors})
    context.experiment = context.experiment.model_copy(update={"embed": embed})
    began = time.time()
    result = EmbedStage().run(context)
    total_s = time.time() - began
    assert result.cells[0].status == "complete", result.cells
    manifest = context.embeddings(backbone).manifest()
    this_run = manifest["seconds"]["this_run"]
    return manifest["num_patches"] / this_run, total_s - this_run


def core_costs(context) -> tuple[float, float]:
    """Return the seconds of a core for reading a patch, and for writing its embedding."""
    parts = [part for part in context.patches.manifest()["parts"] if part["num_rows"]]
    read = ReadParts(context.patches)
    began = time.perf_counter()
    for part in parts:
        read(Task(0, ((part["name"], part["num_rows"]),), ()))
    read_s = (time.perf_counter() - began) / sum(part["num_rows"] for part in parts)
    size = parts[0]["num_rows"]
    vectors = np.random.default_rng(0).random((size, DIM), np.float32)
    table = pa.table(
        {"patch_id": [f"{n:08d}" for n in range(size)], "embedding": embeddings_column(vectors)}
    )
    artefact = context.store.artefact("embed", "write-cost", "0" * 16)
    began = time.perf_counter()
    for number in range(20):
        artefact.write_table(f"part-{number:06d}.parquet", table)
    return read_s, (time.perf_counter() - began) / (20 * size)


def open_store(folder: str, count: int):
    return open_noise(
        folder,
        max(3000, count + count // 2),
        backbones=["random"],
        heads=["majority"],
        dataset={"name": "synthetic", "root": "noise", "per_class": -(-count // 15)},
        embed={"compile": False, "channels_last": True, "num_threads": 1, "batch_size": 4},
    )


def driver_costs(folder: str) -> tuple[float, float]:
    """Return the seconds of the driver's core for one part, and for begin and end of a stage.

    From stages of 2 and of 32 parts, whose difference has no begin and no end in it.
    """
    found = []
    for count in (FEW // 16, FEW):
        context = open_store(f"{folder}/{count}", count)
        PatchesStage().run(context)
        parts = len(context.patches.manifest()["parts"])
        seconds = []
        for number in range(3):
            began = time.process_time()
            measure(context, 0.0, 2, number)
            seconds.append(time.process_time() - began)
        found.append((parts, float(np.median(seconds))))
    (few, few_s), (many, many_s) = found
    part_s = (many_s - few_s) / (many - few)
    return part_s, few_s - few * part_s


def check(seconds: float) -> Rates:
    """Measure with 1, 2 and 4 actors beside the model's answer, and return the measured costs."""
    with tempfile.TemporaryDirectory() as folder:
        context = open_store(f"{folder}/many", MANY)
        with context.cluster:
            PatchesStage().run(context)
            count = context.patches.manifest()["num_patches"]
            read_s, write_s = core_costs(context)
            measure(context, 0.0, 1)  # imports
            _, start_s = measure(context, 0.0, 2)
            driver_s, stage_s = driver_costs(folder)
            measured = {number: measure(context, seconds, number)[0] for number in (1, 2, 4)}
    patch_bytes = 4 * 128 * 128
    rates = Rates(patch_bytes, driver_s, read_s, write_s, 1 / seconds, start_s)
    print(
        f"a part costs the driver {1000 * driver_s:.1f} ms of its core, begin and end of a stage "
        f"{stage_s:.1f} s; {start_s:.1f} s to first batch"
    )
    print(f"a core reads {1 / read_s:,.0f} and writes {1 / write_s:,.0f} patches/s")
    for number, rate in measured.items():
        model = simulate(
            count, replace(rates, start_s=0.0), num_gpus=number, gpus_per_node=4, cores_per_node=2
        )
        print(
            f"measured, {number} waiting actors: {rate:.1f} patches/s, efficiency "
            f"{rate / number / measured[1]:.3f}; the model says {count / model.seconds:.1f}"
        )
    return rates


def table(rates: Rates) -> None:
    """Print the simulated times, efficiencies and limits."""
    for (name, rate), count in product(GPU_RATES.items(), COUNTS):
        one: Simulated | None = None
        for num_gpus in GPUS:
            found = simulate(
                count,
                replace(
                    rates,
                    patches_per_s=rate,
                    node_bytes_per_s=NODE_BYTES_PER_S,
                    store_bytes_per_s=STORE_BYTES_PER_S,
                ),
                num_gpus=num_gpus,
                gpus_per_node=8,
                cores_per_node=32,
            )
            one = one or found
            efficiency = one.seconds / found.seconds / num_gpus
            print(
                f"SIMULATED, {name}, {count:,} patches, {num_gpus} GPUs: {found.seconds:.0f} s, "
                f"efficiency {efficiency:.2f}, limited by {found.limit}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.02, help="that a patch waits")
    options = parser.parse_args()
    table(check(options.seconds))


if __name__ == "__main__":
    main()
