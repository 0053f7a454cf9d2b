"""The two passes over a source: find candidates, then read the chosen ones.

Labels decide which windows are candidates, the draw chooses some, and only their pixels are read.
One task handles some units or a group of parts; results do not depend on how many run in parallel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmark.cluster.incidents import Account
from benchmark.config import DatasetConfig
from benchmark.errors import CellError, one_line
from benchmark.experiment.context import Context
from benchmark.experiment.usage import StageUsage
from benchmark.specs import Problem
from benchmark.stages.patches.finding import find_candidates
from benchmark.stages.patches.ground import ground_notes
from benchmark.stages.patches.reading import split_parts, write_parts
from benchmark.stages.patches.remarks import remark_notes
from benchmark.stages.patches.sampling import (
    check_splits,
    choose,
    count_classes,
    sampling_notes,
)
from benchmark.store import provenance
from benchmark.store.artefacts import Artefact


def compute(context: Context, artefact: Artefact) -> None:
    """Write and commit the table ``patches``.

    Raises:
        CellError: a file could not be read and ``on_error`` is ``fail``.
        UsageError: the splits are not valid.
    """
    began, began_s = time.monotonic(), time.time()
    source, config = context.source, context.experiment.dataset
    artefact.begin({"inputs": context.patches_inputs})
    num_slots = max(1, int(context.cluster.connect().num_cpus))
    account = Account(artefact, context.leases)
    units = list(source.units())
    with _shown(context, "find", num_items=None, unit=context.dataset.unit) as advance:
        found = find_candidates(source, units, artefact, advance, account, num_slots=num_slots)
        problems = list(found.problems)
        _report_problems(problems, config, context)
    searched = time.monotonic()
    num_candidates, remarks = found.candidates.num_rows, list(found.remarks)
    said = [
        *sampling_notes(found.candidates, config, source.classes),
        *ground_notes(found.candidates),
    ]
    chosen = choose(found.candidates, config, source.classes)
    check_splits(chosen, source.classes, where=context.experiment.path)
    parts = split_parts(chosen, num_bands=len(source.bands), config=config)
    num_chosen, num_examined = chosen.num_rows, found.num_examined
    # Of a million patches, each of these tables takes hundreds of MiB.
    del found, chosen
    with _shown(context, "read", num_items=num_chosen, unit="patches") as advance:
        read = write_parts(source, parts, artefact, config, advance, account)
        del parts
        problems += read.problems
        _report_problems(read.problems, config, context)
    written = artefact.read_table(columns=["split", "label", "scene", "region"])
    notes = [
        *source.notes,
        *check_splits(written, source.classes, context.experiment.path),
        *remark_notes([*remarks, *read.remarks]),
        *said,
    ]
    ended = time.monotonic()
    artefact.commit(
        {
            "inputs": context.patches_inputs,
            "num_patches": written.num_rows,
            "num_examined": num_examined,
            "unit": context.dataset.unit,
            "num_candidates": num_candidates,
            "classes": list(source.classes),
            "bands": list(source.bands),
            "patch_size": config.patch_size,
            "is_synthetic": source.is_synthetic,
            "dataset_digest": context.dataset_digest,
            "parts": read.parts,
            "class_counts": count_classes(written, source.classes),
            "notes": notes,
            "problems": [problem._asdict() for problem in problems],
            "incidents": account.to_json(),
            "seconds": {
                "find": round(searched - began, 3),
                "read": round(ended - searched, 3),
                "total": round(ended - began, 3),
            },
            "provenance": provenance.record(),
        },
        checksums=read.checksums,
    )
    context.usages.append(
        StageUsage(
            stage="patches",
            began_s=began_s,
            ended_s=time.time(),
            busy_s=None,
            num_slots=num_slots,
            num_cells=1,
            num_items=written.num_rows,
            unit="patches",
        )
    )


@contextmanager
def _shown(
    context: Context, step: str, *, num_items: int | None, unit: str
) -> Iterator[Callable[[int], None]]:
    """Show the progress of one pass; yield the function that counts its items."""
    progress = context.progress.stage(
        f"patches/{step}", num_cells=1, num_items=num_items, unit=unit
    )
    cell = context.dataset.name
    progress.start(cell)
    try:
        yield progress.advance
        progress.done(cell)
    except BaseException as error:
        progress.failed(cell, one_line(error))
        raise
    finally:
        progress.close()


def _report_problems(problems: Sequence[Problem], config: DatasetConfig, context: Context) -> None:
    if not problems:
        return
    first = problems[0]
    text = f"unreadable files: {len(problems)}, first {first.path}: {first.reason}"
    if config.on_error == "fail":
        raise CellError(f'{text}. Repair them, or set [dataset] on_error = "skip"')
    for problem in problems:
        context.progress.message(f"skipped {problem.path}: {problem.reason}")
