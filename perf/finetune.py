"""Fine-tuning against a bare PyTorch loop: python -m perf.finetune

Takes about 8 minutes on two cores. Random patches of 128 px, EfficientNet-Lite0 at 224 px, the
same batches, precision and augmentation; the bare loop is plain PyTorch over arrays in memory.
Rates are those of whole steps after the first ones; the start of a trainer is shown apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch

from benchmark.store.names import beside
from perf.toys import open_noise

BACKBONE = "efficientnet_lite0"
BATCH = 32
MICRO_BATCH = 8
WARM_STEPS = 2


def bare_loop(num_patches: int, num_threads: int) -> float:
    """Return patches/s of a plain loop: AdamW, two rates, smoothing, flips, colours, clipping."""
    import torch.nn.functional as F

    from benchmark.catalog.backbones import find_backbone

    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    body = find_backbone(BACKBONE).build(3)
    model = torch.nn.Sequential(body, torch.nn.Linear(1280, 5)).to(
        memory_format=torch.channels_last
    )
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 1e-4}, {"params": model[1].parameters()}],
        lr=1e-3,
        weight_decay=0.01,
    )
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (num_patches, 4, 128, 128), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 5, num_patches))
    began = 0.0
    order = torch.randperm(num_patches)
    steps = num_patches // BATCH
    for step in range(steps):
        if step == WARM_STEPS:
            began = time.perf_counter()
        rows = order[step * BATCH : (step + 1) * BATCH]
        for at in range(0, BATCH, MICRO_BATCH):
            part = rows[at : at + MICRO_BATCH]
            x = pixels[part][:, :3]
            flips = torch.rand(3, len(part), 1, 1, 1) < 0.5
            x = torch.where(flips[0], x.flip(-1), x)
            x = torch.where(flips[1], x.flip(-2), x)
            x = torch.where(flips[2], x.transpose(-1, -2), x)
            x = F.interpolate(x.float(), size=(224, 224), mode="bilinear")
            gain = 0.9 + 0.2 * torch.rand(len(part), 1, 1, 1)
            shift = 25.5 * torch.rand(len(part), 3, 1, 1) - 12.75
            x = ((x - 127.5) * gain + 127.5 + shift).clamp_(0, 255)
            x = (x / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(x), labels[part], label_smoothing=0.1, reduction="sum")
            (loss / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (steps - WARM_STEPS) * BATCH / (time.perf_counter() - began)


def stage(num_patches: int, num_workers: int) -> tuple[float, float]:
    """Return patches/s of a training epoch of the stage, and the seconds before it began."""
    from benchmark.stages.finetune import FinetuneStage

    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            3000,
            backbones=[BACKBONE],
            heads=["majority"],
            dataset={"name": "synthetic", "root": "noise", "per_class": num_patches // 5},
            finetune={
                "num_epochs": 2,
                "batch_size": BATCH,
                "micro_batch": MICRO_BATCH,
                "num_workers": num_workers,
                "patience": 9,
            },
        )
        from benchmark.stages.patches import PatchesStage

        with context.cluster:
            PatchesStage().run(context)
            began = time.time()
            (cell,) = FinetuneStage().run(context).cells
            ended = time.time()
        assert cell.status == "complete", cell.reason
        artefact = context.finetuned(context.backbones[0], 0)
        curve = artefact.read_table(names=[beside("curve")]).to_pylist()
        # The second epoch: nothing is loaded or planned in it. Val is read apart.
        seconds = curve[1]["train_seconds"]
        spent = sum(row["seconds"] for row in curve) + artefact.manifest()["seconds"]["refit"] / 2
        return context.num_train / seconds, ended - began - spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--patches", type=int, default=480)
    options = parser.parse_args()
    alone, pair = [], []
    for number in range(options.rounds):
        one, start_one = stage(options.patches, 1)
        bare = bare_loop(options.patches, 2)
        two, start_two = stage(options.patches, 2)
        alone.append(one / bare)
        pair.append(two / one)
        print(f"{number}: bare loop {bare:.1f}, one worker {one:.1f}, two {two:.1f} patches/s")
        print(f"   start and end: {start_one:.1f} s in the process, {start_two:.1f} s with a group")
    for name, ratios in (("one worker / bare loop", alone), ("two workers / one worker", pair)):
        print(
            f"{name}: median {statistics.median(ratios):.2f} "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
