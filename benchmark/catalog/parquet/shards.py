"""The Parquet shards of a data set and the split of each: from its card, or from their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from benchmark.catalog.folder.splits import SPLIT_WORDS, read_split
from benchmark.errors import UsageError, one_line
from benchmark.fields import shown

CARD = "README.md"
"""Its YAML header may list the shards of each split."""

_STEM = re.compile(
    r"(?P<word>.*?)(?:-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?|[-_.]?\d+)?"
)
"""Of a shard, e.g. ``train-00000-of-00003``, ``train_2``, ``0000``."""


_WORD = re.compile("[a-z]+")
_PARTIAL = "partial-"
"""Begins the folders of splits that the hub converted in part."""


class Shard(NamedTuple):
    """One Parquet file of a data set."""

    path: str
    """Relative to the root, POSIX."""
    split: str | None
    """train, val or test; None: no shard tells a split."""


def list_shards(root: Path, where: str, advice: str) -> list[Shard]:
    """Return the shards of a data set, sorted by path.

    The splits are those that the card lists, else, as on the hub, those that words in the names of
    the shards or the names of their folders say: ``data/validation-00000-of-00002.parquet``,
    ``my_test.parquet``, ``train/0.parquet``.

    Args:
        root: the data set's folder.
        where: start of each message.
        advice: how to get all shards.

    Raises:
        UsageError: there are no shards, one is missing, they are in several folders, the card
            cannot be read, or a split is unknown.
    """
    found = (path.relative_to(root) for path in sorted(root.rglob("*.parquet")) if path.is_file())
    paths = [path.as_posix() for path in found if not any(p.startswith(".") for p in path.parts)]
    if not paths:
        raise UsageError(f"{where}: holds no Parquet files; {advice}")
    listed = _read_card(root, paths, where, advice)
    _check_whole(listed or paths, where, advice)
    if listed:
        return [Shard(path, listed[path]) for path in sorted(listed)]
    for path in paths:
        if any(part.startswith(_PARTIAL) for part in PurePosixPath(path).parts):
            raise UsageError(
                f"{where}: '{path}' is of a split that the hub converted in part; fetch the data "
                "set's own Parquet files"
            )
    folders = sorted({_folder_of(path) for path in paths})
    if len(folders) > 1:
        raise UsageError(
            f"{where}: its Parquet files are in the folders {shown(folders, 200)}; name the one "
            "that holds your data set as root"
        )
    splits = {path: _split_of(path) for path in paths}
    words = {path: _stem(path)["word"] or PurePosixPath(path).parent.name for path in paths}
    if not any(splits.values()) and len({*words.values()}) == 1:
        return [Shard(path, None) for path in paths]
    return [
        Shard(path, split or read_split(words[path], f"{where}: '{path}'"))
        for path, split in splits.items()
    ]


def _stem(path: str) -> Mapping[str, str]:
    found = _STEM.fullmatch(PurePosixPath(path).stem)
    assert found is not None
    return found.groupdict(default="")


def _split_of(path: str) -> str | None:
    """Return the split that a word of the name says, else the innermost folder; None: none does."""
    *folders, name = PurePosixPath(path.casefold()).parts
    found = {SPLIT_WORDS[word] for word in _WORD.findall(name) if word in SPLIT_WORDS}
    if found:
        return found.pop() if len(found) == 1 else None
    return next((SPLIT_WORDS[folder] for folder in folders[::-1] if folder in SPLIT_WORDS), None)


def _folder_of(path: str) -> str:
    """Return the folder of a shard without those that are splits."""
    parts = PurePosixPath(path).parts[:-1]
    return "/".join(part for part in parts if part.casefold() not in SPLIT_WORDS) or "."


def _check_whole(paths: Sequence[str] | Mapping[str, str], where: str, advice: str) -> None:
    """Refuse ``train-00000-of-00002`` without ``train-00001-of-00002``."""
    numbers: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        stem = _stem(path)
        if stem["count"]:
            key = str(PurePosixPath(path).parent), stem["word"], stem["count"]
            numbers.setdefault(key, set()).add(int(stem["number"]))
    for (folder, word, count), present in numbers.items():
        absent = sorted({*range(int(count))} - present)
        if absent:
            raise UsageError(
                f"{where}: {len(absent)} of {int(count)} Parquet files of '{word}' are missing in "
                f"'{folder}', e.g. number {absent[0]:05d}; {advice}"
            )


def _read_card(root: Path, paths: Sequence[str], where: str, advice: str) -> dict[str, str]:
    """Return the split of each shard that the card lists; empty: it lists none.

    Raises:
        UsageError: it cannot be read, lists several subsets or an unknown split, or a split has no
            shards.
    """
    where = f"{where}: {CARD}"
    if not (root / CARD).is_file():
        return {}
    from huggingface_hub.repocard import metadata_load

    try:
        configs = (metadata_load(root / CARD) or {}).get("configs") or []
        found: dict[str, str] = {}
        for item in _choose_subset(configs, where):
            split, globs = read_split(str(item["split"]), where), item["path"]
            globs = [globs] if isinstance(globs, str) else globs
            given = [path.relative_to(root).as_posix() for it in globs for path in root.glob(it)]
            shards = {*given} & {*paths}
            if not shards:
                raise UsageError(f"{where}: no Parquet file is {shown(globs, 200)}; {advice}")
            for path in sorted(shards):
                if found.setdefault(path, split) != split:
                    raise UsageError(
                        f"{where}: '{path}' is in {found[path]} and in {split}; correct the card"
                    )
    except UsageError:
        raise
    # The YAML may hold anything, and its parser raises errors of its own.
    except Exception as error:
        raise UsageError(
            f"{where}: the data files that it lists cannot be read: {one_line(error)}; correct or "
            "remove it"
        ) from None
    return found


def _choose_subset(configs: Sequence[Mapping[str, Any]], where: str) -> Sequence[Mapping[str, Any]]:
    """Return the data files of the only or the default subset; empty where it names no splits."""
    chosen = list(configs)
    if len(configs) > 1:
        marked = [item for item in configs if item.get("default")]
        chosen = marked or [item for item in configs if item["config_name"] == "default"]
    if len(configs) and len(chosen) != 1:
        names = [item["config_name"] for item in configs]
        raise UsageError(
            f"{where}: lists the subsets {shown(names, 200)} and none as the default; put the "
            "Parquet files of one into a folder of its own, and name that as root"
        )
    files: Any = chosen[0].get("data_files") if chosen else None
    return files if isinstance(files, list) and isinstance(files[0], dict) else []
