"""Repeat a run from its page or manifest: read the recipe, name what differs, compare scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.comparing.runs import STAGE, FinishedRun, find_run
from benchmark.config import Experiment, build
from benchmark.errors import UsageError, one_line
from benchmark.experiment.cells import TextTable
from benchmark.experiment.context import CODE_VERSIONS, Context
from benchmark.experiment.file import inputs_of
from benchmark.experiment.recipe import KEY, VERSION, extract_recipe, list_scores
from benchmark.fields import parse_toml, shown
from benchmark.regular import read_regular
from benchmark.store.artefacts import Store
from benchmark.store.names import MANIFEST, current_name
from benchmark.store.provenance import code_revision, library_versions

MOST_BYTES = 256 * 2**20
"""Of a page or manifest."""
TOLERANCE = 1e-9
"""Scores that differ by less are equal: sums of floats in another order."""
DECIDING = ("data", "weights")
"""Kinds of changes with which the scores cannot be expected to be equal."""
MARK = "_reproduce.json"
"""File of a store that says which run is repeated there."""


class Recipe(NamedTuple):
    """What it takes to repeat a run.

    Attributes:
        source: the page or manifest.
        name: of the experiment.
        toml: its settings.
        inputs: digests of data and weights.
        provenance: versions and code.
        fingerprint: of the scores.
        scores: rows of ``KEY`` and the value.
    """

    source: str
    name: str
    toml: str
    inputs: Mapping[str, Any]
    provenance: Mapping[str, Any]
    fingerprint: str
    scores: Sequence[Sequence[Any]]


class Change(NamedTuple):
    """A difference between a run and its repetition, before anything is computed."""

    kind: str
    """``data``, ``weights``, ``version`` or ``code``."""
    what: str
    was: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.what}: {self.was or 'unknown'} then, {self.now or 'missing'} now"


@dataclass(frozen=True, repr=False)
class Reproduction:
    """A repeated run against the original; a notebook shows its scores."""

    content: dict[str, Any]
    """The document that ``benchmark reproduce --json`` prints (docs/RESULTS.md)."""

    @property
    def is_reproduced(self) -> bool:
        """Whether the run was repeated, and every score is equal."""
        return bool(self.content["reproduced"])

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        cells, changes = self.content["cells"], self.content["changes"]
        if self.is_reproduced:
            return f"reproduced: all {len(cells)} scores are equal"
        if self.content["has_run"]:
            return f"not reproduced: {len(cells) - self.content['num_equal']} scores differ"
        if any(change["kind"] in DECIDING for change in changes):
            return "not run: data or weights differ; --anyway runs nevertheless"
        return "not reproduced: the run has no scores"

    def __repr__(self) -> str:
        found = "equal scores" if self.is_reproduced else "not reproduced"
        return f"<Reproduction of {self.content['experiment']}: {found}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def table(self) -> TextTable:
        """Return the scores that differ as a table to print, or all if none does."""
        cells = self.content["cells"]
        differing = [cell for cell in cells if not cell["is_equal"]]
        return TextTable(
            title=f"Balanced accuracy on test, {len(differing)} of {len(cells)} scores differ",
            columns=("train set", "backbone", "method", "seed", "then", "now", ""),
            rows=[
                (
                    *(str(cell[name]) for name in KEY),
                    *("-" if cell[at] is None else f"{cell[at]:.6f}" for at in ("was", "now")),
                    "equal" if cell["is_equal"] else "differs",
                )
                for cell in differing or cells
            ],
        )


def read_recipe(source: str) -> Recipe:
    """Return the recipe in a page of a report, or of a manifest of scores.

    Raises:
        UsageError: the file cannot be read, or holds no recipe.
        CellError: the scores beside a manifest are damaged, or of another version.
    """
    path = Path(source)
    try:
        text = read_regular(path, most_bytes=MOST_BYTES).decode()
    except (OSError, ValueError) as error:
        raise UsageError(f"reproduce: {shown(source, 200)}: {one_line(error)}") from None
    if path.suffix == ".json":
        return _from_manifest(path)
    try:
        content = extract_recipe(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"reproduce: '{source}': its recipe is no JSON: {error}") from None
    if content is None:
        raise UsageError(
            f"reproduce: '{source}' holds no recipe: it is no page of `benchmark report`, or one "
            "of an earlier version; write it again, or give the manifest of the scores "
            f"(STORE/{STAGE}/NAME-FINGERPRINT/{MANIFEST})"
        )
    version = content.get("recipe") if isinstance(content, dict) else None
    if version != VERSION:
        raise UsageError(
            f"reproduce: '{source}': its recipe has version {shown(version, 20)}, this program "
            f"reads {VERSION}"
        )
    return _build(source, content, content.get("experiment"), content.get("scores"))


def _from_manifest(path: Path) -> Recipe:
    folder = path.absolute().parent
    if current_name(path.name) != MANIFEST or folder.parent.name != STAGE:
        raise UsageError(
            f"reproduce: '{path}' is no manifest of scores; give "
            f"STORE/{STAGE}/NAME-FINGERPRINT/{MANIFEST}, or the page of a report"
        )
    run = find_run(str(folder))
    content = {
        "name": run.name,
        "fingerprint": run.artefact.fingerprint,
        "provenance": run.manifest.get("provenance"),
    }
    experiment = run.manifest.get("experiment")
    if experiment is None:
        raise UsageError(
            f"reproduce: '{path}' was written by an earlier version, without the experiment; run "
            "the kept experiment of its store (STORE/experiments) with --store, and compare both "
            "stores with `benchmark compare`"
        )
    return _build(str(path), content, experiment, list_scores(run.scores.to_pandas()))


def _build(source: str, content: Mapping[str, Any], experiment: Any, scores: Any) -> Recipe:
    try:
        recipe = Recipe(
            source=source,
            name=str(content["name"]),
            toml=experiment["toml"],
            inputs={key: experiment[key] for key in ("dataset_digest", "weights")},
            provenance=dict(content["provenance"]),
            fingerprint=str(content["fingerprint"]),
            scores=[[*map(str, row[:3]), int(row[3]), row[4]] for row in scores],
        )
        dict(recipe.inputs["weights"])
        dict(recipe.provenance.get("versions") or {})
        if not isinstance(recipe.toml, str) or not recipe.scores:
            raise ValueError("it has no experiment or no scores")
        for row in recipe.scores:
            None if row[4] is None else float(row[4])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(
            f"reproduce: '{source}': its recipe is damaged: {one_line(error)}"
        ) from None
    return recipe


def rebuild(recipe: Recipe, *, root: str | None = None) -> Experiment:
    """Return the experiment of a recipe.

    Args:
        recipe: of the run.
        root: folder of the data, if they have moved.

    Raises:
        UsageError: a setting is unknown to this version.
    """
    content = parse_toml(recipe.toml, where=recipe.source)
    if root is not None:
        content["dataset"] = {**content.get("dataset", {}), "root": root}
    return build(content, where=recipe.source)


def find_changes(recipe: Recipe, context: Context) -> list[Change]:
    """Return what differs between a run and this machine: data and weights first.

    Raises:
        UsageError: the data are missing.
    """
    here = inputs_of(context)
    changes = []
    if here["dataset_digest"] != recipe.inputs["dataset_digest"]:
        dataset = context.experiment.dataset
        changes.append(
            Change(
                "data",
                f"the data '{context.dataset.name}' in {shown(dataset.root, 200)} (digest)",
                recipe.inputs["dataset_digest"],
                here["dataset_digest"],
            )
        )
    changes += _differences("weights", "weights of ", recipe.inputs["weights"], here["weights"])
    versions = recipe.provenance.get("versions") or {}
    changes += _differences("version", "", versions, library_versions())
    code = recipe.provenance.get("code")
    if code != code_revision():
        changes.append(Change("code", "git commit of the benchmark", code, code_revision()))
    return changes


def _differences(
    kind: str, prefix: str, was: Mapping[str, Any], now: Mapping[str, Any]
) -> list[Change]:
    return [
        Change(kind, f"{prefix}{name}", was.get(name), now.get(name))
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def claim(store: Store, recipe: Recipe) -> None:
    """Mark a fresh store as that of a repetition, which may be interrupted and go on.

    Raises:
        UsageError: it holds another run, or cannot be written.
    """
    mark = {"fingerprint": recipe.fingerprint, "name": recipe.name}
    store.check_writable()
    try:
        if json.loads(store.read(MARK)) == mark:
            return
    except (FileNotFoundError, ValueError):
        pass
    if any(store.artefacts(stage) for stage in CODE_VERSIONS):
        raise UsageError(
            f"reproduce: the store '{store.uri}' is not fresh: what it holds would be taken for "
            "computed; give a new folder with --store"
        )
    store.write(MARK, f"{json.dumps(mark)}\n".encode())


def conclude(
    recipe: Recipe,
    changes: Sequence[Change],
    run: FinishedRun | None,
    *,
    store: str,
    tolerance: float = TOLERANCE,
) -> Reproduction:
    """Return a repetition with the original.

    Args:
        recipe: of the original.
        changes: from ``find_changes``.
        run: the repetition; None: it was not run, or has no scores.
        store: of the repetition.
        tolerance: largest difference of equal scores.
    """
    was = {tuple(row[:4]): row[4] for row in recipe.scores}
    rows = [] if run is None else list_scores(run.scores.to_pandas())
    now = {(*row[:3], int(row[3])): row[4] for row in rows}
    cells = []
    # A repetition that was not run has no score to compare.
    for key in dict.fromkeys((*was, *now)) if run is not None else ():
        before, after = was.get(key), now.get(key)
        is_equal = key in was and key in now and before == after
        if before is not None and after is not None:
            is_equal = abs(after - before) <= tolerance
        cells.append(
            {
                **dict(zip(KEY, key, strict=True)),
                "was": before,
                "now": after,
                "is_equal": is_equal,
            }
        )
    return Reproduction(
        {
            "source": recipe.source,
            "experiment": recipe.name,
            "store": store,
            "changes": [change._asdict() for change in changes],
            "differences": [str(change) for change in changes],
            "has_run": run is not None,
            "same_fingerprint": run is not None and run.artefact.fingerprint == recipe.fingerprint,
            "tolerance": tolerance,
            "cells": cells,
            "num_equal": sum(cell["is_equal"] for cell in cells),
            "reproduced": bool(cells) and all(cell["is_equal"] for cell in cells),
        }
    )
