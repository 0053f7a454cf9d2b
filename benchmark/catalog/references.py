"""Published results by name, and those of a user's own file.

To add one, append a ``Reference`` to REFERENCES.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.errors import UsageError, did_you_mean
from benchmark.fields import shown
from benchmark.methods import finetunings
from benchmark.references import PublishedRow, Reference
from benchmark.registry import Registry
from benchmark.small_files import read_section

if TYPE_CHECKING:
    from benchmark.config import Experiment

SEPARATOR = " / "
"""Between backbone and method, as in the label of a cell."""

_BEIT = "hf:microsoft/beit-base-patch16-224-pt22k-ft22k"
_CONVNEXT = "hf:facebook/convnext-base-224-22k"

CHESAPEAKE_STUDY = Reference(
    name="chesapeake_study",
    title="The study that began this project",
    source=(
        "BEiT-base and ConvNeXt-base on Chesapeake land cover, tested on Pennsylvania (2,586 "
        "patches of 128 px). Of its results only the scores and the confusion matrices are known."
    ),
    dataset="chesapeake",
    classes=("water", "tree_canopy", "low_vegetation", "barren", "impervious"),
    notes=(
        "It also reported hand-crafted features with the same heads, without matrices: principal "
        "components of the pixels (about 3,000) and histograms of oriented gradients were 35 and "
        "50 points below learned features. Their counterparts here are pca_3000 and hog.",
    ),
    rows=(
        PublishedRow(
            name="BEiT-base, frozen + MLP",
            value=0.796,
            backbone=_BEIT,
            method="mlp",
            confusion=(
                (64, 0, 2, 0, 0),
                (1, 1987, 3, 1, 0),
                (1, 3, 457, 0, 0),
                (2, 0, 14, 5, 3),
                (0, 0, 6, 2, 35),
            ),
        ),
        PublishedRow(
            name="ConvNeXt-base, frozen + MLP",
            value=0.781,
            backbone=_CONVNEXT,
            method="mlp",
            confusion=(
                (62, 0, 4, 0, 0),
                (2, 1982, 6, 2, 0),
                (1, 3, 457, 0, 0),
                (1, 1, 17, 4, 1),
                (0, 0, 8, 0, 35),
            ),
        ),
        PublishedRow(
            name="BEiT-base, fine-tuned",
            value=0.829,
            backbone=_BEIT,
            method="finetune",
            confusion=(
                (64, 0, 2, 0, 0),
                (0, 1986, 5, 1, 0),
                (2, 3, 455, 0, 1),
                (0, 0, 13, 9, 2),
                (1, 0, 6, 1, 35),
            ),
        ),
        PublishedRow(
            name="ConvNeXt-base, fine-tuned",
            value=0.844,
            backbone=_CONVNEXT,
            method="finetune",
            confusion=(
                (65, 0, 1, 0, 0),
                (0, 1978, 12, 2, 0),
                (1, 2, 457, 0, 1),
                (0, 0, 13, 11, 0),
                (0, 0, 7, 2, 34),
            ),
        ),
    ),
)

REFERENCES = Registry[Reference]("reference", [CHESAPEAKE_STUDY])


def resolve_reference(experiment: Experiment, *, where: str = "") -> Reference | None:
    """Return the published results that an experiment's page shows; None: it asks for none.

    Raises:
        UsageError: the name is unknown, the file is wrong, or a counterpart is none.
    """
    config = experiment.report
    if config.reference is None:
        if config.counterparts:
            raise UsageError(f"{where}: 'counterparts' needs 'reference'; set it, or remove both")
        return None
    if config.reference.endswith(".toml"):
        found = read_reference(config.reference, where=where)
    else:
        found = REFERENCES.get(config.reference, where=where)
    names = [row.name for row in found.rows]
    for name, cell in config.counterparts.items():
        place = f"{where}: counterparts {shown(name, 100)}"
        if name not in names:
            raise UsageError(
                f"{place}: no row of the reference has this name.{did_you_mean(name, names)}"
            )
        _check_cell(experiment, cell, where=place)
    return found


def read_reference(path: str, *, where: str = "") -> Reference:
    """Return the published results of a TOML file of at most 1 MiB.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    return read_section(Reference, path, where=f"{where}: reference".removeprefix(": "))


def split_cell(text: str) -> tuple[str, str]:
    """Return backbone and method of ``BACKBONE / METHOD``; both empty: it is none."""
    backbone, _, method = text.rpartition(SEPARATOR)
    return (backbone, method) if backbone else ("", "")


def _check_cell(experiment: Experiment, cell: str, *, where: str) -> None:
    backbone, method = split_cell(cell)
    if not backbone:
        raise UsageError(f"{where} = {shown(cell, 200)}: write BACKBONE{SEPARATOR}METHOD")
    methods = (*experiment.heads, *finetunings(experiment.finetune))
    for kind, name, known in (
        ("backbone", backbone, experiment.backbones),
        ("method", method, methods),
    ):
        if name not in known:
            raise UsageError(
                f"{where} = {shown(cell, 200)}: {kind} {shown(name, 100)} is not in the "
                f"experiment.{did_you_mean(name, known)}"
            )
