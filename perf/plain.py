"""Frozen embeddings and a tuned head, as one writes them with timm and scikit-learn alone.

    python -m perf.plain FOLDER --weights FILE --trials 10

The folder has a sub-folder of images for each class. ``perf.peers`` times it, from start to end.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


def embed(folder: str, model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings float32 (N, D) and labels (N,)."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = ImageFolder(folder, transform)
    loader = DataLoader(images, batch_size=32, num_workers=len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.eval().to(device)
    with torch.inference_mode():
        found = [model(batch.to(device)).cpu().numpy() for batch, _ in loader]
    return np.concatenate(found), np.array(images.targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--trials", type=int, default=10)
    options = parser.parse_args()
    model = timm.create_model(options.model, num_classes=0, checkpoint_path=options.weights)
    x, y = embed(options.folder, model)
    x_rest, x_test, y_rest, y_test = train_test_split(
        x, y, test_size=0.2, stratify=y, random_state=0
    )
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=0.25, stratify=y_rest, random_state=0
    )

    def fit(c: float) -> tuple[float, object]:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        head.fit(x_train, y_train)
        return balanced_accuracy_score(y_val, head.predict(x_val)), head

    score, head = max(map(fit, np.logspace(-4, 4, options.trials)), key=lambda pair: pair[0])
    test = balanced_accuracy_score(y_test, head.predict(x_test))
    print(f"balanced accuracy {score:.3f} on val, {test:.3f} on test")


if __name__ == "__main__":
    main()
