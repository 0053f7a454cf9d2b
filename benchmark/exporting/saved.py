"""Load a fitted head from its file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.arguments import path_text
from benchmark.catalog.own.trust import foreign_types
from benchmark.errors import UsageError, one_line

HEAD = "head.skops"
"""Name of the file in an exported folder, and in stores before version 0.2."""
IN_STORE = f"_{HEAD}"


def load_head(artefact: str | Path, *, trusted: Iterable[str] = ()) -> Any:
    """Load the fitted head of a cell: a scikit-learn classifier with ``predict_proba``.

    The file is data of types that are trusted: those of skops and scikit-learn, and classes of own
    code that this process has loaded because an experiment names it.

    Args:
        artefact: the cell's folder on a local disk, as printed by ``benchmark status``.
        trusted: further packages whose classes may be built, or names like
            ``mypackage.heads:Forest``.

    Raises:
        UsageError: the head is missing, damaged or contains a type that is not trusted.

    Example:
        >>> head = bm.load_head(bm.scores(exp)["artefact"].iloc[0])
        >>> head.n_features_in_
        8
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
        foreign = foreign_types(untrusted, trusted)
        if foreign:
            tops = sorted({name.partition(".")[0] for name in foreign})
            raise UsageError(
                f"{path}: contains types that are not trusted: {', '.join(foreign)}; if you trust "
                f"the file's author: bm.load_head(folder, trusted={tops})"
            )
        return skops.io.load(path, trusted=untrusted)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a saved head, or damaged: {one_line(error)}") from None
