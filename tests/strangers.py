"""A package of a stranger, with a network, a head, a metric and a reader of its own."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmark.catalog.own import loading, lookup

FILES = {
    "stranger/__init__.py": "",
    "stranger/layers.py": """
        import torch


        class Pool(torch.nn.Module):
            def forward(self, x):
                return x.mean(dim=(2, 3))
        """,
    "stranger/nets.py": """
        import torch

        from stranger.layers import Pool

        IMAGE_SIZE = 32


        def build(num_bands, width=8):
            conv = torch.nn.Conv2d(num_bands, width, 3)
            return torch.nn.Sequential(conv, torch.nn.ReLU(), Pool())
        """,
    "stranger/heads.py": """
        from sklearn.ensemble import RandomForestClassifier


        class Forest(RandomForestClassifier):
            pass


        def suggest_Forest(trial):
            return {"max_depth": trial.suggest_int("max_depth", 1, 4)}
        """,
    "stranger/metrics.py": """
        import numpy as np


        def worst_recall(counts):
            total = counts.sum(axis=1)
            return (np.diag(counts)[total > 0] / total[total > 0]).min()
        """,
    "stranger/data.py": """
        from pathlib import Path

        import numpy as np

        import benchmark as bm


        def open_arrays(config, suffix=".npy"):
            paths = sorted(Path(config.root).glob(f"*/*{suffix}"))
            records = [{"path": p, "label": p.parent.name, "scene": p.stem[:1]} for p in paths]
            return bm.Records(records, read=lambda record: np.load(record["path"]))
        """,
}

EXPERIMENT = """
name = "own"
backbones = ["stranger.nets:build", "mean_color"]
heads = ["stranger.heads:Forest", "majority"]
store = "{store}"

[head."stranger.heads:Forest"]
settings = {{ n_estimators = 5 }}

[dataset]
name = "stranger.data:open_arrays"
root = "{root}"
patch_size = 32

[embed]
num_actors = 1

[tune]
num_trials = 2
max_concurrent = 1

[evaluate]
metrics = ["stranger.metrics:worst_recall"]
num_resamples = 50
"""


def write(folder: Path, files: dict[str, str]) -> None:
    """Write texts, without their common indentation, by their path below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))


def write_arrays(root: Path, *, num_scenes: int = 6) -> None:
    """Write arrays uint8 (3, 32, 32) of two classes that differ in colour."""
    generator = np.random.default_rng(0)
    for label, brightness in (("dark", 90), ("light", 110)):
        (root / label).mkdir(parents=True, exist_ok=True)
        for scene in "abcdefghijkl"[:num_scenes]:
            for number in range(4):
                pixels = generator.integers(0, 60, (3, 32, 32)) + brightness
                pixels = pixels + generator.integers(0, 60, (3, 1, 1))
                np.save(root / label / f"{scene}{number}.npy", pixels.astype(np.uint8))


@contextmanager
def forgotten() -> Iterator[None]:
    """Forget, at the end, what was imported and registered meanwhile."""
    path, modules = list(sys.path), set(sys.modules)
    tables = (loading._LOADED, loading._MODULES, lookup._REGISTERED)
    before = [dict(table) for table in tables]
    used = set(loading._USED)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = str(getattr(sys.modules[name], "__file__", None) or "")
            if "pytest" in file:
                # Of a folder of a test.
                del sys.modules[name]
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
        loading._USED.clear()
        loading._USED.update(used)
        lookup.plugins.cache_clear()
