"""The manifest of the embeddings of a backbone, from the summaries of their parts."""

from __future__ import annotations

import math
from typing import Any

from benchmark.cluster.incidents import Account
from benchmark.cluster.pools import Pool
from benchmark.energy import describe
from benchmark.errors import CellError
from benchmark.experiment.context import Context
from benchmark.networks.fitted import read_facts
from benchmark.stages.embed.counting import Tally
from benchmark.stages.embed.flipped import PartRows, inputs_of
from benchmark.stages.embed.starting import Job, Output
from benchmark.stages.embed.workers import read_part_summary
from benchmark.store import provenance


def manifest_of(
    context: Context,
    job: Job,
    output: Output,
    wanted_parts: PartRows,
    *,
    pool: Pool,
    tally: Tally,
    account: Account,
) -> dict[str, Any]:
    """Return the manifest of one of the embeddings of a job.

    Args:
        context: of the run.
        job: whose parts are all written.
        output: one of those of the job.
        wanted_parts: the parts of ``patches`` that were embedded.
        pool: of the actors.
        tally: of the job in this run.
        account: of the job; the tolls of the parts are added once, with its first output.

    Raises:
        CellError: embeddings are missing, or all the same.
    """
    backbone, artefact = output.backbone, output.artefact
    parts = [read_part_summary(artefact, part["name"]) for part in wanted_parts]
    num_patches = sum(part["num_rows"] for part in parts)
    wanted = sum(part["num_rows"] for part in wanted_parts)
    if num_patches != wanted:
        raise CellError(
            f"{artefact.uri} has {num_patches} of {wanted} embeddings: delete it and run again"
        )
    if num_patches > 1 and len({row for part in parts for row in part["distinct"]}) == 1:
        raise CellError(
            f"backbone '{backbone.name}': all {num_patches} embeddings are the same; "
            "check its weights and normalisation"
        )
    values = sum(part["input"]["count"] for part in parts)
    wall_s = max(0.0, tally.last - tally.first)
    # A fit is counted once, with the plain patches.
    is_fitted = backbone.fit is not None and job.flipped is None
    fitted = read_facts(artefact) if is_fitted else None
    # The fit is part of the cost, but runs on cores, which count only without a GPU.
    is_on_cores = parts[0]["device"]["device"] == "cpu"
    fit_s = fitted["seconds"] * fitted["num_threads"] if fitted and is_on_cores else 0.0
    fit_j = fitted.get("joules", math.nan) if fitted and is_on_cores else 0.0
    # Parts of older versions do not say what they took.
    joules = sum(part.get("joules", math.nan) + part.get("setup_j", math.nan) for part in parts)
    on_gpu = [part.get("peak_device_bytes", 0) for part in parts]
    setup_s = sum(part["setup_s"] for part in parts)
    for part in parts if artefact == job.artefact else ():
        # Stored with the part, so it survives the loss of the driver of the run that wrote it.
        account.add_toll(part.get("toll", {}))
    return {
        "inputs": inputs_of(context, backbone, job.flipped),
        "backbone": backbone.model,
        "num_patches": num_patches,
        "dim": parts[0]["dim"],
        "input": {
            "min": min(part["input"]["min"] for part in parts),
            "mean": sum(p["input"]["mean"] * p["input"]["count"] for p in parts) / values,
            "max": max(part["input"]["max"] for part in parts),
        },
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in parts),
        **({"peak_device_bytes": max(on_gpu)} if max(on_gpu) else {}),
        "energy": describe(fit_j + joules, on_gpu=not is_on_cores),
        "storage_bytes": sum(part["num_rows"] * part["dim"] * 4 for part in parts),
        # From a part: this run may have computed none.
        "device": parts[0]["device"],
        **({"fitted": fitted} if fitted else {}),
        "pool": {"num_actors": pool.num_actors, "reason": pool.reason},
        "seconds": {
            "device": round(fit_s + setup_s + sum(part["seconds"] for part in parts), 3),
            "setup": round(setup_s, 3),
            "this_run": round(wall_s, 3),
            "patches_per_s": round(tally.num_patches / wall_s, 1) if wall_s else None,
        },
        # Each has the seconds of the whole pass, which it would take alone.
        **({"variants_in_pass": len(job.outputs)} if len(job.outputs) > 1 else {}),
        "plan": artefact.begin({}),
        "incidents": account.to_json(),
        "provenance": provenance.record(),
    }
