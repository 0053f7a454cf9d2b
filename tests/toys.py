"""Toy catalog entries: real objects that fail, or are quick, on purpose."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.specs import Backbone, Head, Processor
from benchmark.store.artefacts import Artefact
from benchmark.tables import CANDIDATES, check_table, images_column, patches_schema
from benchmark.training.feeds import Samples


class _Pooled(torch.nn.Module):
    """A small convolution, averaged over positions: (B, C, H, W) to (B, 16)."""

    def __init__(self, num_bands: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(num_bands, 16, 5, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).mean(dim=(2, 3))


class _NotFinite(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 0.0


class _Constant(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), 16)


class _Killer(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os._exit(1)


def build_not_finite(num_bands: int) -> torch.nn.Module:
    return _NotFinite(num_bands)


def build_constant(num_bands: int) -> torch.nn.Module:
    return _Constant(num_bands)


def build_killer(num_bands: int) -> torch.nn.Module:
    return _Killer(num_bands)


def toy(name: str, build: Any = _Pooled) -> Backbone:
    return replace(BACKBONES.get("random"), name=name, build=build, dim=16, image_size=None)


def _note_process(folder: Path, what: str) -> None:
    (folder / f"{what}-{os.getpid()}").touch()


def _prepare_noted(folder: Path, pixels: Any) -> Any:
    _note_process(folder, "prepared")
    return (pixels[:, :, ::2, 1::2] / 255 - 0.5).astype(np.float32)


def _build_noted(folder: Path, num_bands: int) -> torch.nn.Module:
    _note_process(folder, "built")
    return _Pooled(num_bands)


def processed(name: str, folder: Path) -> Backbone:
    """Return a backbone with an image processor; the folder names the processes that used both."""
    processor = Processor("Halver", "{}", partial(_prepare_noted, folder), 2.0)
    entry = toy(name, partial(_build_noted, folder))
    return replace(entry, bands=("blue", "nir", "red"), processor=processor)


def processes_of(folder: Path, what: str) -> set[int]:
    """Return the processes that have ``built`` or ``prepared``."""
    return {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{what}-*")}


def build_failing_head(params: Any, seed: int) -> Any:
    raise ValueError("this head never fits")


def failing_head() -> Head:
    return replace(HEADS.get("knn"), name="failing", build=build_failing_head)


class _NanGradients(_Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (float("nan") if self.training else 1.0)


class _Forgetful(_Pooled):
    """Runs out of memory with more than four patches at once, while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


class _Suicidal(_Pooled):
    """Kills its process once, after some passes, unless the file of the flag exists."""

    def __init__(self, num_bands: int, flag: str, after: int) -> None:
        super().__init__(num_bands)
        self.after = after
        self.calls = 0
        self.flag = Path(flag)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls > self.after and not self.flag.exists():
            self.flag.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def build_nan_gradients(num_bands: int) -> torch.nn.Module:
    return _NanGradients(num_bands)


def build_forgetful(num_bands: int) -> torch.nn.Module:
    return _Forgetful(num_bands)


def build_suicidal(flag: str, after: int, num_bands: int) -> torch.nn.Module:
    return _Suicidal(num_bands, flag, after)


class _Mortal(_Pooled):
    """Kills its process once, after some passes, unless the file of the flag exists."""

    def __init__(self, num_bands: int, flag: str, after: int) -> None:
        super().__init__(num_bands)
        self.flag, self.left = Path(flag), after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0 and not self.flag.exists():
            self.flag.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def build_mortal(flag: str, num_bands: int, after: int = 0) -> torch.nn.Module:
    return _Mortal(num_bands, flag, after)


class _Exact(_Pooled):
    """Counts in the precision of its weights, which a test may raise to float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.conv.weight.dtype))


class _Dropping(_Exact):
    """Draws random numbers in every step."""

    def __init__(self, num_bands: int) -> None:
        super().__init__(num_bands)
        self.dropout = torch.nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(super().forward(x))


class _Pooler(_Exact):
    """Brings a layer that its embedding does not use, as base models of transformers do."""

    def __init__(self, num_bands: int) -> None:
        super().__init__(num_bands)
        self.pooler = torch.nn.Linear(16, 16)


class _Normalised(_Pooled):
    """A convolution with batch normalisation, whose statistics are not those of any batch."""

    def __init__(self, num_bands: int) -> None:
        super().__init__(num_bands)
        self.norm = torch.nn.BatchNorm2d(16)
        self.norm.running_mean.fill_(0.3)
        self.norm.running_var.fill_(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3))


class _Block(torch.nn.Module):
    """Two linear layers beside a shortcut: (B, 16) to (B, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(16, 32)
        self.second = torch.nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


class _Blocks(torch.nn.Module):
    """A stem, three blocks, something composite without weights, and a norm: (B, 16)."""

    def __init__(self, num_bands: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = _Exact(num_bands)
            blocks = [_Block() for _ in range(3)]
        idle = torch.nn.Sequential(torch.nn.Identity())
        self.blocks = torch.nn.ModuleList([*blocks, idle])
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _Starved(_Pooled):
    """Fails in some way in every step, or from its second pass on with more than four patches."""

    def __init__(self, error: Exception, is_late: bool, num_bands: int) -> None:
        super().__init__(num_bands)
        self.error = error
        self.is_late = is_late
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.training and (not self.is_late or (self.calls > 1 and len(x) > 4)):
            raise self.error
        return super().forward(x)


def build_exact(num_bands: int) -> torch.nn.Module:
    return _Exact(num_bands)


def build_dropping(num_bands: int) -> torch.nn.Module:
    return _Dropping(num_bands)


def build_pooler(num_bands: int) -> torch.nn.Module:
    return _Pooler(num_bands)


def build_normalised(num_bands: int) -> torch.nn.Module:
    return _Normalised(num_bands)


def build_blocks(num_bands: int) -> torch.nn.Module:
    return _Blocks(num_bands)


def build_starved(error: Exception, is_late: bool, num_bands: int) -> torch.nn.Module:
    return _Starved(error, is_late, num_bands)


COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60))
"""Mean red, green and blue of the classes of ``draw_samples``."""


def draw_samples(
    count: int, *, num_classes: int = 3, side: int = 16, seed: int = 0, prefix: str = "p"
) -> Samples:
    """Patches of three bands whose class is their colour; labels go round."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % num_classes
    colours = np.array(COLOURS)[labels][:, :, None, None]
    pixels = np.clip(colours + rng.normal(0, 25, (count, 3, side, side)), 0, 255)
    ids = np.array([f"{prefix}{number:04d}" for number in range(count)], np.str_)
    return Samples(ids, torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


def write_patches(
    artefact: Artefact, splits: Mapping[str, Samples], *, num_parts: int = 3
) -> Artefact:
    """Write a table ``patches``; its rows are dealt to the parts like cards."""
    tables = []
    for split, samples in splits.items():
        count, c, h, _ = samples.pixels.shape
        columns = {
            "patch_id": samples.ids,
            "split": [split] * count,
            "label": samples.labels.numpy().astype(np.int32),
            "image": images_column(samples.pixels.numpy()),
        }
        other = {
            field.name: pa.nulls(count, field.type)
            for field in CANDIDATES
            if field.name not in columns
        }
        table = pa.table({**columns, **other})
        tables.append(check_table(table, patches_schema(c, h), what="toy patches"))
    table = pa.concat_tables(tables)
    for number in range(num_parts):
        rows = np.arange(number, table.num_rows, num_parts)
        artefact.write_table(f"part-{number:06d}.parquet", table.take(rows))
    return artefact


class _Slow(_Pooled):
    """Takes its time while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05 * self.training)
        return super().forward(x)


def build_slow(num_bands: int) -> torch.nn.Module:
    return _Slow(num_bands)


class _Gated(_Pooled):
    """Embeds nothing before a file is there, and waits for it for two minutes at most."""

    def __init__(self, num_bands: int, folder: str, pattern: str) -> None:
        super().__init__(num_bands)
        self.folder, self.pattern, self.left_s = folder, pattern, 120.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while self.left_s > 0 and not list(Path(self.folder).glob(self.pattern)):
            time.sleep(0.1)
            self.left_s -= 0.1
        return super().forward(x)


def build_gated(folder: str, pattern: str, num_bands: int) -> torch.nn.Module:
    return _Gated(num_bands, folder, pattern)


class _Dawdling(_Pooled):
    """Takes 40 ms for each patch, at any time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.04 * len(x))
        return super().forward(x)


def build_dawdling(num_bands: int) -> torch.nn.Module:
    return _Dawdling(num_bands)


class _Sided(_Pooled):
    """Features whose weights grow from the upper left to the lower right: flips change them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        _, _, height, width = x.shape
        rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 3, width)
        return (x * (rows[:, None] + columns).to(x.device)).mean(dim=(2, 3))


def build_sided(num_bands: int) -> torch.nn.Module:
    return _Sided(num_bands)
