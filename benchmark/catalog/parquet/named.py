"""The entry of a data set of the Hugging Face hub: ``hf-datasets:ORG/NAME``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.huggingface.files import HUB_ID
from benchmark.config import DatasetConfig
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.specs import Dataset, Source

if TYPE_CHECKING:
    from benchmark.progress import Progress

PREFIX = "hf-datasets:"


def resolve_parquet(name: str, *, where: str = "") -> Dataset:
    """Return the entry of ``hf-datasets:ORG/NAME[@REVISION]``; asks no hub.

    Raises:
        UsageError: the name has another form.
    """
    if HUB_ID.fullmatch(name.removeprefix(PREFIX)) is None:
        what = f"{where}: dataset {shown(name, 100)}".lstrip(": ")
        raise UsageError(f"{what}: is no data set of the hub; write {PREFIX}ORG/NAME[@REVISION]")
    return Dataset(
        name=name,
        description="labelled images in Parquet files, with their own splits",
        open=partial(open_named, name),
        settings=frozenset({"bands", "value_range"}),
        digested=frozenset({"val_fraction", "test_fraction"}),
        prepare=partial(prepare_named, name),
        license="as its card says",
    )


def open_named(name: str, config: DatasetConfig) -> Source:
    """Open the Parquet files in the root.

    Raises:
        UsageError: as ``source.open_parquet``.
    """
    from benchmark.catalog.parquet.source import open_parquet

    return open_parquet(name, _how_to_prepare(name, Path(config.root)), config)


def prepare_named(name: str, root: Path, *, progress: Progress | None = None) -> Path:
    """Fetch the Parquet files from the hub unless the root holds some; returns the root.

    Raises:
        UsageError: the hub has no such data set or cannot be reached, or needs a login.
        BenchmarkError: the download failed.
    """
    from benchmark.catalog.parquet.downloading import download

    given, _, revision = name.removeprefix(PREFIX).partition("@")
    return download(given, revision or None, root, progress, where=f"prepare: '{name}'")


def _how_to_prepare(name: str, root: Path) -> str:
    return f"run `benchmark prepare {name} --root {root}`, or copy its Parquet files there"
