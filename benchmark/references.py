"""Published results that the page shows beside those of a run, and their checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from benchmark.fields import BackboneName, FiniteFloat, Name, Names, Title, refuse_duplicates
from benchmark.section import Section

ROUNDING = 0.005
"""Largest difference of a published score from its confusion matrix: that of whole percents."""

Row = Annotated[
    tuple[Annotated[int, Field(ge=0, le=1_000_000_000)], ...], Field(min_length=2, max_length=1000)
]
Matrix = Annotated[tuple[Row, ...], Field(min_length=2, max_length=1000)]


class PublishedRow(Section):
    """``[[rows]]``: one published score.

    ``backbone`` and ``method`` name its counterpart in a run, as an experiment does.
    """

    name: Name
    value: Annotated[FiniteFloat, Field(ge=0.0, le=1.0)]
    backbone: BackboneName | None = None
    method: Name | None = None
    confusion: Matrix | None = None
    """Counts (K, K) on test: rows true, columns predicted."""

    @field_validator("confusion", mode="before")
    @classmethod
    def _rows_become_tuples(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple(tuple(row) if isinstance(row, list) else row for row in value)
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> PublishedRow:
        if (self.backbone is None) != (self.method is None):
            raise ValueError("name 'backbone' and 'method', or neither")
        if self.confusion is not None:
            if any(len(row) != len(self.confusion) for row in self.confusion):
                raise ValueError("the confusion matrix is not square")
            found = balanced_accuracy(self.confusion)
            if abs(found - self.value) > ROUNDING + 1e-9:
                raise ValueError(
                    f"the balanced accuracy of its confusion matrix is {found:.4f}, and 'value' is "
                    f"{self.value:.4f}; rows are true classes, columns predicted ones"
                )
        return self


class Reference(Section):
    """Published results on one data set, with their source."""

    name: Annotated[str, Field(max_length=200)] = ""
    """In the catalog; empty: it is a file of the user's."""
    title: Title
    source: Title
    """Where it was published, and what it was tested on."""
    dataset: Name | None = None
    """Name of the data set in an experiment; None: the page does not compare it."""
    classes: Names = ()
    """Names of the K classes of the confusion matrices."""
    metric: Literal["balanced_accuracy"] = "balanced_accuracy"
    """That of the page's ranking is the only one that a run can be put beside."""
    notes: Annotated[tuple[Title, ...], Field(max_length=100)] = ()
    rows: Annotated[tuple[PublishedRow, ...], Field(min_length=1, max_length=200)]

    _classes_differ = field_validator("classes")(refuse_duplicates)

    @model_validator(mode="after")
    def _rows_fit(self) -> Reference:
        refuse_duplicates(tuple(row.name for row in self.rows))
        refuse_duplicates(
            tuple((row.backbone, row.method) for row in self.rows if row.backbone is not None)
        )
        for row in self.rows:
            if row.confusion is not None and len(row.confusion) != len(self.classes):
                raise ValueError(
                    f"the confusion matrix of '{row.name}' has {len(row.confusion)} classes, and "
                    f"'classes' names {len(self.classes)}"
                )
        return self


def balanced_accuracy(counts: Matrix) -> float:
    """Return the mean recall over the classes with patches; 0 without any patch."""
    recalls = [row[k] / sum(row) for k, row in enumerate(counts) if sum(row)]
    return sum(recalls) / max(len(recalls), 1)
