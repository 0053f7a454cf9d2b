"""What a GPU gets out of the device path and of the stages: python -m perf.gpu

Takes about 5 minutes on one GPU. BEiT-base and ConvNeXt-base have weights drawn at random and
patches are random numbers of 4 x 128 x 128: only speed is meant. ``device`` and ``training`` need
no Ray: the path alone, against a bare loop over pixels that already lie on the device, and against
the card's own rate of multiplying matrices. ``stage`` is the stage on Ray, which reads Parquet and
writes Parquet, against the best bare loop that is not compiled.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

BANDS = ("red", "green", "blue", "nir")
PART = 1024
BATCH = 128
CLASSES = 5
CHECKPOINTS = ("beit", "convnext", "beit-small", "convnext-small")
"""Of base size, and of a few million parameters at 64 px, for machines without a GPU."""


def write_checkpoint(folder: Path, kind: str) -> str:
    """Write a network of ``CHECKPOINTS`` as transformers saves it; return its backbone's name."""
    import transformers

    torch.manual_seed(0)
    path = folder / kind
    if not path.exists():
        is_small = kind.endswith("-small")
        side = 64 if is_small else 224
        if kind.startswith("beit"):
            sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
            config: Any = transformers.BeitConfig(
                use_mean_pooling=True, image_size=side, **(sizes if is_small else {})
            )
            processor: Any = transformers.BeitImageProcessor(
                size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
            )
            model: Any = transformers.BeitModel(config)
        else:
            config = transformers.ConvNextConfig(
                depths=[2, 2, 6, 2] if is_small else [3, 3, 27, 3],
                hidden_sizes=[40, 80, 160, 320] if is_small else [128, 256, 512, 1024],
            )
            processor = transformers.ConvNextImageProcessor(size={"shortest_edge": side})
            model = transformers.ConvNextModel(config)
        model.save_pretrained(path)
        processor.save_pretrained(path)
    return f"hf:{path}"


def find(name: str, folder: Path) -> Any:
    """Return a backbone by its short name here."""
    from benchmark.catalog.backbones import find_backbone

    return find_backbone(write_checkpoint(folder, name) if name in CHECKPOINTS else name)


def noise(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, len(BANDS), 128, 128), dtype=np.uint8)


def rate(run: Callable[[], int], seconds: float, device: str) -> float:
    """Return items/s of a function that returns how many it did, after two calls that warm up."""

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    run(), run()
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += run()
        wait()
    return count / (time.perf_counter() - began)


def matmul_rate(device: str, seconds: float) -> float:
    """Return FLOP/s of the product of two square matrices: bfloat16, on a CPU float32."""
    size, dtype = (1024, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    a = torch.randn(size, size, dtype=dtype, device=device)

    def run() -> int:
        for _ in range(8):
            torch.mm(a, a)
        return 8

    return 2 * size**3 * rate(run, seconds, device)


def flops_of_patch(backbone: Any) -> int:
    """Return the FLOPs of one patch: two for each multiplication with an addition."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from benchmark.networks.embedder import Network

    network = Network(backbone, BANDS).eval()
    x = network.preprocess(torch.from_numpy(noise(1)))
    # Of attention on a CPU, the counter knows this kernel alone.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as it:
        network.backbone(x)
    return it.get_total_flops()


def bare_loop(backbone: Any, plan: Any, seconds: float) -> float:
    """Return patches/s of the same network over pixels on the device, a part at a time."""
    from benchmark.networks.embedder import Network

    network = Network(backbone, BANDS).eval()
    network = network.to(plan.device, memory_format=torch.channels_last)
    model = network.backbone
    if plan.is_cast:
        model = model.to(torch.bfloat16)
    if plan.is_compiled:
        torch.compiler.reset()
        model = torch.compile(model, dynamic=False)
    pixels = torch.from_numpy(noise(PART)).to(plan.device)
    is_lowered = plan.precision == "bfloat16" and not plan.is_cast
    dtype = torch.bfloat16 if plan.is_cast else torch.float32

    def run() -> int:
        with torch.inference_mode():
            for at in range(0, PART, plan.batch_size):
                x = network.preprocess(pixels[at : at + plan.batch_size]).to(dtype)
                with torch.autocast(plan.device, torch.bfloat16, is_lowered):
                    model(x.contiguous(memory_format=torch.channels_last))
        return PART

    return rate(run, seconds, plan.device)


def modes(device: str, compiles: bool) -> Iterator[Any]:
    from benchmark.networks.devices import plan_device

    yield plan_device(device=device, precision="float32", batch_size=BATCH)
    plan = plan_device(device=device, precision="bfloat16", batch_size=BATCH)
    yield plan
    yield from cast_modes(plan)
    if compiles:
        yield replace(plan, is_cast=True, is_compiled=True, batch_size=4 * BATCH)


def cast_modes(plan: Any) -> list[Any]:
    """Return the plan with bfloat16 weights, in small and in large batches."""
    return [replace(plan, is_cast=True, batch_size=size) for size in (BATCH, 4 * BATCH)]


def describe(plan: Any) -> str:
    weights = " weights" if plan.is_cast else ""
    attention = "" if plan.attention == "auto" else f" {plan.attention} attention"
    compiled = " compiled" if plan.is_compiled else ""
    return f"{plan.precision}{weights}{attention}{compiled}, batches of {plan.batch_size}"


def measure_device(
    names: list[str], folder: Path, device: str, seconds: float, compiles: bool
) -> None:
    from benchmark.networks.calibration import Calibration, cosine_distance
    from benchmark.networks.devices import Asked, plan_device
    from benchmark.networks.embedder import Embedder
    from benchmark.networks.trials import Memory

    matmul = matmul_rate(device, seconds)
    print(f"matrices: {matmul / 1e12:.1f} TFLOP/s", flush=True)
    parts = [noise(PART) for _ in range(2)]

    def path_rate(embedder: Any) -> float:
        embedder.warm_up(parts[0])
        return rate(lambda: sum(len(embedder(part)[0]) for part in parts), seconds, device)

    for name in names:
        backbone = find(name, folder)
        share = flops_of_patch(backbone) / matmul
        reference, best = None, 0.0
        for plan in modes(device, compiles):
            embedder = Embedder(backbone, BANDS, plan)
            mine = path_rate(embedder)
            embeddings, _ = embedder(parts[0])
            reference = embeddings if reference is None else reference
            bare = bare_loop(backbone, plan, seconds)
            best = max(best, bare)
            print(
                f"{name} {describe(plan)}: device path {mine:.0f}, bare loop {bare:.0f} patches/s, "
                f"ratio {mine / bare:.2f}; {mine * share:.2f} and {bare * share:.2f} of the matmul "
                f"rate; cosine distance from float32 {cosine_distance(embeddings, reference):.1e}",
                flush=True,
            )
        embedder = Embedder(backbone, BANDS, plan_device(device=device))
        began = time.perf_counter()
        chosen = Calibration(embedder, parts[0], Memory(None)).plan(
            Asked(is_compiled=None if compiles else False),
            1_000_000,
            num_in_all=1_000_000,
            is_network=True,
        )
        spent = time.perf_counter() - began
        mine = path_rate(embedder)
        print(
            f"{name}: calibration for a million patches took {spent:.1f} s: {describe(chosen)}, "
            f"channels-last {chosen.channels_last}: device path {mine:.0f} patches/s, "
            f"{mine / best:.2f} of the best bare loop, {mine * share:.2f} of the matmul rate: "
            f"{chosen.reason}",
            flush=True,
        )


def bare_training(backbone: Any, config: Any, device: str, seconds: float) -> float:
    """Return patches/s of a plain training loop without augmentation, pixels on the device."""
    import torch.nn.functional as F

    from benchmark.networks.classifier import build_classifier
    from benchmark.networks.embedder import Preprocessing
    from benchmark.training.loop import choose_precision

    preprocess = Preprocessing(backbone, BANDS).to(device)
    model = build_classifier(backbone, preprocess.num_bands, CLASSES)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device != "cpu")
    size = config.batch_size
    pixels = torch.from_numpy(noise(size)).to(device)
    labels = torch.arange(size, device=device) % CLASSES
    has_it = choose_precision("auto", torch.device(device)) == "bfloat16"

    def run() -> int:
        x = preprocess(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16 if has_it else None, has_it):
            logits = model(x)
        F.cross_entropy(logits.float(), labels, label_smoothing=0.1).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return size

    return rate(run, seconds, device)


def measure_training(names: list[str], folder: Path, device: str, seconds: float) -> None:
    from benchmark.finetune_settings import FinetuneConfig
    from benchmark.training.feeds import MemoryFeed, Samples
    from benchmark.training.loop import Ranks, Training

    steps, place = 64, torch.device(device)
    for name in names:
        backbone = find(name, folder)
        for batch_size in (32, 128):
            config = FinetuneConfig(batch_size=batch_size)
            samples = Samples(
                np.arange(4 * batch_size).astype(np.str_),
                torch.from_numpy(noise(4 * batch_size)).to(place),
                torch.arange(4 * batch_size, device=place) % CLASSES,
            )
            feed = MemoryFeed(samples, batch_size=batch_size, seed=0)
            training = Training(
                backbone,
                BANDS,
                [1] * CLASSES,
                config,
                seed=0,
                num_steps=steps,
                ranks=Ranks(device=place),
            )
            training.begin_epoch(0)

            def run(feed: Any = feed, training: Any = training, size: int = batch_size) -> int:
                for step, batch in enumerate(feed.batches(0)):
                    training.step(batch, 0, step + 1)
                return feed.num_steps * size

            mine = rate(run, seconds, device)
            peak = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else 0.0
            bare = bare_training(backbone, config, device, seconds)
            print(
                f"{name} training, batches of {batch_size}, {training.precision}: ours with flips "
                f"and colours {mine:.0f}, bare loop without {bare:.0f} patches/s, ratio "
                f"{mine / bare:.2f}; peak {peak:.1f} GiB",
                flush=True,
            )
            del training
            if device != "cpu":
                torch.cuda.empty_cache()


def measure_stage(names: list[str], folder: Path, device: str, count: int, seconds: float) -> None:
    from benchmark.networks.devices import plan_device
    from benchmark.stages.embed import EmbedStage
    from benchmark.stages.patches import PatchesStage
    from perf.toys import open_noise

    shares: tuple[Any, ...] = ("auto",) if device == "cpu" else (1.0, 0.5)
    with tempfile.TemporaryDirectory() as store:
        context = open_noise(
            store,
            count,
            backbones=["random"],
            heads=["majority"],
            dataset={"name": "synthetic", "root": "noise"},
            embed={"compile": False},
        )
        with context.cluster:
            PatchesStage().run(context)
            for name in names:
                backbone = find(name, folder)
                plan = plan_device(device=device, batch_size=BATCH)
                plans = cast_modes(plan) if plan.precision == "bfloat16" else [plan]
                bare = max(bare_loop(backbone, plan, seconds) for plan in plans)
                for share in shares:
                    embed = context.experiment.embed.model_copy(update={"num_gpus": share})
                    context.experiment = context.experiment.model_copy(update={"embed": embed})
                    context.backbones = (backbone,)
                    (cell,) = EmbedStage().run(context).cells
                    assert cell.status == "complete", cell.reason
                    artefact = context.embeddings(backbone)
                    manifest = artefact.manifest()
                    spent = manifest["seconds"]["this_run"]
                    mine = manifest["num_patches"] / spent
                    print(
                        f"{name} stage, {manifest['plan']['reason']}, num_gpus {share}: "
                        f"{manifest['num_patches']:,} patches in {spent:.1f} s by "
                        f"{manifest['pool']['num_actors']} actors, {mine:.0f} patches/s, bare loop "
                        f"{bare:.0f}, ratio {mine / bare:.2f}; {manifest['seconds']}",
                        flush=True,
                    )
                    shutil.rmtree(artefact.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=["device", "training", "stage"])
    parser.add_argument("--names", nargs="+", default=["beit", "convnext", "random"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--count", type=int, default=30_000, help="patches of the stage")
    parser.add_argument(
        "--compiled", action="store_true", help="compiled modes too: a minute for each network"
    )
    parser.add_argument("--folder", default="", help="where checkpoints are kept")
    options = parser.parse_args()
    kind = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    print(f"{kind}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        common = (options.names, folder, options.device)
        if "device" in options.parts:
            measure_device(*common, options.seconds, options.compiled)
        if "training" in options.parts:
            measure_training(*common, options.seconds)
        if "stage" in options.parts:
            measure_stage(*common, options.count, options.seconds)


if __name__ == "__main__":
    main()
