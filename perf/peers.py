"""What people write first, and other runtimes, against the package: the parts whose input is given.

    python -m perf.peers --weights FOLDER        a checkpoint folder of MobileNetV2 for transformers
    python -m perf.peers --photographs FOLDER    a sub-folder of real photographs for each class
    python -m perf.peers --forward

**Stage.** ``transformers.pipeline("image-feature-extraction")`` over PIL images; a torch
``DataLoader`` over a folder of PNG files with ``timm.create_model``; and the stage ``embed``,
Parquet in and Parquet out. The same architecture at 224 px. Start-up is excluded from all. About 6
minutes on two cores.

**Whole commands.** ``benchmark run``, with a new store and a new cache folder, against
``perf.plain``, from the start of the process to its end: EfficientNet-Lite0 with ImageNet weights,
logistic regression with ten trials. More photographs than there are (2,100 of 280) are turned and
mirrored copies of the real ones, so scores mean nothing. The files are in the system's cache.

**Forward pass.** The same network and batch in float32, threads on all cores (``--threads 1``: as
each embedding actor has): torch as it is, torch as an actor runs it (batch normalisation folded,
channels last), ONNX Runtime, OpenVINO.

All on the same machine, in turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 128
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def pictures(count: int) -> list:
    from PIL import Image

    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)
    ]


def transformers_pipeline(weights: str, count: int) -> float:
    """Return images/s of the pipeline of transformers, with its defaults."""
    from transformers import pipeline

    extract = pipeline("image-feature-extraction", model=weights)
    images = pictures(count)
    extract(images[:8])
    began = time.perf_counter()
    extract(images)
    return count / (time.perf_counter() - began)


def dataloader_and_timm(count: int, folder: Path) -> float:
    """Return images/s of the loop of timm's own documentation, over a folder of images."""
    import timm
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    (folder / "class").mkdir(parents=True)
    for number, image in enumerate(pictures(count)):
        image.save(folder / "class" / f"{number}.png")
    model = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    loader = DataLoader(ImageFolder(str(folder), transform), batch_size=32)
    with torch.no_grad():
        model(next(iter(loader))[0])
        began = time.perf_counter()
        for batch, _ in loader:
            model(batch)
    return count / (time.perf_counter() - began)


def list_photographs(folder: Path) -> list[Path]:
    """Return the images, one of each class after another, so that any first ones are balanced."""
    found = [
        sorted(item for item in sub.iterdir() if item.suffix.lower() in SUFFIXES)
        for sub in sorted(folder.iterdir())
        if sub.is_dir()
    ]
    return [item for item in chain.from_iterable(zip_longest(*found)) if item]


def choose_copies(photographs: Sequence[Path], count: int) -> Iterator[tuple[Path, int]]:
    """Yield ``count`` pairs of a photograph and its turn (0 to 7; 0: as it is), all different."""
    if not 0 < count <= 8 * len(photographs):
        raise SystemExit(f"{len(photographs)} photographs give 1 to {8 * len(photographs)} copies")
    for number in range(count):
        turn, which = divmod(number, len(photographs))
        yield photographs[which], turn


def write_copies(photographs: Sequence[Path], count: int, folder: Path) -> None:
    """Write photographs and, when they are used up, turned and mirrored copies as PNG."""
    from PIL import Image

    for path, turn in choose_copies(photographs, count):
        target = folder / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        if not turn:
            shutil.copy(path, target)
            continue
        pixels = np.rot90(np.asarray(Image.open(path)), turn % 4)
        image = Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if turn > 3 else pixels))
        image.save(target / f"{path.stem}-{turn}.png")


def time_command(command: list[str]) -> tuple[float, float]:
    """Return the wall and processor seconds of a module's command with a new cache folder."""
    from perf.timeline import Tree

    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        env = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, env=env
        )
        tree = Tree(child.pid, 0.5)
        code = child.wait()
        seconds = time.perf_counter() - began
        tree.stop()
        log.seek(0)
        if code:
            raise SystemExit(f"{' '.join(command)}: exit code {code}\n{log.read()[-3000:]}")
    return seconds, tree.cpu_s


def write_experiment(photographs: Path, trials: int, store: Path) -> Path:
    """Write the experiment of one run beside its store."""
    path = store.with_suffix(".toml")
    path.write_text(
        'name = "peers"\nbackbones = ["efficientnet_lite0"]\nheads = ["logistic_regression"]\n'
        f"store = {json.dumps(str(store))}\n"
        f'[dataset]\nname = "folder"\nroot = {json.dumps(str(photographs))}\npatch_size = 256\n'
        f"[tune]\nnum_trials = {trials}\n"
    )
    return path


def measure_commands(folder: Path, counts: list[int], rounds: int, trials: int) -> None:
    import torch

    from benchmark.catalog.efficientnet import build_lite

    photographs = list_photographs(folder)
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "weights.pth"
        torch.save(build_lite(0, 3).state_dict(), weights)
        for count in counts:
            root = Path(place) / f"photographs-{count}"
            write_copies(photographs, count, root)
            options = ["--weights", str(weights), "--trials", str(trials)]
            walls, cpus = [], []
            for number in range(rounds):
                toml = write_experiment(root, trials, Path(place) / f"runs-{count}-{number}")
                commands = {
                    "plain loop": ["perf.plain", str(root), *options],
                    "benchmark run": ["benchmark", "run", str(toml)],
                }
                wall, cpu = {}, {}
                for name, command in commands.items():
                    wall[name], cpu[name] = time_command(command)
                    print(
                        f"{count} photographs, round {number}, {name}: {wall[name]:.1f} s, "
                        f"{cpu[name]:.1f} processor seconds, load {os.getloadavg()[0]:.1f}",
                        flush=True,
                    )
                walls.append(wall)
                cpus.append(cpu)
            print_ratios(walls, "benchmark run", "s")
            print_ratios(cpus, "benchmark run", "processor seconds")


def print_ratios(rows: Sequence[dict[str, float]], ours: str, unit: str) -> None:
    """Print the median of each column, and of the ratios of one column to each other."""
    for name in rows[0]:
        median = statistics.median(row[name] for row in rows)
        print(f"{name}: median {median:.1f} {unit}")
    for other in rows[0]:
        if other != ours:
            ratios = [row[ours] / row[other] for row in rows]
            print(
                f"{ours} / {other}: median {statistics.median(ratios):.2f} "
                f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
            )


def runtimes(name: str, x: np.ndarray, threads: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return the forward passes of a backbone over one batch, float32 (B, 3, S, S), by runtime."""
    import torch

    from benchmark.catalog.backbones import find_backbone
    from benchmark.networks.folding import fold_batch_norms
    from benchmark.networks.freed import keep_freed_memory
    from benchmark.networks.pointwise import choose_pointwise

    torch.set_num_threads(threads)
    batch = torch.from_numpy(x)
    plain = find_backbone(name).build(3).eval()
    with torch.inference_mode():
        # A module without batch normalisations is returned itself.
        ours = copy.deepcopy(fold_batch_norms(plain, batch)).to(memory_format=torch.channels_last)
        choose_pointwise(ours, is_fast=True)
    keep_freed_memory()
    found = {
        "torch": lambda: plain(batch).numpy(),
        "torch, as actors run it": lambda: ours(
            batch.contiguous(memory_format=torch.channels_last)
        ).numpy(),
    }
    path = folder / "network.onnx"
    if find_spec("onnx") and find_spec("onnxscript"):
        torch.onnx.export(plain, (batch,), path, dynamo=True, input_names=["x"], verbose=False)
    for package, opened in (("onnxruntime", open_onnxruntime), ("openvino", open_openvino)):
        if find_spec(package) is None or not path.exists():
            absent = package if path.exists() else "onnx or onnxscript"
            print(f"{package}: not measured, {absent} is not installed")
            continue
        found[package] = opened(path, x, threads)
    return found


def open_onnxruntime(path: Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def open_openvino(path: Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import openvino

    # On a CPU with bfloat16 it would compute in that.
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda: model(x)[0]


def measure_forward(
    name: str, batches: list[int], threads: int, rounds: int, seconds: float
) -> None:
    import torch

    from benchmark.catalog.backbones import find_backbone
    from perf.gpu import rate

    def images_per_s(run: Callable[[], Any], size: int) -> float:
        def one_batch() -> int:
            run()
            return size

        return rate(one_batch, seconds, "cpu")

    side = find_backbone(name).image_size or 224
    for size in batches:
        x = np.random.default_rng(0).normal(size=(size, 3, side, side)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            passes = runtimes(name, x, threads, Path(folder))
            expected, rows = passes["torch"](), []
            for key, run in passes.items():
                difference = np.abs(run() - expected).max() / np.abs(expected).max()
                assert difference < 1e-3, f"{key}: embeddings differ by {difference:.1e}"
            for _ in range(rounds):
                rows.append({key: images_per_s(run, size) for key, run in passes.items()})
        load = os.getloadavg()[0]
        print(f"{name}, {side} px, batches of {size}, {threads} threads, load {load:.1f}")
        print_ratios(rows, "torch, as actors run it", "images/s")


def measure_stage(weights: str, count: int, rounds: int) -> None:
    from perf.embed import stage

    rows = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            row = {
                "pipeline": transformers_pipeline(weights, count // 8),
                "DataLoader + timm": dataloader_and_timm(count // 8, Path(folder)),
                "stage": stage(f"hf:{weights}", count, False),
                "stage, compiled": stage(f"hf:{weights}", count, True),
            }
        rows.append(row)
        print(number, {key: round(value, 1) for key, value in row.items()}, flush=True)
    for ours in ("stage", "stage, compiled"):
        print_ratios(rows, ours, "images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", metavar="FOLDER", help="the stage")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="whole commands")
    parser.add_argument("--forward", action="store_true", help="the forward pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1920, help="images of the stage")
    parser.add_argument("--counts", type=int, nargs="+", default=[280, 2100], help="photographs")
    parser.add_argument("--trials", type=int, default=10, help="of the head of whole commands")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 32], help="forward pass")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--backbone", default="efficientnet_lite0", help="forward pass")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each forward pass, a round")
    options = parser.parse_args()
    if not (options.weights or options.photographs or options.forward):
        parser.error("give --weights, --photographs or --forward")
    if options.forward:
        measure_forward(
            options.backbone, options.batches, options.threads, options.rounds, options.seconds
        )
    if options.photographs:
        measure_commands(options.photographs, options.counts, options.rounds, options.trials)
    if options.weights:
        measure_stage(options.weights, options.count, options.rounds)


if __name__ == "__main__":
    main()
