"""STAC items as an index: one file with an item or a collection of items, or a folder of items."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from benchmark.catalog.folder.splits import SPLIT_WORDS, read_split
from benchmark.catalog.rasters.files import FileError, is_folder, list_files, read_bytes
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError, did_you_mean, one_line
from benchmark.fields import shown
from benchmark.raster_settings import RastersConfig

JSON_SUFFIXES = (".json", ".geojson")
MAX_ITEMS_BYTES = 2**28
SPLIT_PROPERTIES = ("split", "ml-aoi:split")
"""Properties of an item that give its split; the second is that of the extension ML AOI."""


class Item(NamedTuple):
    """What an item says of a scene; the paths are relative to the root."""

    name: str
    region: str | None
    split: str | None
    image: str
    label: str
    place: str
    """For messages."""


def read_items(root: Root, path: str, config: RastersConfig, *, where: str) -> list[Item]:
    """Return the items of an index.

    Paths of assets are relative to the file of their item, or URIs below that of the root.

    Raises:
        UsageError: a file is no STAC item, an asset is missing or a URL, or there is no item.
    """
    is_many = is_folder(root, path)
    files = _list_items(root, path) if is_many else [path]
    found = []
    for file in files:
        for number, item in enumerate(_features(root, file, where, skips_others=is_many)):
            place = f"{where}: '{file}' item {number}"
            found.append(_read_item(root, item, PurePosixPath(file).parent, config, place))
    if not found:
        raise UsageError(f"{where}: holds no STAC items; name their JSON file, or a folder of them")
    return found


def _list_items(root: Root, folder: str) -> list[str]:
    return [
        name
        for suffix in JSON_SUFFIXES
        for pattern in (f"{folder}/*{suffix}", f"{folder}/*/*{suffix}")
        for name in list_files(root, pattern)
    ]


def _features(root: Root, file: str, where: str, *, skips_others: bool) -> Iterator[Any]:
    try:
        content = json.loads(read_bytes(root, file, most_bytes=MAX_ITEMS_BYTES))
    except FileError as error:
        raise UsageError(f"{where}: '{file}' {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: '{file}' is no JSON: {one_line(error, limit=200)}") from None
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        yield from content["features"]
    elif kind == "Feature":
        yield content
    elif not (skips_others and kind in ("Catalog", "Collection")):
        raise UsageError(
            f"{where}: '{file}' is no STAC item nor a collection of items (type {shown(kind, 100)})"
        )


def _read_item(
    root: Root, item: Any, folder: PurePosixPath, config: RastersConfig, place: str
) -> Item:
    if not isinstance(item, Mapping) or not isinstance(item.get("assets"), Mapping):
        raise UsageError(f"{place}: is no STAC item: it has no assets")
    name, properties = item.get("id"), item.get("properties") or {}
    if not isinstance(name, str) or not isinstance(properties, Mapping):
        raise UsageError(f"{place}: is no STAC item: it has no valid id or properties")
    paths = []
    for key, asset in (("image_asset", config.image_asset), ("label_asset", config.label_asset)):
        entry = item["assets"].get(asset)
        href = entry.get("href") if isinstance(entry, Mapping) else None
        if not isinstance(href, str):
            raise UsageError(
                f"{place} ({shown(name, 100)}): has no asset '{asset}'; set {key}."
                f"{did_you_mean(asset, map(str, item['assets']))}"
            )
        below = href.removeprefix(f"{root.address.partition('?')[0].rstrip('/')}/")
        is_whole = below != href or "://" in href
        paths.append(below if is_whole else posixpath.normpath(folder / href))
    word = next((properties[key] for key in SPLIT_PROPERTIES if key in properties), None)
    region = properties.get("region")
    return Item(
        name=name,
        region=str(region) if region is not None else None,
        split=None if word is None else _split(str(word), place),
        image=paths[0],
        label=paths[1],
        place=f"{place} ({shown(name, 100)})",
    )


def _split(word: str, place: str) -> str:
    # The word of the extension ML AOI.
    return SPLIT_WORDS["val"] if word.casefold() == "validate" else read_split(word, place)
