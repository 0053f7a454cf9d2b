"""Embedding through Ray Data against bare loops of the same model: python -m perf.embed

Takes about 4 minutes on two cores, and with --compiled two more. The bare loops work on arrays in
memory; the stage reads Parquet and writes Parquet. Start-up, and the compiler, are excluded from
all three: the stage's rate is taken from the begin of its first batch to the end of its last.
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
BATCH = 4


def plain_model(name: str, num_threads: int, compiled: bool):
    """Return the same model in a bare loop: channels-last, batches of four."""
    import torch

    from benchmark.catalog.backbones import find_backbone
    from benchmark.networks.devices import keep_compiled
    from benchmark.networks.embedder import Network

    keep_compiled()
    torch.set_num_threads(num_threads)
    network = Network(find_backbone(name), BANDS).eval().to(memory_format=torch.channels_last)
    model = network.backbone
    if compiled:
        model = torch.compile(model, dynamic=False)

    def embed(images: np.ndarray) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                x = network.preprocess(torch.from_numpy(images[start : start + BATCH]))
                found.append(model(x.contiguous(memory_format=torch.channels_last)).numpy())
        return np.concatenate(found)

    return embed


def pixels(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count // BATCH * BATCH, 4, 128, 128), dtype=np.uint8)


def bare_loop(name: str, num_threads: int, count: int, compiled: bool) -> float:
    """Return images/s of one process."""
    model, images = plain_model(name, num_threads, compiled), pixels(count)
    model(images[:32])
    began = time.perf_counter()
    model(images)
    return len(images) / (time.perf_counter() - began)


def _process(name, count, compiled, barrier, results):
    model, images = plain_model(name, 1, compiled), pixels(count)
    model(images[:32])
    barrier.wait()
    began = time.time()
    model(images)
    results.put((began, time.time(), len(images)))


def two_processes(name: str, count: int, compiled: bool) -> float:
    """Return images/s of two independent processes of one thread each, together."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    workers = [
        spawn.Process(target=_process, args=(name, count // 2, compiled, barrier, results))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    total = sum(number for _, _, number in spans)
    return total / (max(end for _, end, _ in spans) - min(begin for begin, _, _ in spans))


def stage(name: str, count: int, compiled: bool) -> float:
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
            embed={"compile": compiled, "batch_size": BATCH},
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
    parser.add_argument("--compiled", action="store_true", help="torch.compile in all three")
    options = parser.parse_args()
    name, count, compiled = options.backbone, options.count, options.compiled
    rows = []
    for number in range(options.rounds):
        row = {
            "stage": stage(name, count, compiled),
            "bare, two threads": bare_loop(name, 2, count // 3, compiled),
            "two processes": two_processes(name, count // 3, compiled),
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
