"""Opening the user's own scenes: files, classes, splits, bands and ranges, in this order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from benchmark.catalog.folder.assignment import sort_classes
from benchmark.catalog.rasters.files import FileError, is_vector, open_root
from benchmark.catalog.rasters.pairs import WHERE, list_pairs
from benchmark.catalog.rasters.pixels import choose_ranges, open_pixels
from benchmark.catalog.rasters.scenes import Examined, Scene, examine
from benchmark.catalog.rasters.source import RasterSource
from benchmark.catalog.rasters.splits import assign_scenes
from benchmark.catalog.rasters.values import IGNORED, LabelTable, label_table, open_labels
from benchmark.catalog.roots.root import Root
from benchmark.config import DatasetConfig
from benchmark.errors import CellError, UsageError
from benchmark.fields import shown
from benchmark.raster_settings import RastersConfig

MAX_CLASSES = 250
STRIP = 512


def open_rasters(config: DatasetConfig) -> RasterSource:
    """Open pairs of imagery and labels.

    Raises:
        UsageError: settings are missing or contradict each other, files cannot be found, a server
            fails, or no scene is usable.
    """
    try:
        return _open(config)
    except CellError as error:
        raise UsageError(str(error)) from None


def _open(config: DatasetConfig) -> RasterSource:
    settings = config.rasters
    if settings is None:
        raise UsageError(
            '[dataset.rasters] is missing; name the files there: images = "images/*.tif" and '
            'labels = "labels/*.tif", or index = "index.csv"'
        )
    files = open_root(config.root)
    listed = list_pairs(files, settings)
    examined = examine(files, listed.pairs, config)
    table = _open_table(files, examined, settings)
    assigned = assign_scenes(examined.scenes, config)
    reader, notes = open_pixels(files, examined.scenes, config, where=WHERE)
    num_uses = Counter(pair.label for pair in listed.pairs)
    source = RasterSource(
        files=files,
        scenes=examined.scenes,
        problems=examined.problems,
        table=table,
        reader=reader,
        split_of=assigned.split_of,
        blocks=assigned.blocks,
        settings=settings,
        patch_size=config.patch_size,
        purity=config.purity,
        num_polygons={
            path: layer.num_polygons
            for path, layer in examined.layers.items()
            if num_uses[path] == 1
        },
        identities=examined.identities,
    )
    blocks = assigned.blocks.split_of.items() if assigned.blocks else ()
    ranges, more = choose_ranges(
        reader,
        list(examined.scenes.values()),
        source.train_windows,
        config,
        identity=lambda: [source.digest(), sorted(blocks)],
        where=WHERE,
    )
    notes = [*listed.notes, *assigned.notes, *notes, *more, *_window_notes(settings, config)]
    return replace(source, reader=replace(reader, ranges=ranges), notes=tuple(notes))


def _open_table(files: Root, examined: Examined, settings: RastersConfig) -> LabelTable:
    """Return the classes and values of the settings, or those of the polygons' field."""
    rasters = [scene for scene in examined.scenes.values() if not is_vector(scene.pair.label)]
    if rasters and not settings.classes:
        raise UsageError(
            f"{WHERE} classes is missing: write each class with its values in the labels, e.g. "
            f"classes = {{water = 1, trees = [2, 3]}}; '{rasters[0].pair.label}' holds "
            f"{_values_of(files, rasters[0])}"
        )
    for key in ("label_field", "label_layer"):
        if getattr(settings, key) is not None and not examined.layers:
            raise UsageError(
                f"{WHERE} {key}: is for polygons, but the labels are rasters; remove it"
            )
    texts = {text for layer in examined.layers.values() for text in layer.texts}
    texts -= {str(value) for value in settings.ignore}
    if not settings.classes and len(texts) > MAX_CLASSES:
        raise UsageError(
            f"{WHERE} label_field = '{settings.label_field}': has {len(texts):,} different values, "
            f"more than {MAX_CLASSES} classes; name the field of the class, or set classes"
        )
    table = label_table(settings, found=sort_classes(texts))
    words = [value for value in table.code_of if isinstance(value, str)]
    if rasters and words:
        raise UsageError(
            f"{WHERE} classes: {shown(words[0], 100)} is a text, but the labels are rasters, e.g. "
            f"'{rasters[0].pair.label}'; write whole numbers"
        )
    return table


def _values_of(files: Root, scene: Scene) -> str:
    """Return the values of a label raster, the most frequent first, for a message."""
    counts: Counter[float] = Counter()
    empty = LabelTable((), {0: IGNORED})
    try:
        grid = scene.header.grid
        with open_labels(files, scene.pair.label, grid, empty, RastersConfig()) as file:
            for top in range(0, grid.height, STRIP):
                file.strip(top, min(STRIP, grid.height - top))
            counts = file.counts
    except FileError as error:
        return f"values that cannot be read: {error}"
    return ", ".join(f"{value} ({count:,} px)" for value, count in counts.most_common(20))


def _window_notes(settings: RastersConfig, config: DatasetConfig) -> list[str]:
    """Return notes on resampling and overlapping windows."""
    notes = []
    if settings.gsd_m is not None:
        notes.append(
            f"The scenes were resampled to pixels of {settings.gsd_m:g} m (to a whole factor if "
            "it is within 1 %): images by the mean or, where pixels become smaller, bilinearly; "
            "labels by the most frequent value or the nearest one."
        )
    if settings.stride is not None and settings.stride < config.patch_size:
        notes.append(
            f"Windows overlap (stride = {settings.stride}, patch_size = {config.patch_size}): "
            "patches of one split share pixels."
        )
    return notes
