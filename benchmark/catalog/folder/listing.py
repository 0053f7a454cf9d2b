"""List the images below a folder, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from benchmark.catalog.folder.decoding import SUFFIXES
from benchmark.catalog.folder.splits import SPLIT_TABLE
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.regular import follow_links

SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",
        "__macosx",
        "#recycle",
        "@recycle",
        "@recently-snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
"""Folders that Synology, QNAP, Windows, macOS and Linux write, in lower case: thumbnails, deleted
files. Those whose names begin with a dot are hidden anyway."""


class Listing(NamedTuple):
    """The images and folders below a root: relative POSIX paths, sorted."""

    images: list[str]
    folders: list[str]
    notes: list[str]


def list_images(root: Path, where: str, *, table: str) -> Listing:
    """List the images below the root; ``table`` is the relative path of the labels, if there.

    Raises:
        UsageError: the root cannot be listed, a name is not UTF-8, or there are linked folders
            only.
    """
    images: list[str] = []
    folders: list[str] = []
    ignored: list[str] = []
    linked: list[str] = []
    system: list[str] = []
    outside: list[str] = []
    endings = tuple(SUFFIXES)

    def fail(error: OSError) -> None:
        raise UsageError(f"{where}: cannot be listed: {error}") from None

    for folder, names, files in os.walk(root, onerror=fail):
        here = Path(folder)
        # Text: a Path per image would take most of the time.
        above = "" if here == root else f"{here.relative_to(root).as_posix()}/"
        system.extend(f"{above}{name}" for name in names if name.casefold() in SYSTEM_FOLDERS)
        names[:] = [
            name
            for name in names
            if not name.startswith(".") and name.casefold() not in SYSTEM_FOLDERS
        ]
        for name in names:
            (linked if (here / name).is_symlink() else folders).append(f"{above}{name}")
        for name in files:
            path = f"{above}{name}"
            if name.startswith(".") or not name.lower().endswith(endings):
                ignored.append(path)
            else:
                images.append(path)
                is_link = os.path.islink(f"{folder}/{name}")  # noqa: PTH114
                if is_link and not _resolve(here / name).is_relative_to(root):
                    outside.append(path)
    for path_text in images:
        # Arrow and JSON hold UTF-8 only, and the path is the patch's identity.
        try:
            path_text.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{where}: the file name {path_text!a} is not UTF-8; rename it"
            ) from None
    ignored = [path for path in ignored if path not in (SPLIT_TABLE, table)]
    found = (
        ("Files ignored because they are hidden or not PNG, JPEG or TIFF", ignored),
        ("Folders of thumbnails or of the system, left out", system),
        ("Links to files outside the folder", outside),
        ("Linked folders that were not followed", linked),
    )
    if linked and not images:
        example = min(linked)
        target = shown(str(_resolve(root / example)))
        raise UsageError(
            f"{where}: holds no PNG, JPEG or TIFF images besides {len(linked)} linked folders, "
            f"which are not followed, e.g. {example!a} to {target}; set "
            "root to the folder that holds the images, or copy them"
        )
    notes = [f"{what}: {len(paths)}, e.g. {min(paths)!a}." for what, paths in found if paths]
    return Listing(sorted(images), sorted(folders), notes)


def _resolve(link: Path) -> Path:
    """Return the target of a link, or the link if it is one of a loop: nothing can read it."""
    try:
        return follow_links(link)
    except OSError:
        return link
