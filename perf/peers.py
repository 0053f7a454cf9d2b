"""Embedding against what people write first, with the default settings of each:

    python -m perf.peers --weights FOLDER     a checkpoint folder of MobileNetV2 for transformers

``transformers.pipeline("image-feature-extraction")`` over PIL images; a torch ``DataLoader`` over a
folder of PNG files with ``timm.create_model``; and the stage ``embed``, Parquet in and Parquet out.
The same architecture at 224 px, on the same machine, in turns. Start-up is excluded from all.
About 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 128


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


def main() -> None:
    from perf.embed import stage

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--count", type=int, default=1920)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            row = {
                "pipeline": transformers_pipeline(options.weights, options.count // 8),
                "DataLoader + timm": dataloader_and_timm(options.count // 8, Path(folder)),
                "stage": stage(f"hf:{options.weights}", options.count, False),
                "stage, compiled": stage(f"hf:{options.weights}", options.count, True),
            }
        rows.append(row)
        print(number, {key: round(value, 1) for key, value in row.items()}, flush=True)
    for ours in ("stage", "stage, compiled"):
        for other in ("pipeline", "DataLoader + timm"):
            ratios = [row[ours] / row[other] for row in rows]
            print(
                f"{ours} / {other}: median {statistics.median(ratios):.1f} "
                f"(min {min(ratios):.1f}, max {max(ratios):.1f})"
            )


if __name__ == "__main__":
    main()
