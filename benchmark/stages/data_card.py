"""The page of the data card: its sentences, tables and figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.experiment.context import Context
from benchmark.page import heatmaps, maps, pictures
from benchmark.page.card import CardData, Chapter, render_card
from benchmark.page.html import Picture, Table
from benchmark.page.rendering import draw
from benchmark.stages.report.patches import as_rgb, pick_patches
from benchmark.statistics.pixels import PERCENTILES
from benchmark.tables import SPLITS

MAX_SCENES = 100
"""Rows of the table of scenes; the document has all."""
MAX_GROUPS = 20
"""Rows of the table of duplicates."""
NUM_SCENE_MAPS = 6
MAX_CLASSES = 24
"""Classes of the map with a colour of their own; the rarest of more share one."""


class _Data(NamedTuple):
    """What the chapters show."""

    context: Context
    patches: dict[str, Any]
    """The manifest of the patches."""
    frame: pd.DataFrame
    """A row per patch: split, label, scene, region, lon, lat, purity."""
    content: dict[str, Any]
    """The document."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.patches["classes"])

    def picture(self, title: str, plot: Any, /, *args: Any, **settings: Any) -> Picture:
        """Plot a figure; of synthetic data, it says so."""
        caption = "Synthetic data." if self.content["is_synthetic"] else ""
        drawing = draw(plot(*args, caption=caption, **settings))
        alt = f"{title}. {caption}".strip()
        return Picture(section="data", title=title, drawing=drawing, caption=caption, alt=alt)


def draw_page(
    context: Context, manifest: dict[str, Any], frame: pd.DataFrame, content: dict[str, Any]
) -> str:
    """Return the page of a data card as HTML.

    Args:
        context: of the experiment.
        manifest: of its patches.
        frame: a row per patch: split, label, scene, region, lon, lat, purity.
        content: the document of the card.
    """
    data = _Data(context, manifest, frame, content)
    found = (_counts, _places, _purities, _pixels, _duplicates, _examples)
    return render_card(
        CardData(
            title=f"Data card: {content['experiment']}",
            experiment=content["experiment"],
            dataset=content["dataset"],
            is_synthetic=content["is_synthetic"],
            summary=_summary(content),
            notes=(*content["notes"], *_problem_notes(content)),
            chapters=tuple(chapter(data) for chapter in found),
            provenance={
                **{key: _setting(value) for key, value in content["settings"].items()},
                "patches": content["patches"],
                "patches fingerprint": content["fingerprint"],
                "dataset digest": content["dataset_digest"],
                **content["versions"],
            },
        )
    )


def _setting(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "unset" if value is None else str(value)


def _summary(content: dict[str, Any]) -> str:
    size, bands = content["patch_size"], content["bands"]
    shown = ", ".join(bands[:6]) + (f" and {len(bands) - 6} more" if len(bands) > 6 else "")
    return (
        f"{content['num_patches']:,} patches of {size} x {size} px in {len(content['classes'])} "
        f"classes, with the bands {shown}: drawn from {content['num_candidates']:,} candidates "
        f"among {content['num_examined']:,} {content['unit']}."
    )


def _problem_notes(content: dict[str, Any]) -> list[str]:
    problems = content["problems"]
    if not problems:
        return []
    listed = "; ".join(f"{item['path']}: {item['reason']}" for item in problems[:5])
    return [f"{len(problems)} unreadable files were skipped (on_error = skip), e.g. {listed}."]


def _counts(data: _Data) -> Chapter:
    counted = pd.DataFrame(
        [
            {"split": item["split"], "region": item["region"] or "all", **item["counts"]}
            for item in data.content["counts"]
        ]
    ).set_index(["split", "region"])[list(data.classes)]
    title = "Patches per split and region"
    tables = [_class_table(data)]
    if data.content["scenes"]:
        tables.append(_scene_table(data))
    return Chapter(
        anchor="counts",
        title="Patches per class, split, region and scene",
        sentences=() if data.content["scenes"] else ("The scenes of the patches are unknown.",),
        pictures=(data.picture(title, heatmaps.plot_class_counts, counted),),
        tables=tuple(tables),
    )


def _class_table(data: _Data) -> Table:
    """Return the patches of each class and split, beside the candidates."""
    taken = {split: dict.fromkeys(data.classes, 0) for split in SPLITS}
    for item in data.content["counts"]:
        for name, count in item["counts"].items():
            taken[item["split"]][name] += count
    there = {item["split"]: item["counts"] for item in data.content["candidates"]}
    rows = [
        (
            name,
            *(taken[split][name] for split in SPLITS),
            sum(taken[split][name] for split in SPLITS),
            *(there[split].get(name, 0) if split in there else None for split in SPLITS),
        )
        for name in data.classes
    ]
    return Table(
        title="Patches per class and split",
        columns=("class", *SPLITS, "all", *(f"candidates, {split}" for split in SPLITS)),
        rows=tuple(rows),
        caption="The patches are drawn from the candidates by per_class, per_region, sampling and "
        "rare_class_boost.",
    )


def _scene_table(data: _Data) -> Table:
    scenes = data.content["scenes"]
    rows = [
        (
            item["scene"],
            item["split"],
            item["region"] or None,
            sum(item["counts"].values()),
            *(item["counts"][name] for name in data.classes[:MAX_CLASSES]),
        )
        for item in scenes[:MAX_SCENES]
    ]
    more = f" The first {MAX_SCENES} are shown." if len(scenes) > MAX_SCENES else ""
    return Table(
        title="Patches per scene",
        columns=("scene", "split", "region", "all", *data.classes[:MAX_CLASSES]),
        rows=tuple(rows),
        caption=f"{len(scenes):,} scenes have patches.{more}",
    )


def _places(data: _Data) -> Chapter:
    bounds = data.content["bounds"]
    title = "Where the patches lie"
    if bounds is None:
        return Chapter(
            anchor="map", title=title, sentences=("The patches have no coordinates: no map.",)
        )
    known = data.frame.dropna(subset=["lon", "lat"])
    splits = known["split"].map(list(SPLITS).index).to_numpy()
    labels, names = _join_rare(known["label"].to_numpy(), data.classes)
    by_split = [maps.Map(known["lon"].to_numpy(), known["lat"].to_numpy(), splits)]
    by_class = _class_maps(known.assign(group=labels))
    rest = len(data.frame) - len(known)
    return Chapter(
        anchor="map",
        title=title,
        sentences=(
            f"Centres from {bounds['west']:.4f} to {bounds['east']:.4f} degrees of longitude and "
            f"{bounds['south']:.4f} to {bounds['north']:.4f} degrees of latitude (EPSG:4326)."
            + (f" {rest:,} patches have no coordinates." if rest else ""),
        ),
        pictures=(
            data.picture("Patches by split", maps.plot_maps, by_split, SPLITS),
            data.picture(
                "Patches by class"
                + (", scenes with the most patches" if len(by_class) > 1 else ""),
                maps.plot_maps,
                by_class,
                names,
            ),
        ),
    )


def _class_maps(known: pd.DataFrame) -> list[maps.Map]:
    """Return a map of each of the largest scenes, which are too far apart for one; or of all."""
    largest = known["scene"].value_counts(sort=False).sort_index().nlargest(NUM_SCENE_MAPS)
    scenes = [known[known["scene"] == name] for name in largest.index]
    return [
        maps.Map(
            rows["lon"].to_numpy(), rows["lat"].to_numpy(), rows["group"].to_numpy(), str(title)
        )
        for title, rows in zip([*largest.index, ""], scenes or [known], strict=False)
    ]


def _join_rare(labels: Any, classes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Return labels and names, with the rarest of too many classes as one."""
    if len(classes) <= MAX_CLASSES:
        return labels, classes
    counts = np.bincount(labels, minlength=len(classes))
    kept = np.sort(np.argsort(-counts, kind="stable")[: MAX_CLASSES - 1])
    place = np.full(len(classes), len(kept))
    place[kept] = np.arange(len(kept))
    rest = f"{len(classes) - len(kept)} other classes"
    return place[labels], (*(classes[label] for label in kept), rest)


def _purities(data: _Data) -> Chapter:
    found = data.content["purity"]
    title = "Purity"
    if found is None:
        text = "Every patch has one class over its whole area, as whole images have."
        return Chapter(anchor="purity", title=title, sentences=(text,))
    counts = {split: np.array(values) for split, values in found["counts"].items()}
    return Chapter(
        anchor="purity",
        title=title,
        pictures=(
            data.picture(
                "Share of a patch that its class covers",
                maps.plot_histogram,
                found["edges"],
                counts,
                label="purity",
            ),
        ),
    )


def _pixels(data: _Data) -> Chapter:
    keys = ("mean", "std", "min", *(f"p{percent}" for percent in PERCENTILES), "max")
    rows = [
        (
            item["split"],
            item["band"],
            *(item[key] for key in keys),
            100 * item["share_0"],
            100 * item["share_255"],
        )
        for item in data.content["pixels"]
    ]
    table = Table(
        title="Pixel values per split and band",
        columns=("split", "band", *keys, "at 0, %", "at 255, %"),
        rows=tuple(rows),
        num_headers=2,
        decimals=1,
        caption="Of all pixels of the patches, as they are stored: 0 to 255. p1 to p99 are "
        "percentiles.",
    )
    return Chapter(anchor="pixels", title="Bands", tables=(table,))


def _duplicates(data: _Data) -> Chapter:
    found = data.content["duplicates"]
    more = "What the reader knows of similar and contradicting images is among the notes above."
    if not found["num_groups"]:
        text = "No two patches have the same pixels."
        return Chapter(anchor="duplicates", title="Duplicates", sentences=(text, more))
    text = (
        f"{found['num_patches']:,} patches have the same pixels as another one, in "
        f"{found['num_groups']:,} groups: {found['num_groups_in_several_splits']:,} groups are "
        f"in several splits, {found['num_groups_with_several_labels']:,} have several labels."
    )
    table = Table(
        title="Patches with the same pixels",
        columns=("first patches", "patches", "splits", "classes"),
        rows=tuple(
            (
                ", ".join(item["patch_ids"][:2]),
                len(item["patch_ids"]),
                ", ".join(item["splits"]),
                ", ".join(item["classes"]),
            )
            for item in found["groups"][:MAX_GROUPS]
        ),
        caption="Groups with several labels come first, then those in several splits, then the "
        f"largest; at most {MAX_GROUPS} are shown.",
    )
    return Chapter(anchor="duplicates", title="Duplicates", sentences=(text, more), tables=(table,))


def _examples(data: _Data) -> Chapter:
    patches = pick_patches(data.context.patches, data.context.experiment.report.num_examples)
    shown = [as_rgb(images, data.patches["bands"]) for images in patches]
    title = "Example patches of each class"
    return Chapter(
        anchor="examples",
        title="Examples",
        pictures=(data.picture(title, pictures.plot_examples, shown, data.classes),),
    )
