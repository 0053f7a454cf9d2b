"""The names of an artefact's files, today and in older stores.

Readers of Parquet folders skip what begins with an underscore. So the top of an artefact's folder
shows one table; documents and models begin with an underscore, and other tables lie in ``_tables``.
Stores before version 0.2 had all files at the top, without underscores.
"""

from __future__ import annotations

import re

MANIFEST = "_manifest.json"
FAILURE = "_failure.json"
PLAN = "_plan.json"
TABLES = "_tables/"
"""The sub-folder of tables that are not the folder's own."""
HEAD = "_head.skops"
"""The fitted head of a cell of ``tune``."""
WEIGHTS = "_model.safetensors"
"""The best weights of a fine-tuning."""
FITTED = "_fitted.safetensors"
"""The state of a backbone that was fitted on train, beside its embeddings."""
SCORES_FILE = "scores.parquet"
"""The table of a folder of ``evaluate``; the same as text lies beside it."""
SCORES_CSV = "_scores.csv"
PARTS = ("part-", f"{TABLES}candidates-", "candidates-")
"""How the names of tables begin that are computed one by one."""

_OLDER_DOCUMENT = re.compile(
    r"(manifest|plan|failure)\.json|head\.skops|(model|fitted)\.safetensors|scores\.csv"
)
_OLDER_TABLE = re.compile(
    r"(trials|curve|candidates-\d+|confusion|calibration|ranking|comparison)\.parquet"
)
_OWN = re.compile(
    r"_?(manifest|failure|plan)\.json|_?head\.skops|_?(model|fitted)\.safetensors|_?scores\.csv"
    r"|(_tables/)?[a-z]+(-\d+)?\.parquet|index\.html|figure-\d+-[a-z0-9-]*\.(png|svg|webp)"
    r"|(trial|refit|segment)-[a-z0-9-]+\.(json|safetensors)|micro-batch\.json"
)
"""Every file of an artefact, complete or not, in all versions."""


def is_own(name: str) -> bool:
    """Return whether a file in an artefact's folder can be the artefact's, or somebody else's."""
    return bool(_OWN.fullmatch(name))


def beside(table: str) -> str:
    """Return the name of a table that is not its folder's own, e.g. ``trials``."""
    return f"{TABLES}{table}.parquet"


def older_name(name: str) -> str:
    """Return the name that a file had in older stores, e.g. ``plan.json`` for ``_plan.json``."""
    return name.removeprefix(TABLES).removeprefix("_")


def current_name(name: str) -> str:
    """Return today's name of a file that may have an older one."""
    if _OLDER_DOCUMENT.fullmatch(name):
        return f"_{name}"
    return f"{TABLES}{name}" if _OLDER_TABLE.fullmatch(name) else name
