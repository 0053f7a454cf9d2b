"""Fetch the Parquet files of a data set from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalog.downloads import UNFINISHED, download_whole
from benchmark.catalog.huggingface.files import is_reachable
from benchmark.catalog.parquet.shards import CARD
from benchmark.errors import UsageError
from benchmark.progress import LoggedProgress

if TYPE_CHECKING:
    from benchmark.progress import Progress

CONVERTED = "refs/convert/parquet"
"""Revision with the Parquet files that the hub makes of data sets in other formats."""


def download(
    repo: str, revision: str | None, root: Path, progress: Progress | None, *, where: str
) -> Path:
    """Fetch the card and all Parquet files into a root; one that holds some asks no hub.

    Raises:
        UsageError: the hub has no such data set or cannot be reached, it needs a login, or holds no
            Parquet files.
        BenchmarkError: the download failed.
    """
    present = (path.relative_to(root).parts for path in root.rglob("*.parquet"))
    if any(UNFINISHED not in parts for parts in present):
        return root
    _check_reachable(repo, root, where)
    (progress or LoggedProgress()).message(f"downloading {repo} into {root}")

    def fetch(folder: Path) -> None:
        from huggingface_hub import errors, snapshot_download

        try:
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                local_dir=folder,
                allow_patterns=["*.parquet", CARD],
            )
        except errors.RevisionNotFoundError:
            raise UsageError(
                f"{where}: the hub has no revision '{revision}'; check its name"
            ) from None
        except errors.GatedRepoError:
            raise UsageError(
                f"{where}: its terms must be accepted on https://huggingface.co/datasets/{repo}; "
                "then log in with `hf auth login`"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UsageError(
                f"{where}: the hub has no such data set, or you have no access; check the name or "
                "log in with `hf auth login`"
            ) from None
        if not any(folder.rglob("*.parquet")):
            raise UsageError(
                f"{where}: holds no Parquet files; try those that the hub makes of others: "
                f"hf-datasets:{repo}@{CONVERTED}"
            )

    download_whole(root, fetch, where=where)
    return root


def _check_reachable(repo: str, root: Path, where: str) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        raise UsageError(
            f"{where}: {root} holds no Parquet files and the hub cannot be reached; run this with "
            f"network access, or copy the Parquet files of {repo} there"
        )
