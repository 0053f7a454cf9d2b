"""Classify image patches with the program in this folder: `python predict.py patch.png ...`.

Needs Python 3.11, torch, numpy and Pillow, and runs on the CPU. `benchmark export` wrote it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

DESCRIPTION = "benchmark.json"
PROGRAM = "program.pt2"
BATCH = 16
"""Patches per run of the program."""


class Classifier:
    """The classifier of one folder."""

    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        """Load the program.

        Args:
            folder: of the program; by default that of this file.
        """
        root = Path(folder)
        described: dict[str, Any] = json.loads((root / DESCRIPTION).read_text())
        self.classes: list[str] = described["classes"]
        self.bands: list[str] = described["bands"]
        self.patch_size: int = described["patch_size"]
        self._input: dict[str, Any] = described["input"]
        self._batch = BATCH if described["takes_batches"] else 1
        self._program = torch.export.load(root / PROGRAM).module()

    def __call__(self, image: str | Path | Image.Image) -> list[dict[str, Any]]:
        """Classify one image.

        Args:
            image: a file or a picture of Pillow; or a file `.npy`, uint8 (bands, height, width).
                It is turned upright as its orientation (EXIF) says, and transparent pixels become
                black, as in the training. The centre of one that is larger or smaller than a
                patch is cropped to a square and resized to a patch.

        Returns: `{"label": ..., "score": ...}` of each class, the most probable first.
        """
        scores = self.probabilities(self.read(image)[None])[0].tolist()
        found = [{"label": c, "score": s} for c, s in zip(self.classes, scores, strict=True)]
        return sorted(found, key=lambda item: -item["score"])

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, (N, classes), of uint8 (N, bands, height, width).

        Raises:
            ValueError: the pixels have another dtype or shape.
        """
        bands, size = len(self.bands), self._input["image_size"]
        side = "" if size else f" of {self.patch_size} x {self.patch_size} px"
        is_sized = size or pixels.shape[2:] == (self.patch_size, self.patch_size)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != bands or not is_sized:
            raise ValueError(
                f"given {pixels.dtype} {pixels.shape}; give uint8 (N, {bands}, H, W){side}, the "
                f"bands {', '.join(self.bands)}"
            )
        parts = [np.empty((0, len(self.classes)), np.float32)]
        with torch.inference_mode():
            for i in range(0, len(pixels), self._batch):
                x = prepare(torch.from_numpy(np.array(pixels[i : i + self._batch])), self._input)
                parts.append(self._program(x).numpy())
        return np.concatenate(parts)

    def read(self, image: str | Path | Image.Image) -> NDArray[np.uint8]:
        """Return an image as one patch, uint8 (bands, patch_size, patch_size).

        Raises:
            ValueError: it has other bands, or is not uint8.
        """
        bands, size = len(self.bands), self.patch_size
        if isinstance(image, (str, Path)) and str(image).endswith(".npy"):
            pixels = np.load(image)
        else:
            picture = image if isinstance(image, Image.Image) else Image.open(image)
            if picture.mode[0] in "IF":
                raise ValueError(f"{image}: its pixels are not 8-bit; scale them to 0...255 first")
            picture = ImageOps.exif_transpose(picture)
            if bands in (1, 3):
                picture = without_transparent(picture).convert("L" if bands == 1 else "RGB")
            pixels = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
        if pixels.ndim != 3 or pixels.dtype != np.uint8 or len(pixels) != bands:
            raise ValueError(
                f"{image}: holds {pixels.dtype} {pixels.shape}; give uint8 ({bands}, H, W), the "
                f"bands {', '.join(self.bands)}"
            )
        _, height, width = pixels.shape
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        bilinear = Image.Resampling.BILINEAR
        return np.stack(
            [np.asarray(Image.fromarray(b).resize((size, size), bilinear, box)) for b in pixels]
        )


def without_transparent(picture: Image.Image) -> Image.Image:
    """Return a picture whose transparent pixels are black, if its alpha is a mask.

    Alpha of more than two values may be data, so it hides nothing, as in the training.
    """
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    rgba = np.array(picture.convert("RGBA"))
    alpha = rgba[..., 3]
    if np.isin(alpha, (0, alpha.max())).all():
        rgba[alpha == 0] = 0
    return Image.fromarray(rgba[..., :3])


def prepare(pixels: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    """Resize, crop the centre and normalise: uint8 (B, C, H, W) to float32 (B, C, S, S)."""
    x = pixels
    if given.get("flips_bands"):
        x = torch.cat([x[:, :3].flip(1), x[:, 3:]], dim=1)
    size, resize_to = given["image_size"], given["resize_to"] or given["image_size"]
    if resize_to and tuple(x.shape[-2:]) != (resize_to, resize_to):
        mode, is_rounded = given["interpolation"], given["is_rounded"]
        x = torch.nn.functional.interpolate(
            x if is_rounded else x.to(torch.float32),
            size=(resize_to, resize_to),
            mode=mode,
            align_corners=False,
            antialias=is_rounded or mode == "bicubic" or max(x.shape[-2:]) > resize_to,
        )
    x = x.to(torch.float32)
    if size and size != resize_to:
        margin = (resize_to - size) / 2
        first = round(margin) if given["rounds_margin"] else int(margin)
        x = x[..., first : first + size, first : first + size]
    mean, std = (
        torch.tensor(given[key]).expand(x.shape[1]).reshape(1, -1, 1, 1) for key in ("mean", "std")
    )
    return torch.addcmul(-mean / std, x, 1.0 / (255.0 * std))


def main(paths: Sequence[str]) -> None:
    """Write one line per image: the file, its class and the probability."""
    classify = Classifier()
    for path in paths:
        best = classify(path)[0]
        sys.stdout.write(f"{path}\t{best['label']}\t{best['score']:.4f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
