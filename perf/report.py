"""Seconds of each part of a page, its bytes, and its opening: python -m perf.report

Writes the SYNTHETIC tables of a finished run (random embeddings of 768 dimensions, noise as
patches, drawn predictions of four heads, three fine-tunings, 21 classes) through the writers of the
store, scores them, and makes the page in a process of its own. Half a GiB of disk, and about two
minutes on two quiet cores; ``--store DIR`` keeps the tables for the next time. Where the machine is
busy, CPU seconds (of all threads) tell more than wall seconds.

Then opens the page in Chromium, where there is one, as it is and with the CPU slowed four times.
``--open PAGE`` opens another page instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageFilter

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.heads import HEADS
from benchmark.experiment.context import Context
from benchmark.stages.evaluate import EvaluateStage
from benchmark.stages.patches.sampling import count_classes
from benchmark.stages.report import ReportStage
from benchmark.tables import (
    check_table,
    embeddings_column,
    embeddings_schema,
    images_column,
    patches_schema,
)
from perf.toys import Noise, open_noise
from tests.browser import NAMES, a_browser
from tests.finetuned import draw_scores, write_finetuned, write_head

CLASSES = tuple(f"class number {k:02d}" for k in range(21))
REGIONS, NUM_SCENES, SIDE, DIM, PART_ROWS = ("east", "north", "south", "west"), 120, 128, 768, 1000
HEADS_SHOWN = ("logistic_regression", "mlp", "knn", "majority")
NUM_FINETUNED, NUM_PHOTOGRAPHS = 3, 200
PARTS = (
    *("finetune_pictures", "ranking_pictures", "confusion_pictures", "data_pictures"),
    *("embedding_pictures", "depiction_pictures", "explore"),
)
"""Functions of ``stages.report.content`` that take longest."""
SLOWED, ROUNDS = (1, 4), 5
"""How many times slower the CPU is for the browser, and how often a page is opened."""
OPENING = """async () => {
  const all = (selector) => document.querySelectorAll(selector);
  const find = (selector) => all(selector)[0];
  const frame = () => new Promise(requestAnimationFrame);
  const heading = "#ranking-table thead th.num.down", rows = "#ranking-table tbody tr";
  const choose = (list) => {
    list.selectedIndex = 1;
    list.dispatchEvent(new Event("input", { bubbles: true }));
  };
  let num_rows;
  const steps = {
    "ranking usable": [() => {}, () => find("#ranking-filters")?.hidden === false],
    "sorted": [() => find(heading).click(), () => find(heading).ariaSort === "descending"],
    "filtered": [
      () => {
        num_rows = all(rows).length;
        choose(find("#ranking-filters select[name=method]"));
      },
      () => all(rows).length < num_rows,
    ],
    "explorer usable": [() => {}, () => find("#explorer-matrix button")],
    "patches listed": [
      () => {
        find("#explorer-matrix").scrollIntoView({ behavior: "instant" });
        find("#explorer-matrix button").click();
      },
      () => find("#explorer-cell li"),
    ],
  };
  const found = {};
  for (const [name, [act, is_done]] of Object.entries(steps)) {
    act();
    while (!is_done()) {
      if (performance.now() > 60000) throw new Error(`after a minute not: ${name}`);
      await frame();
    }
    // What has changed is drawn before the frame after the next one.
    await frame();
    await frame();
    found[name] = performance.now() / 1000;
  }
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return { "first paint": paint.startTime / 1000, ...found };
}"""
"""Seconds from the navigation on; each step waits for the one before. The page has an explorer."""


def open_store(store: Path, num_backbones: int, num_tested: int, maps: dict[str, bool]) -> Context:
    """Return a context of networks, and of ``hog``, whose pictures are drawn from patches."""
    named = replace(find_backbone("random"), is_floor=False, family="vit", dim=DIM)
    backbones = [replace(named, name=f"network_{n:02d}") for n in range(1, num_backbones)]
    trained = [item.name for item in backbones[:NUM_FINETUNED]]
    context = open_noise(
        store,
        2 * num_tested,
        backbones=["hog", *(item.name for item in backbones)],
        resolved=(find_backbone("hog"), *backbones),
        heads=list(HEADS_SHOWN),
        dataset={"name": "synthetic", "root": "noise", "patch_size": SIDE},
        finetune={"backbones": trained},
        report=maps,
    )
    bands = ("red", "green", "blue")
    context.__dict__["source"] = Noise(2 * num_tested, SIDE, CLASSES, bands)
    return context


def write_store(context: Context, num_tested: int) -> None:
    """Write patches (half of them of test), embeddings, predictions and scores."""
    rng = np.random.default_rng(0)
    n = 2 * num_tested
    ids = np.array([f"{number:06d}" for number in range(n)])
    splits = np.repeat(["train", "val", "test"], [n * 4 // 10, n // 10, num_tested])
    labels = rng.integers(0, len(CLASSES), n)
    write_patches(context, rng, ids, splits, labels)
    centres = rng.normal(size=(len(CLASSES), DIM))
    for number, backbone in enumerate(context.backbones):
        spread = np.geomspace(3 + number, 0.3, DIM)
        artefact = context.embeddings(backbone)
        for start in range(0, n, PART_ROWS):
            rows = slice(start, start + PART_ROWS)
            vectors = centres[labels[rows]] + rng.normal(size=(len(ids[rows]), DIM)) * spread
            columns = [pa.array(ids[rows]), embeddings_column(vectors.astype(np.float32))]
            table = pa.table(columns, schema=embeddings_schema(DIM))
            artefact.write_table(f"part-{start // PART_ROWS:06d}.parquet", table)
        artefact.commit(
            {
                "dim": DIM,
                "num_patches": n,
                "seconds": {"device": 50.0 + number, "patches_per_s": 200.0 - number},
                "storage_bytes": 4 * n * DIM,
                "peak_memory_bytes": 2**30,
                "device": {"device": "cpu", "precision": "float32", "batch_size": 32},
                "pool": {"num_actors": 2},
            }
        )
        at = np.flatnonzero(splits != "train")
        for place, head in enumerate(HEADS_SHOWN):
            accuracy = 0.05 if head == "majority" else 0.9 - 0.015 * number - 0.02 * place
            scores = draw_scores(labels[at], len(CLASSES), accuracy=accuracy, seed=10 * number)
            cell = context.predictions(backbone, HEADS.get(head), 0)
            write_head(cell, ids[at], scores, val_score=accuracy)
        if backbone in context.finetuned_backbones:
            scores = draw_scores(labels[at], len(CLASSES), accuracy=0.93, seed=number)
            write_finetuned(context.finetuned(backbone, 0), ids[at], scores)
    (cell,) = EvaluateStage().run(context).cells
    if cell.status != "complete":
        raise SystemExit(cell.reason)


def write_patches(
    context: Context, rng: np.random.Generator, ids: Any, splits: Any, labels: Any
) -> None:
    """Write noise with about the detail of photographs, and the manifest of the patches."""
    noise = rng.integers(0, 255, (NUM_PHOTOGRAPHS, SIDE, SIDE, 3), dtype=np.uint8)
    blur = ImageFilter.GaussianBlur(1.0)
    photographs = np.stack([np.asarray(Image.fromarray(item).filter(blur)) for item in noise])
    pixels = photographs.transpose(0, 3, 1, 2)
    scenes = rng.integers(0, NUM_SCENES, len(ids))
    parts, tables = [], []
    for number, start in enumerate(range(0, len(ids), PART_ROWS)):
        rows = slice(start, start + PART_ROWS)
        n = len(ids[rows])
        shown = np.roll(pixels[rng.integers(0, NUM_PHOTOGRAPHS, n)], int(rng.integers(SIDE)), 3)
        shown = (shown * (0.5 + 0.02 * labels[rows, None, None, None])).clip(0, 255)
        table = pa.table(
            {
                "patch_id": ids[rows],
                "split": splits[rows],
                "label": pa.array(labels[rows], pa.int32()),
                "scene": [f"{split}-{scenes[start + k]}" for k, split in enumerate(splits[rows])],
                "region": [REGIONS[scenes[start + k] % len(REGIONS)] for k in range(n)],
                **{name: pa.array(np.zeros(n), pa.int32()) for name in ("row", "col")},
                **{name: np.zeros(n) for name in ("lon", "lat")},
                "purity": pa.array(np.ones(n), pa.float32()),
                "image": images_column(shown.astype(np.uint8)),
            }
        )
        parts.append({"name": f"part-{number:06d}.parquet", "num_rows": n})
        table = check_table(table, patches_schema(3, SIDE), what="noise")
        context.patches.write_table(parts[-1]["name"], table)
        tables.append(table.drop_columns(["image"]))
    context.patches.commit(
        {
            "inputs": context.patches_inputs,
            "num_patches": len(ids),
            "num_examined": len(ids),
            "num_candidates": len(ids),
            "classes": list(CLASSES),
            "bands": ["red", "green", "blue"],
            "patch_size": SIDE,
            "is_synthetic": True,
            "dataset_digest": context.dataset_digest,
            "parts": parts,
            "class_counts": count_classes(pa.concat_tables(tables), CLASSES),
            "notes": [],
            "problems": [],
            "seconds": {"find": 1.0, "read": 9.0, "total": 10.0},
        }
    )


def measure(context: Context) -> None:
    """Make the page in this process; print CPU and wall seconds of its parts, and its bytes."""
    from benchmark.page import html
    from benchmark.stages.report import content

    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **settings: Any) -> Any:
            began = time.process_time(), time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                spent[name][0] += time.process_time() - began[0]
                spent[name][1] += time.perf_counter() - began[1]

        return run

    for name in PARTS:
        setattr(content, name, timed(name, getattr(content, name)))
    html.render_report = timed("render_report", html.render_report)  # type: ignore[assignment]
    (cell,) = timed("the stage", ReportStage().run)(context).cells
    if cell.status != "complete":
        raise SystemExit(cell.reason)
    # With the start of Python and all imports, as the command has them.
    print(f"whole process: {time.process_time():.1f} s of CPU")
    for name, (cpu_s, wall_s) in sorted(spent.items(), key=lambda item: -item[1][0]):
        print(f"{name:20} {cpu_s:6.1f} s of CPU {wall_s:6.1f} s wall")
    page = context.report().read_bytes("index.html")
    print(f"page: {len(page) / 1e6:.2f} MB")


def measure_opening(page: Path) -> None:
    """Open a page repeatedly; print when it is painted and when its controls have reacted."""
    if not any(map(shutil.which, NAMES)):
        return print("not opened: no Chromium on this machine (apt-get install chromium)")
    with a_browser() as browser:
        print(f"{page.name} in Chromium {browser.version}, load {os.getloadavg()[0]:.1f}")
        for times in SLOWED:
            found = []
            for _ in range(ROUNDS):
                with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
                    shown = context.new_page()
                    session = context.new_cdp_session(shown)
                    session.send("Emulation.setCPUThrottlingRate", {"rate": times})
                    shown.goto(page.absolute().as_uri(), wait_until="commit")
                    found.append(shown.evaluate(OPENING))
            print(f"CPU slowed {times} times, seconds since the navigation, median and most:")
            for name in found[0]:
                seconds = sorted(item[name] for item in found)
                print(f"{name:20} {seconds[len(seconds) // 2]:6.2f} {seconds[-1]:6.2f}")


def main() -> None:
    """Write the store unless it is there, and measure a page of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", type=int, default=20)
    parser.add_argument("--tested", type=int, default=5000)
    parser.add_argument("--tsne", action="store_true", help="with maps by t-SNE")
    parser.add_argument("--umap", action="store_true", help="with maps by UMAP")
    parser.add_argument("--store", type=Path, help="keep the tables here")
    parser.add_argument("--open", type=Path, metavar="PAGE", help="open this page, make none")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        return measure_opening(given.open)
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder)
        maps = {"tsne": given.tsne, "umap": given.umap}
        context = open_store(store, given.backbones, given.tested, maps)
        if given.measure:
            return measure(context)
        if not context.scores().is_complete:
            write_store(context, given.tested)
        if context.report().is_complete:
            context.report().delete("_manifest.json")
        again = [*sys.argv[1:], "--store", str(store), "--measure"]
        subprocess.run([sys.executable, "-m", "perf.report", *again], check=True)
        page = Path(folder) / "index.html"
        page.write_bytes(context.report().read_bytes("index.html"))
        measure_opening(page)


if __name__ == "__main__":
    main()
