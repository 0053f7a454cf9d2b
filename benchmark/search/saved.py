"""Load a fitted head from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.arguments import path_text
from benchmark.errors import UsageError, one_line

HEAD = "head.skops"
"""Name of the file in an exported folder, and in stores before version 0.2."""
IN_STORE = f"_{HEAD}"

TRUSTED_TYPES = frozenset({"sklearn.neural_network._stochastic_optimizers.AdamOptimizer"})
"""Types in a saved MLP that skops does not trust by default."""


def load_head(artefact: str | Path) -> Any:
    """Load the fitted head of a cell: a scikit-learn pipeline with ``predict_proba``.

    Args:
        artefact: the cell's folder on a local disk, as printed by ``benchmark status``.

    Raises:
        UsageError: the head is missing, damaged or contains a type that is not trusted.
    """
    import zipfile

    from benchmark.search.lean import torch_kept_away

    with torch_kept_away():
        import skops.io

    folder = Path(path_text("load_head: artefact", artefact))
    paths = [folder / name for name in (IN_STORE, HEAD)]
    path = next((path for path in paths if path.is_file()), paths[0])
    if not path.is_file():
        raise UsageError(f"{path}: no such head; give a folder that `benchmark status` prints")
    try:
        untrusted = skops.io.get_untrusted_types(file=path)
        foreign = [name for name in untrusted if name not in TRUSTED_TYPES]
        if foreign:
            raise UsageError(f"{path}: contains types that are not trusted: {', '.join(foreign)}")
        return skops.io.load(path, trusted=untrusted)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a saved head, or damaged: {one_line(error)}") from None
