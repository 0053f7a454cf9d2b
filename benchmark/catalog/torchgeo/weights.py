"""Pretrained weights of torchgeo: their file, bands and preprocessing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.catalog.huggingface.files import is_reachable
from benchmark.errors import UsageError, one_line

RGB = ("red", "green", "blue")

_COLOURS: Mapping[str, Mapping[str, str]] = {
    "SENTINEL2": {"B2": "blue", "B3": "green", "B4": "red", "B8": "nir"},
    "LANDSAT_TM": {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir"},
    "LANDSAT_ETM": {"B1": "blue", "B2": "green", "B3": "red", "B4": "nir"},
    "LANDSAT": {"B2": "blue", "B3": "green", "B4": "red", "B5": "nir"},
    "": {"R": "red", "G": "green", "B": "blue", "NIR": "nir", "N": "nir"},
}
"""Colours of band numbers, by the sensor that starts the name of the weights."""

_RADAR = {"VV", "VH", "HH", "HV"}


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """File of an entry of torchgeo's weights. It pickles; each node has its own cache."""

    what: str
    """Prefix of error messages."""
    name: str
    """The entry, e.g. ``ResNet18_Weights.SENTINEL2_RGB_MOCO``."""
    url: str

    @property
    def path(self) -> Path:
        """Its path in torch's cache on this node."""
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]

    @property
    def fetch_line(self) -> str:
        """The command that fetches it."""
        code = f"from torchgeo.models import get_weight; get_weight('{self.name}').get_state_dict()"
        return f"python -c {shlex.quote(code)}" if '"' in code else f'python -c "{code}"'

    def check(self) -> None:
        """Raise UsageError if the file is not on this node and its server cannot be reached."""
        if not self.path.is_file() and not is_reachable(self.url):
            raise UsageError(
                f"{self.what}: {self.path.name} is not in {self.path.parent} and its server cannot "
                f"be reached; with network access, run `{self.fetch_line}`"
            )

    def fetched(self) -> Path:
        """Return the file, fetched if absent.

        Raises:
            UsageError: it cannot be fetched.
        """
        import torch.hub

        path = self.path
        if path.is_file():
            return path
        self.check()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Most file names end with the first digits of the digest.
        digest = re.search(r"-([a-f0-9]+)\.", path.name)
        try:
            torch.hub.download_url_to_file(
                self.url, str(path), digest[1] if digest else None, progress=False
            )
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{self.what}: {path.name} cannot be fetched ({one_line(error, limit=120)}); try "
                f"`{self.fetch_line}`"
            ) from None
        return path

    def files(self) -> list[Path]:
        """Return the file in a list, fetched if it is not there yet."""
        return [self.fetched()]

    def load(self) -> dict[str, Any]:
        """Return the tensors; unpickles nothing but tensors.

        Raises:
            UsageError: the file is invalid or holds other objects.
        """
        import pickle

        import torch

        path = self.fetched()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
            raise UsageError(
                f"{self.what}: {path} is invalid or holds more than tensors "
                f"({one_line(error, limit=80)}); delete it and run `{self.fetch_line}`"
            ) from None
        if not isinstance(state, dict):
            raise UsageError(f"{self.what}: {path} is not a state dict; delete it")
        return state


class Local(NamedTuple):
    """Stand-in for an entry of torchgeo's weights: model builders get tensors already read."""

    meta: Mapping[str, Any]
    state: Mapping[str, Any]

    def get_state_dict(self, **_: Any) -> dict[str, Any]:
        """Return the tensors."""
        return dict(self.state)


class Feeding(NamedTuple):
    """The fields of ``specs.Backbone`` that describe its input."""

    bands: tuple[str, ...]
    image_size: int | None
    resize_to: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: str
    """The value that 255 stands for, in words; empty: 255 or less."""


def read_feeding(
    name: str, meta: Mapping[str, Any], transforms: Any, *, what: str, default_size: int | None
) -> Feeding:
    """Translate the transforms and bands of an entry of torchgeo's weights.

    Patches are bytes. For weights trained on another range, 255 stands for the value that training
    scaled to 1, e.g. 10,000 for the reflectance of Sentinel-2.

    Args:
        name: of the entry, without its class, e.g. ``SENTINEL2_RGB_MOCO``.
        meta: of the entry.
        transforms: of the entry, a ``torch.nn.Sequential``.
        what: prefix of error messages.
        default_size: side of the input in px, if the transforms have none.

    Raises:
        UsageError: a transform or band is not supported.
    """
    bands = _band_names(name, meta, what)
    size, resize_to = None, None
    mean, std = [0.0] * len(bands), [1.0] * len(bands)
    steps = list(transforms.children())
    for step in steps or ([] if type(transforms).__name__ == "Identity" else [transforms]):
        kind = type(step).__name__
        if kind == "Resize":
            resize_to = _square(step.size, what)
        elif kind == "CenterCrop":
            size = _square(step.size, what)
        elif kind == "Normalize":
            shift, scale = _spread(step.mean, len(bands)), _spread(step.std, len(bands))
            # ((x - mean) / std - shift) / scale as one normalisation.
            mean = [a + b * c for a, b, c in zip(mean, std, shift, strict=True)]
            std = [a * b for a, b in zip(std, scale, strict=True)]
        else:
            raise UsageError(f"{what}: its transform {kind} is not supported")
    size = size or resize_to or meta.get("img_size") or default_size
    full = _full_scale(name, mean, std)
    largest = max(full)
    return Feeding(
        bands,
        size,
        None if resize_to == size else resize_to,
        tuple(a / f for a, f in zip(mean, full, strict=True)),
        tuple(a / f for a, f in zip(std, full, strict=True)),
        "" if largest <= 255 else f"255 stands for {largest:,.0f}",
    )


def _full_scale(name: str, mean: list[float], std: list[float]) -> list[float]:
    """Return the value that 255 stands for, by band."""
    if all(value == 0 for value in mean):
        return [255.0 if value == 1 else value for value in std]
    if max(mean) + max(std) <= 1:
        # For pixels in 0...1.
        return [1.0] * len(std)
    if max(std) <= 255:
        return [255.0] * len(std)
    if name.startswith("SENTINEL2"):
        # Products are reflectance x 10,000.
        return [10_000.0] * len(std)
    return [a + b for a, b in zip(mean, std, strict=True)]


def _band_names(name: str, meta: Mapping[str, Any], what: str) -> tuple[str, ...]:
    bands = meta.get("bands")
    if bands is None:
        if meta.get("in_chans", 3) != 3:
            raise UsageError(f"{what}: torchgeo does not name its {meta['in_chans']} bands")
        return RGB
    if _RADAR & set(bands):
        raise UsageError(
            f"{what}: takes radar backscatter in decibels ({', '.join(bands)}), which 8-bit "
            "patches cannot hold; choose weights of an optical sensor"
        )
    colours = next(value for key, value in _COLOURS.items() if name.startswith(key))
    plain = [item.removeprefix("SR_").replace("B0", "B") for item in bands]
    return tuple(colours.get(item, _COLOURS[""].get(item, item)) for item in plain)


def _square(size: Any, what: str) -> int:
    sides = set(size) if isinstance(size, Sequence) else {size}
    if len(sides) != 1:
        raise UsageError(f"{what}: its images of {tuple(size)} px are not square; choose others")
    return int(sides.pop())


def _spread(values: Any, count: int) -> list[float]:
    listed = [float(value) for value in values]
    return listed * count if len(listed) == 1 else listed
