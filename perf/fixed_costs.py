"""What a run costs beside its work: python -m perf.fixed_costs

From a run's begin on a cluster that is up to its first embedded part; and 200 small cells, head
searches of one quick trial each, above the seconds that their fits take. About 3 minutes.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

from benchmark.stages.embed import EmbedStage
from benchmark.stages.patches import PatchesStage
from benchmark.stages.tune import TuneStage
from perf.toys import open_noise

NUM_CELLS = 200


def first_part_s(stage: EmbedStage, context, pattern: str) -> float:
    """Return the seconds from the begin of a stage to the first file like ``pattern``."""
    found: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        while not found and not is_over.is_set():
            if list(Path(context.store.root).glob(pattern)):
                found.append(time.perf_counter())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    result = stage.run(context)
    is_over.set()
    watcher.join()
    assert {item.status for item in result.cells} == {"complete"}, result.cells
    return found[0] - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = open_noise(
            folder,
            3000,
            backbones=["mean_color"],
            heads=["logistic_regression", "knn"],
            seeds=list(range(NUM_CELLS // 2)),
            dataset={"name": "synthetic", "root": "noise", "per_class": 20},
            tune={"num_trials": 1},
        )
        with context.cluster:
            context.cluster.connect()
            found_s = first_part_s(PatchesStage(), context, "patches/*/part-*")
            print(f"patches: {found_s:.1f} s from the begin to the first part")
            found_s = first_part_s(EmbedStage(), context, "embed/*/part-*")
            print(f"embed: {found_s:.1f} s from the begin to the first part")
            began = time.perf_counter()
            result = TuneStage().run(context)
            seconds = time.perf_counter() - began
        assert {item.status for item in result.cells} == {"complete"}
        work_s = sum(cell.artefact.manifest()["seconds"]["device"] for cell in context.tune_cells())
        slots = context.usages[-1].num_slots
        print(
            f"tune: {len(result.cells)} cells in {seconds:.1f} s on {slots} slots, of which fits "
            f"{work_s:.1f} s: {(seconds - work_s / slots) / len(result.cells):.3f} s for each cell"
        )


if __name__ == "__main__":
    main()
