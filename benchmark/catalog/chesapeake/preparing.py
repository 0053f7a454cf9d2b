"""Prepare the Chesapeake data: the whole archive, or copies of some of its scenes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmark.catalog.chesapeake.index import (
    INDEX,
    REGIONS,
    SYNTHETIC_MARKER,
    Entry,
    read_entries,
    read_features,
)
from benchmark.catalog.roots.address import check_root
from benchmark.catalog.roots.local import LocalRoot
from benchmark.catalog.roots.root import Root, open_root
from benchmark.errors import BenchmarkError, UsageError, did_you_mean, one_line, tidy
from benchmark.progress import LoggedProgress, Progress
from benchmark.store.retries import explain

PUBLISHED = (
    "https://s3.us-west-2.amazonaws.com/us-west-2.opendata.source.coop/agentmorris/lila-wildlife/"
    "lcmcvpr2019/cvpr_chesapeake_landcover"
)
"""Where the publisher keeps the unpacked files."""
NUM_AT_ONCE = 4
"""Scenes that are copied at once."""


def prepare_chesapeake(
    root: str | Path,
    *,
    regions: Sequence[str] | None = None,
    scenes: int | None = None,
    source: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download the Chesapeake data; return the folder.

    Without options the whole archive (about 140 GB unpacked) comes through torchgeo. With one,
    images and labels of the chosen scenes are copied, and scenes that the folder's index lists
    already stay there. What an interrupted call has copied is not copied again.

    Args:
        root: the folder.
        regions: states, as ``de`` or ``delaware``; None: all.
        scenes: most scenes per state; a larger number takes the same ones and more. None: all.
        source: folder or URI of unpacked data; None: the publisher's.
        progress: shows the number of scenes copied.

    Raises:
        UsageError: an option is wrong, or the folder holds synthetic scenes.
        BenchmarkError: the download, the unpacking or a copy failed.
    """
    root = Path(root)
    _check_folder(root)
    progress = progress or LoggedProgress()
    if regions is None and scenes is None and source is None:
        _download(root, progress)
        return root
    if scenes is not None and scenes < 1:
        raise UsageError(f"prepare chesapeake: scenes = {scenes}: give a number from 1")
    wanted = _names_of(regions)
    check_root(source or PUBLISHED, where="prepare chesapeake: source", reads_remote=True)
    origin = open_root(source or PUBLISHED)
    origin.check_answer()
    if origin.has(SYNTHETIC_MARKER):
        raise UsageError(
            f"prepare chesapeake: source '{origin.address}' holds synthetic scenes; run "
            "`benchmark prepare synthetic` instead"
        )
    features = read_features(origin)
    chosen = _choose(list(read_entries(origin, features)), wanted, scenes)
    try:
        _copy(origin, root, {entry: features[number] for number, entry in chosen.items()}, progress)
    except OSError as error:
        raise BenchmarkError(
            f"chesapeake: copying from {origin.address} to {root} failed: {explain(error)}; what "
            "was copied is kept: run again"
        ) from None
    return root


def _check_folder(root: Path) -> None:
    try:
        is_file = root.exists() and not root.is_dir()
        is_synthetic = (root / SYNTHETIC_MARKER).exists()
    except (OSError, ValueError) as error:
        raise UsageError(f"--root {tidy(root, 200)}: {one_line(error, limit=200)}") from None
    if is_file:
        raise UsageError(f"--root {root}: is a file; name a folder")
    if is_synthetic:
        raise UsageError(f"--root {root}: holds synthetic scenes; name another folder")


def _names_of(regions: Sequence[str] | None) -> set[str]:
    """Return the full names of regions; raises UsageError if one is unknown."""
    if regions is None:
        return set(REGIONS.values())
    found = set()
    for region in regions:
        name = REGIONS.get(region, region)
        if name not in REGIONS.values():
            hint = did_you_mean(region, [*REGIONS, *REGIONS.values()])
            raise UsageError(f"prepare chesapeake: regions: unknown region '{region}'.{hint}")
        found.add(name)
    return found


def _choose(entries: Sequence[Entry], regions: set[str], most: int | None) -> dict[int, Entry]:
    """Return the chosen entries by their place in the index: the lowest digests of each region."""

    def draw(number: int) -> str:
        return hashlib.blake2b(entries[number].mask.encode()).hexdigest()

    found: dict[int, Entry] = {}
    for region in sorted(regions):
        numbers = [number for number, entry in enumerate(entries) if entry.region == region]
        if not numbers:
            raise UsageError(f"prepare chesapeake: the source has no scenes of {region}")
        for number in sorted(numbers, key=draw)[:most]:
            found[number] = entries[number]
    return found


def _copy(origin: Root, root: Path, chosen: dict[Entry, Any], progress: Progress) -> None:
    """Copy the files of entries, then add their features to the folder's index."""
    target = LocalRoot(str(root))
    listed = read_features(target) if target.has(INDEX) else []
    known = {entry.mask for entry in read_entries(target, listed)}
    for path in (path for entry in chosen for path in entry.paths):
        if target.leads_out(path):
            raise UsageError(f"--root {root}: '{path}' leads out of it through a link; remove it")
    stage = progress.stage("prepare", num_cells=1, num_items=len(chosen), unit="scenes")
    stage.start("chesapeake")
    num_bytes = 0
    try:
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            waiting = [pool.submit(_copy_files, origin, root, entry) for entry in chosen]
            try:
                for item in waiting:
                    num_bytes += item.result()
                    stage.advance(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        new = [feature for entry, feature in chosen.items() if entry.mask not in known]
        content = {"type": "FeatureCollection", "features": [*listed, *new]}
        _replace(root / INDEX, json.dumps(content).encode())
        stage.done("chesapeake")
    except BaseException as error:
        stage.failed("chesapeake", one_line(error))
        raise
    finally:
        stage.close()
    size = f"{num_bytes / 2**20:,.1f} MiB"
    progress.message(f"{len(chosen)} scenes of {origin.address} are in {root}; copied {size}")


def _copy_files(origin: Root, root: Path, entry: Entry) -> int:
    """Copy the files of a scene that the folder lacks and return their bytes."""
    num_bytes = 0
    for path in entry.paths:
        place = root / path
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.partial")
        try:
            num_bytes += origin.copy(path, partial)
        except FileNotFoundError:
            raise BenchmarkError(
                f"chesapeake: {origin.where(path)} is missing, though the index lists it; choose "
                "another source, or other regions"
            ) from None
        partial.replace(place)
    return num_bytes


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _download(root: Path, progress: Progress) -> None:
    """Download and unpack the whole archive through torchgeo."""
    import zipfile

    from torchgeo.datasets import ChesapeakeCVPR, DatasetNotFoundError

    progress.message(f"downloading and unpacking into {root}: this takes hours")
    try:
        root.mkdir(parents=True, exist_ok=True)
        _check_archives(root, ChesapeakeCVPR)
        ChesapeakeCVPR(root=str(root), download=True)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, DatasetNotFoundError) as error:
        raise BenchmarkError(
            f"chesapeake: the download into {root} failed: {one_line(error)}. Try again, or unpack "
            "the archive from https://lila.science/datasets/chesapeakelandcover there"
        ) from error


def _check_archives(root: Path, data: Any) -> None:
    """Refuse an existing archive with another checksum; torchgeo would unpack it."""
    for kind, name in data.filenames.items():
        path = root / name
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "md5").hexdigest()
            if digest != data.md5s[kind]:
                raise BenchmarkError(
                    f"{path} is not the published archive; delete it and try again"
                )
