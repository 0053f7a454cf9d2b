"""Embedding through Ray Data against bare loops of the same model: python -m perf.embed

Takes about 4 minutes on two cores. The bare loops work on arrays in memory; the stage reads
Parquet and writes Parquet. Start-up is excluded from all three: the stage's rate is taken from
the begin of its first batch to the end of its last.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time

import numpy as np

from perf.toys import open_noise

BANDS = ("red", "green", "blue", "nir")


def plain_model(name: str, num_threads: int):
    """Return the same model in a bare loop: eager, channels-last, batches of four."""
    import torch

    from benchmark.catalog.backbones import BACKBONES
    from benchmark.network import Network

    torch.set_num_threads(num_threads)
    network = Network(BACKBONES.get(name), BANDS).eval().to(memory_format=torch.channels_last)

    def embed(images: np.ndarray) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), 4):
                x = network.preprocess(torch.from_numpy(images[start : start + 4]))
                x = x.contiguous(memory_format=torch.channels_last)
                found.append(network.backbone(x).numpy())
        return np.concatenate(found)

    return embed


def pixels(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 4, 128, 128), dtype=np.uint8)


def bare_loop(name: str, num_threads: int, count: int) -> float:
    """Return images/s of one process."""
    model, images = plain_model(name, num_threads), pixels(count)
    model(images[:32])
    began = time.perf_counter()
    model(images)
    return count / (time.perf_counter() - began)


def _process(name, count, barrier, results):
    model, images = plain_model(name, 1), pixels(count)
    model(images[:32])
    barrier.wait()
    began = time.time()
    model(images)
    results.put((began, time.time()))


def two_processes(name: str, count: int) -> float:
    """Return images/s of two independent processes of one thread each, together."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    workers = [
        spawn.Process(target=_process, args=(name, count // 2, barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return count / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def stage(name: str, count: int) -> float:
    """Return images/s of the stage, reading and writing included."""
    from benchmark.stages.embed import EmbedStage
    from benchmark.stages.patches import PatchesStage

    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            3000,
            backbones=[name],
            heads=["majority"],
            dataset={"name": "synthetic", "root": "noise", "per_class": count // 15},
        )
        with context.cluster:
            PatchesStage().run(context)
            EmbedStage().run(context)
        manifest = context.embeddings(context.backbones[0]).manifest()
        return manifest["num_patches"] / manifest["seconds"]["this_run"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=1920)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    name, count = options.backbone, options.count
    rows = []
    for number in range(options.rounds):
        row = {
            "stage": stage(name, count),
            "bare, two threads": bare_loop(name, 2, count // 3),
            "two processes": two_processes(name, count // 3),
        }
        rows.append(row)
        print(number, {key: round(value, 1) for key, value in row.items()}, flush=True)
    for other in ("bare, two threads", "two processes"):
        ratios = [row["stage"] / row[other] for row in rows]
        print(
            f"stage / {other}: median {statistics.median(ratios):.2f} "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
