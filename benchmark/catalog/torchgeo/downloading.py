"""Download a data set of torchgeo into its root, whole or not at all."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.downloads import download_whole
from benchmark.catalog.torchgeo.sets import PREFIX, Named
from benchmark.errors import BenchmarkError, UsageError
from benchmark.progress import LoggedProgress

if TYPE_CHECKING:
    from benchmark.progress import Progress


def download(named: Named, progress: Progress | None) -> Path:
    """Download and unpack a data set, with torchgeo's checksums, unless the root holds it.

    Raises:
        UsageError: torchgeo does not download it, or the root is no folder.
        BenchmarkError: the download or the unpacking failed.
    """
    root, where = Path(named.root), f"{PREFIX}{named.name}"
    if _is_there(named):
        return root
    if not named.is_downloaded:
        raise UsageError(f"{where}: {named.how_to_prepare()}, into {root}")
    (progress or LoggedProgress()).message(f"downloading {where} into {root}")

    def fetch(folder: Path) -> None:
        from torchgeo.datasets.errors import DependencyNotFoundError

        # torchgeo prints; stdout is for the command's result.
        try:
            with redirect_stdout(sys.stderr):
                for split in named.splits():
                    named._replace(root=str(folder)).build(split, download=True, checksum=True)
        except DependencyNotFoundError as error:
            raise named.lacks(error) from None

    download_whole(root, fetch, where=where)
    if not _is_there(named):
        raise BenchmarkError(
            f"{where}: torchgeo downloaded files into {root}, but does not find them"
        )
    return root


def _is_there(named: Named) -> bool:
    try:
        for split in named.splits():
            named.open(split)
    except UsageError:
        return False
    return True
