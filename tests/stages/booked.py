"""Embeds on a Ray that books a GPU which is not there: python -m tests.stages.booked FOLDER

A process of its own for ``test_embed_booked``, because a process has one Ray. Prints what happened
as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.experiment.context import Context
from benchmark.networks.devices import plan_device
from benchmark.networks.embedder import Embedder
from benchmark.specs import Backbone
from benchmark.stages.embed import EmbedStage
from benchmark.stages.embed.calls import join_parts
from benchmark.stages.patches import PatchesStage
from benchmark.tables import images_array, vectors_array
from perf.toys import Noise, open_noise
from tests import forked_workers
from tests.toys import build_mortal, build_not_finite, toy

SIDE, BATCH = 16, 100
"""A call of 1,024 patches ends with a smaller batch."""


def open_context(folder: Path) -> Context:
    context = open_noise(
        folder / "store",
        9000,
        backbones=["random"],
        heads=["majority"],
        dataset={"name": "synthetic", "root": "noise", "patch_size": SIDE, "per_class": 300},
        embed={"batch_size": BATCH, "precision": "float32"},
    )
    context.__dict__["source"] = Noise(9000, SIDE)
    return context


def embed(context: Context, *backbones: Backbone) -> dict[str, Any]:
    """Return status and reason of each backbone, and what its manifest counts."""
    context.backbones = backbones
    found = {}
    for result in EmbedStage().run(context).cells:
        name = result.cell.backbone
        found[name] = {"status": result.status, "reason": result.reason}
        if result.status == "complete":
            incidents = result.cell.artefact.manifest()["incidents"]
            found[name]["incidents"] = {item["kind"]: item["count"] for item in incidents}
    return found


def alone(context: Context, backbone: Backbone) -> np.ndarray[Any, Any]:
    """Return the embeddings of the device path, call by call."""
    shape = (4, SIDE, SIDE)
    plan = plan_device(device="cpu", precision="float32", batch_size=BATCH)
    embedder = Embedder(backbone, context.source.bands, plan)
    parts = context.patches.manifest()["parts"]
    pixels = [
        images_array(context.patches.read_table(names=[name for name, _ in call])["image"], shape)
        for call in join_parts(parts, 4 * SIDE**2)
    ]
    return np.concatenate([embedder(one)[0] for one in pixels])


def embeddings(context: Context, backbone: Backbone) -> np.ndarray[Any, Any]:
    return vectors_array(context.embeddings(backbone).read_table()["embedding"])


def interrupt(context: Context, backbone: Backbone) -> dict[str, int]:
    """Take the manifest and every third part away; return when the others were written."""
    folder = Path(context.embeddings(backbone).path)
    (folder / "_manifest.json").unlink()
    parts = sorted(folder.glob("part-*"))
    for part in parts[::3]:
        part.unlink()
    return {part.name: part.stat().st_mtime_ns for part in parts if part.exists()}


def main(folder: Path) -> None:
    forked_workers.install()
    calm, broken = toy("calm"), toy("broken", build_not_finite)
    # Dies in its second call, while the first is handed over and the third is loaded.
    mortal = toy("mortal", partial(build_mortal, str(folder / "died"), after=15))
    context = open_context(folder)
    with context.cluster:
        context.cluster.connect(num_cpus=2, num_gpus=1, object_store_memory=200_000_000)
        PatchesStage().run(context)
        found = embed(context, broken, mortal, calm)
        expected = alone(context, calm)
        found["equal"] = {
            item.name: bool(np.array_equal(embeddings(context, item), expected))
            for item in (mortal, calm)
        }
        kept = interrupt(context, calm)
        found["again"] = embed(context, calm)["calm"]["status"]
        path = Path(context.embeddings(calm).path)
        found["kept"] = kept == {name: (path / name).stat().st_mtime_ns for name in kept}
        found["equal"]["again"] = bool(np.array_equal(embeddings(context, calm), expected))
        found["num_parts"] = [len(kept), len(list(path.glob("part-*")))]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
