"""Download a data set into its root, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmark.errors import BenchmarkError, UsageError, one_line

UNFINISHED = ".unfinished-download"
"""Folder in the root that is filled first; a root with a part of a data set may seem whole."""


def download_whole(root: Path, fetch: Callable[[Path], None], *, where: str) -> None:
    """Let ``fetch`` fill a folder inside the root, and move its content into the root at the end.

    Args:
        root: made if it does not exist.
        fetch: downloads into the folder that it is given, which is empty: what an interrupted
            download left may be cut, or of another version.
        where: start of each message.

    Raises:
        UsageError: the root is no folder, or ``fetch`` says what the user must do.
        BenchmarkError: ``fetch`` failed otherwise.
    """
    if root.exists() and not root.is_dir():
        raise UsageError(f"--root {root}: is a file; name a folder")
    unfinished = root / UNFINISHED
    try:
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        fetch(unfinished)
        for item in unfinished.iterdir():
            item.replace(root / item.name)
        unfinished.rmdir()
    except BenchmarkError:
        raise
    except Exception as error:  # the libraries that download raise what they like
        raise BenchmarkError(
            f"{where}: the download into {root} failed: {one_line(error)}; try again"
        ) from None
