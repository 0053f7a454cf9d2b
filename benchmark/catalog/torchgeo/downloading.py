"""Download a data set of torchgeo into its root, whole or not at all."""

from __future__ import annotations

import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.torchgeo.sets import PREFIX, Named
from benchmark.errors import BenchmarkError, UsageError, one_line
from benchmark.progress import LoggedProgress

if TYPE_CHECKING:
    from benchmark.progress import Progress

UNFINISHED = ".unfinished-download"
"""Folder in the root; torchgeo would take a folder that was unpacked in part for a whole one."""


def download(named: Named, progress: Progress | None) -> Path:
    """Download and unpack a data set, with torchgeo's checksums, unless the root holds it.

    Archives of an interrupted download are used again.

    Raises:
        UsageError: torchgeo does not download it, or the root is no folder.
        BenchmarkError: the download or the unpacking failed.
    """
    root = Path(named.root)
    if root.exists() and not root.is_dir():
        raise UsageError(f"--root {root}: is a file; name a folder")
    if _is_there(named):
        return root
    if not named.is_downloaded:
        raise UsageError(f"{PREFIX}{named.name}: {named.how_to_prepare()}, into {root}")
    (progress or LoggedProgress()).message(f"downloading {PREFIX}{named.name} into {root}")
    unfinished = root / UNFINISHED
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        for item in unfinished.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
        # torchgeo prints; stdout is for the command's result.
        with redirect_stdout(sys.stderr):
            inside = named._replace(root=str(unfinished))
            for split in named.splits():
                inside.open(split, download=True, checksum=True)
        for item in unfinished.iterdir():
            item.replace(root / item.name)
        unfinished.rmdir()
    except (OSError, UsageError) as error:
        raise BenchmarkError(
            f"{PREFIX}{named.name}: the download into {root} failed: {one_line(error)}; try again"
        ) from None
    if not _is_there(named):
        raise BenchmarkError(
            f"{PREFIX}{named.name}: torchgeo downloaded files into {root}, but does not find them"
        )
    return root


def _is_there(named: Named) -> bool:
    try:
        for split in named.splits():
            named.open(split)
    except UsageError:
        return False
    return True
