"""Apply a fitted recipe to embeddings: scale, concatenate, shorten and round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.derived import Derivation

State = Mapping[str, "NDArray[np.float64]"]
"""What was fitted on train, by ``Step.key``."""


class Step(NamedTuple):
    """One step of a recipe."""

    name: str
    size: int = 0
    """Dimensions that it leaves; 0: all."""

    def key(self, what: str) -> str:
        """Return the name of one of its arrays."""
        return f"{self.name}.{what}"


def steps_of(derived: Derivation) -> list[Step]:
    """Return the steps in the order in which they are applied, the rounding last."""
    found = [Step(name, size) for name, size in derived.steps]
    return found if derived.dtype == "float32" else [*found, Step(derived.dtype)]


def derive(
    derived: Derivation, state: State, parts: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return embeddings (n, d) made from those of each parent, (n, D).

    Values are those that the packed numbers stand for: int8 codes times their scale, and -1 or 1
    for binary.
    """
    rows = parts_of(derived, state, parts)
    for step in steps_of(derived):
        rows = apply_step(step, state, rows)
    return rows


def parts_of(
    derived: Derivation, state: State, parts: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return the input of the first step, (n, D): one embedding, or all of them scaled."""
    if not derived.is_concat:
        return parts[0]
    scaled = []
    for number, rows in enumerate(parts):
        # In float64: the mean of a dimension may be far larger than its spread.
        wide = rows.astype(np.float64) - state[f"part{number}.mean"]
        scaled.append((wide / state[f"part{number}.scale"]).astype(np.float32))
    return np.concatenate(scaled, axis=1)


def apply_step(step: Step, state: State, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply one step to rows (n, D); the result is float32 (n, ``size`` or D)."""
    if step.name == "pca":
        centred = (rows.astype(np.float64) - state[step.key("mean")]).astype(np.float32)
        return _project(centred, state[step.key("axes")])
    if step.name == "random_projection":
        return _project(rows, state[step.key("axes")])
    if step.name == "truncate":
        return np.ascontiguousarray(rows[:, : step.size])
    if step.name == "float16":
        with np.errstate(over="ignore"):
            return rows.astype(np.float16).astype(np.float32)
    if step.name == "int8":
        low, scale = state[step.key("low")], state[step.key("scale")]
        # A dimension that is constant on train has the scale 0, and keeps that constant.
        codes = np.rint((rows - low) / np.where(scale > 0, scale, np.inf)).clip(0, 255)
        values: NDArray[np.float32] = (low + scale * codes).astype(np.float32)
        return values
    if step.name == "binary":
        threshold = state[step.key("threshold")].astype(np.float32)
        return np.where(rows > threshold, np.float32(1), np.float32(-1))
    raise ValueError(f"unknown step '{step.name}'")


def _project(rows: NDArray[np.float32], axes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the products of rows (n, D) with axes (k, D): (n, k)."""
    found: NDArray[np.float32] = rows @ axes.T.astype(np.float32)
    return found
