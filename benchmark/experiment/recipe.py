"""What it takes to repeat a run: its experiment, digests, versions and scores, as one document.

The page of a report embeds it as JSON; the manifest of the scores holds its parts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from benchmark.experiment.context import Context
from benchmark.experiment.file import inputs_of, settings_of
from benchmark.experiment.toml import to_toml
from benchmark.store.names import SCORES_FILE

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
ELEMENT = "benchmark-recipe"
"""Id of the element of a page that holds the recipe."""
METRIC, SPLIT = "balanced_accuracy", "test"
"""What is compared."""
KEY = ("train_set", "backbone", "method", "seed")
"""What tells the scores of one experiment apart."""

_EMBEDDED = re.compile(rf'<script type="application/json" id="{ELEMENT}">(.*?)</script>', re.DOTALL)


def describe_experiment(context: Context) -> dict[str, Any]:
    """Return an experiment as TOML, and the digests of its data and weights.

    The store, trackers and prices are left out: a repetition has its own.
    """
    settings = settings_of(context)
    settings = {key: value for key, value in settings.items() if key not in ("store", "tracking")}
    settings["report"] = {key: item for key, item in settings["report"].items() if key != "prices"}
    return {"toml": to_toml(settings), **inputs_of(context)}


def make_recipe(context: Context) -> dict[str, Any]:
    """Return the recipe of an experiment whose scores are complete."""
    # Read anew: the page has other names for backbones.
    scores = context.scores().read_table(names=[SCORES_FILE]).to_pandas()
    manifest = context.scores().manifest()
    return {
        "recipe": VERSION,
        "name": context.experiment.name,
        "experiment": manifest.get("experiment") or describe_experiment(context),
        "provenance": manifest["provenance"],
        "fingerprint": context.scores().fingerprint,
        "scores": list_scores(scores),
    }


def list_scores(scores: pd.DataFrame) -> list[list[Any]]:
    """Return the scores that are compared: train set, backbone, method, seed and value (or None).

    Args:
        scores: rows of ``tables.SCORES``.
    """
    rows = scores[(scores["metric"] == METRIC) & (scores["split"] == SPLIT)]
    columns = rows[[*KEY, "value"]].astype(object)
    found: list[list[Any]] = columns.where(columns.notna(), None).values.tolist()
    return found


def embed_recipe(page: str, recipe: dict[str, Any]) -> str:
    """Return a page that holds a recipe before the end of its body."""
    # Within a script only the beginning of a tag could end it.
    text = json.dumps(recipe, allow_nan=False).replace("<", "\\u003c")
    element = f'<script type="application/json" id="{ELEMENT}">{text}</script>'
    head, end, tail = page.rpartition("</body>")
    return f"{head}{element}\n{end}{tail}" if end else f"{page}{element}\n"


def extract_recipe(page: str) -> Any:
    """Return the document that a page holds, or None.

    Raises:
        ValueError: it is not JSON.
    """
    found = _EMBEDDED.search(page)
    return json.loads(found[1]) if found else None
