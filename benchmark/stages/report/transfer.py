"""The section "Other regions" of the page."""

from __future__ import annotations

import pandas as pd

from benchmark.page.heatmaps import plot_transfer
from benchmark.page.html import Picture, Table
from benchmark.stages.report.content_tables import p_text
from benchmark.stages.report.figures import picture
from benchmark.stages.report.headline import name_method
from benchmark.stages.report.results import TRAIN_SET, Results

MAX_PANELS = 6
TITLE = "Balanced accuracy by train regions (rows) and region of test (columns)"
FRAMED = {
    True: "Framed: trained in the region of test too, on other scenes.",
    False: "Framed: trained outside the region of test.",
}
HEADINGS = {
    "train_set": TRAIN_SET,
    "value": "score",
    "ci_low": "score, low",
    "ci_high": "score, high",
}


def transfer_tables(results: Results) -> tuple[Table, ...]:
    """Return the drop of each method, that of the shown ones in each region, and the regions."""
    if results.transfer.empty:
        return ()
    columns = ["train_set", "region", "backbone", "method", "value", "ci_low", "ci_high"]
    points = {"drop": "points lost", "drop_low": "lost, low", "drop_high": "lost, high"}
    rows = _shown(results)[[*columns, *points, "verdict"]]
    rows = rows.assign(**{name: 100 * rows[name] for name in points})
    rows = rows.rename(columns=points | HEADINGS)
    regions = results.evaluated["transfer"]["regions"]
    return (
        Table(
            title="Drop out of the regions of train",
            columns=(
                *("backbone", "method", "within", "elsewhere", "points lost", "low", "high"),
                *("p", "verdict", "among backbones"),
            ),
            rows=tuple(
                (
                    *(row.backbone, row.method, row.within, row.elsewhere),
                    *(100 * row.drop, 100 * row.drop_low, 100 * row.drop_high),
                    *(p_text(row.p_value), row.verdict, row.standing),
                )
                for row in results.drops.itertuples()
            ),
            num_headers=2,
            caption=(
                "Score of train sets that hold the region of the test patches, minus that of train "
                "sets that do not, on the same patches; mean over regions. Interval and p are of a "
                "flip test over the scenes of all regions, corrected for the table. The last "
                "column compares the drops of fine-tuning and of the heads that are best on val."
            ),
        ),
        Table.from_frame(
            rows,
            title="Score in each region",
            num_headers=4,
            caption=(
                "Points lost are against the mean of the train sets that hold the region; tests "
                "are corrected for the rows of a region. All methods are in the table transfer."
            ),
        ),
        Table(
            title="Test patches of each region",
            columns=("region", "patches", "scenes", "classes without a patch"),
            rows=tuple(
                (
                    *(item["name"], item["num_patches"]),
                    item["num_units"] if item["unit"] == "scene" else None,
                    ", ".join(item["absent"]) or None,
                )
                for item in regions
            ),
            caption="The same for all train sets. Where scenes are unknown, patches are the units.",
        ),
    )


def transfer_pictures(results: Results) -> list[Picture]:
    """Return one figure with a matrix for each shown method, or none."""
    if results.transfer.empty:
        return []
    rows = _shown(results)
    # The kind of cells that there are fewer of.
    kind = bool(rows["is_within"].mean() < 0.5)
    rows = rows.assign(is_framed=rows["is_within"] == kind)
    caption = f"{results.caption}. {FRAMED[kind]}" if results.caption else FRAMED[kind]
    return [picture(results, "transfer", TITLE, plot_transfer, rows, caption=caption)]


def _shown(results: Results) -> pd.DataFrame:
    """Return the rows of the methods that stand for their backbones, those that drop least first.

    Where there are none, the first methods are shown.
    """
    best = results.drops[results.drops["rank"].notna()]
    methods = (best if len(best) else results.transfer)[["backbone", "method"]].drop_duplicates()
    rows = methods.head(MAX_PANELS).merge(results.transfer, on=["backbone", "method"])
    names = [name_method(*pair) for pair in zip(rows["backbone"], rows["method"], strict=True)]
    return rows.assign(name=names)
