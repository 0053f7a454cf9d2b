"""Find the scenes that a command names, and where their maps go."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.catalog.folder.decoding import TIFF_SUFFIXES
from benchmark.catalog.folder.rows import open_table
from benchmark.errors import UsageError
from benchmark.fields import check_file_path, shown
from benchmark.mapping.rasters import MapPaths

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
COLUMN = "path"
"""Column of an index that holds the scenes."""


class Work(NamedTuple):
    """One scene, and its map or another output."""

    scene: str
    map: str


class Outputs(NamedTuple):
    """What a command writes for a scene."""

    command: str
    """Its name in messages."""
    what: str
    """One output."""
    suffix: str
    files: Callable[[Path], Sequence[Path]]
    """All files of an output, from the path of the first."""
    single: bool
    """Whether one scene gives one file, not a folder."""
    replaces: str = ""
    """The option that replaces what exists; empty: there is none."""


MAPS = Outputs("predict", "map", ".tif", MapPaths.of, True, "--overwrite")


def find_work(
    given: Sequence[str], out: str, *, overwrite: bool, outputs: Outputs = MAPS
) -> list[Work]:
    """Return the scenes to map, each with the path of its map.

    One raster gives the map ``out``. Several, a folder, a glob or an index give maps in the folder
    ``out``, named like the scenes and in the same sub-folders.

    Args:
        given: paths of rasters, folders of TIFFs, globs, or tables (CSV, Parquet) with a column
            ``path``, relative to the table.
        out: a TIFF, or a folder.
        overwrite: whether to replace maps.
        outputs: what the command writes in place of maps.

    Raises:
        UsageError: there are no scenes, or a map exists, is wanted twice, or is a scene.
    """
    for text in (*given, out):
        _check_path(text, outputs.command)
    target = Path(out)
    single = len(given) == 1 and _is_raster(given[0])
    scenes = [Path(given[0])] if single else _scenes(given, target, outputs.command)
    if single and outputs.single:
        work = [Work(str(scenes[0]), str(_map_file(target)))]
    else:
        folder = Path(given[0]) if len(given) == 1 and Path(given[0]).is_dir() else None
        named = _named(scenes, folder, outputs.suffix)
        work = [Work(str(path), str(target / name)) for path, name in named]
        is_named_file = target.suffix.lower() in {*TIFF_SUFFIXES, outputs.suffix}
        if is_named_file or (target.exists() and not target.is_dir()):
            scenes_are = "is 1 scene" if len(work) == 1 else f"are {len(work)} scenes"
            raise UsageError(
                f"--out {out}: there {scenes_are}, whose {outputs.what}s go into a folder; name one"
            )
    _check_outputs(work, outputs, overwrite=overwrite)
    return work


def _check_path(text: str, command: str) -> None:
    try:
        check_file_path(text)
    except ValueError as error:
        raise UsageError(f"{command}: {shown(text)} {error}") from None
    if "://" in text:
        raise UsageError(
            f"{command}: {shown(text)} is no local path; copy the scenes to a local disk first"
        )


def _is_raster(text: str) -> bool:
    path = Path(text)
    return path.suffix.lower() not in TABLE_SUFFIXES and (
        path.is_file() or not (path.is_dir() or glob.has_magic(text))
    )


def _scenes(given: Sequence[str], out: Path, command: str) -> list[Path]:
    """Return all scenes, in the order in which they were named, each once."""
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            maps = _absolute(out)
            has_maps = maps != _absolute(path)
            scenes = [
                item
                for item in sorted(path.rglob("*"))
                if item.suffix.lower() in TIFF_SUFFIXES
                and not (has_maps and maps in _absolute(item).parents)
            ]
            advice = "holds no TIFF; give another folder, or name the scenes"
        elif path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            scenes = _listed(path, command)
            advice = f"lists no scenes; write one row per scene, with a column {COLUMN}"
        elif path.is_file() or not glob.has_magic(text):
            scenes, advice = [path], ""
        else:
            scenes = [Path(item) for item in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
            advice = "no file matches; check the pattern, and quote it"
        if not scenes:
            raise UsageError(f"{command}: {text}: {advice}")
        found |= dict.fromkeys(scenes)
    return list(found)


def _listed(table: Path, command: str) -> list[Path]:
    where = f"{command}: {table}"
    scenes = []
    for place, _, cells in open_table(table, needed=(COLUMN,), optional=(), where=where).rows:
        if not cells[COLUMN]:
            raise UsageError(f"{place}: has no {COLUMN}; name a scene")
        _check_path(cells[COLUMN], command)
        scenes.append(table.parent / cells[COLUMN])
    return scenes


def _named(scenes: Sequence[Path], folder: Path | None, suffix: str) -> list[tuple[Path, Path]]:
    """Return each scene with its output's path below the folder of outputs.

    The path is that of the scene below ``folder``, or below the folder that all scenes share.
    """
    absolute = [_absolute(path) for path in scenes]
    if folder is not None:
        common = _absolute(folder)
    else:
        common = Path(os.path.commonpath([path.parent for path in absolute]))
    return [
        (scene, path.relative_to(common).with_suffix(suffix))
        for scene, path in zip(scenes, absolute, strict=True)
    ]


def _absolute(path: Path) -> Path:
    """Return an absolute path without ``..``; links are kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _map_file(out: Path) -> Path:
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; for one scene, name a file, e.g. map.tif")
    if out.suffix.lower() not in TIFF_SUFFIXES:
        raise UsageError(f"--out {out}: a map is a GeoTIFF; name a file that ends in .tif")
    return out


def _check_outputs(work: Sequence[Work], outputs: Outputs, *, overwrite: bool) -> None:
    what = outputs.what
    scenes = {Path(item.scene).resolve() for item in work}
    owners: dict[Path, str] = {}
    existing = []
    for item in work:
        for path in outputs.files(Path(item.map)):
            target = path.resolve()
            if target in scenes:
                raise UsageError(
                    f"--out: the {what} {path} would replace a scene; name another place"
                )
            if target in owners:
                raise UsageError(
                    f"--out: the {what}s of {owners[target]} and {item.scene} would both be "
                    f"{path}; rename one of the scenes"
                )
            owners[target] = item.scene
            if path.is_symlink() or path.exists():
                existing.append(path)
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        advice = f"add {outputs.replaces} to replace" if outputs.replaces else "name another folder"
        raise UsageError(f"--out: {existing[0]}{more} exist already; {advice}")
