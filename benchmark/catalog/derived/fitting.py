"""Fit the steps of a recipe on the embeddings of train, block by block.

No step holds more than a block and its own statistics: means and covariances are updated by the
formulas of Chan, Golub and LeVeque (1983, "Algorithms for Computing the Sample Variance"), in
float64, which subtract no large sums from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmark.catalog.derived.applying import State, Step, apply_step, parts_of, steps_of
from benchmark.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.derived import Derivation

MAX_COVARIANCE = 4096
"""Dimensions up to which the covariance is held (134 MB); beyond, ``networks/principal.py`` fits
components from passes over the rows."""
RANK_TOLERANCE = 1e-10
"""Variance, relative to that of the first component, below which it is rounding of float32."""

Blocks = Callable[[], Iterator[Sequence["NDArray[np.float32]"]]]
"""Opens a pass over the rows of train: blocks (n, D) of each parent; n varies."""


class Learned(NamedTuple):
    """What was fitted on train."""

    state: State
    facts: dict[str, Any]
    """For the manifest, as JSON."""


class Covariance:
    """Mean (D,) and sum of squares around it (D, D) of rows that arrive in blocks."""

    def __init__(self, dim: int) -> None:
        """Begin without rows."""
        self.count = 0
        self.mean = np.zeros(dim)
        self.squares = np.zeros((dim, dim))

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add rows (n, D)."""
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        wide -= mean
        moved, total = mean - self.mean, self.count + len(rows)
        self.squares += wide.T @ wide
        self.squares += np.outer(moved, moved * (self.count * len(rows) / total))
        self.mean += moved * (len(rows) / total)
        self.count = total


class Extremes:
    """Mean, minimum and maximum (D,) of rows that arrive in blocks."""

    def __init__(self, dim: int) -> None:
        """Begin without rows."""
        self.count = 0
        self.mean = np.zeros(dim)
        self.low = np.full(dim, np.inf, np.float32)
        self.high = np.full(dim, -np.inf, np.float32)

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add rows (n, D)."""
        self.count += len(rows)
        self.mean += (rows.mean(axis=0, dtype=np.float64) - self.mean) * (len(rows) / self.count)
        np.minimum(self.low, rows.min(axis=0), out=self.low)
        np.maximum(self.high, rows.max(axis=0), out=self.high)


def fit_recipe(
    derived: Derivation, dims: Sequence[int], blocks: Blocks, *, num_train: int, seed: int
) -> Learned:
    """Fit the steps of a recipe, each on the output of those before it.

    Args:
        derived: the recipe.
        dims: length of the embeddings of each parent.
        blocks: opens a pass over train.
        num_train: number of its rows.
        seed: of random projections.

    Raises:
        UsageError: the embeddings of train are too few or do not differ; names no place.
    """
    state: dict[str, NDArray[np.float64]] = {}
    facts: dict[str, Any] = {"num_train": num_train}
    dim = sum(dims)
    if derived.is_concat:
        facts["num_constant"] = _fit_scales(state, dims, blocks)
    for number, step in enumerate(steps_of(derived)):
        done = steps_of(derived)[:number]
        rows = _Output(derived, state, done, blocks)
        if step.name == "pca":
            _check_components(step.size, dim, num_train)
            facts["explained_variance"] = _fit_components(state, step, rows, dim, num_train)
        elif step.name == "random_projection":
            state[step.key("axes")] = _draw_projection(dim, step.size, seed)
        elif step.name in ("int8", "binary"):
            facts["num_constant"] = _fit_codes(state, step, rows, dim)
        dim = step.size or dim
    return Learned(state, facts)


class _Output:
    """The rows of train after some steps; each call is a pass."""

    def __init__(
        self, derived: Derivation, state: State, steps: Sequence[Step], blocks: Blocks
    ) -> None:
        self._derived, self._state, self._steps, self._blocks = derived, state, steps, blocks

    def __call__(self) -> Iterator[NDArray[np.float32]]:
        for parts in self._blocks():
            rows = parts_of(self._derived, self._state, parts)
            for step in self._steps:
                rows = apply_step(step, self._state, rows)
            yield rows


def _fit_scales(state: dict[str, NDArray[np.float64]], dims: Sequence[int], blocks: Blocks) -> int:
    """Fit mean and scale of each part; return how many dimensions are constant on train.

    These are centred, and keep their scale.
    """
    from sklearn.preprocessing import StandardScaler

    scalers = [StandardScaler() for _ in dims]
    for parts in blocks():
        for scaler, rows in zip(scalers, parts, strict=True):
            scaler.partial_fit(rows.astype(np.float64))
    num_constant = 0
    for number, scaler in enumerate(scalers):
        state[f"part{number}.mean"] = scaler.mean_
        state[f"part{number}.scale"] = scaler.scale_
        num_constant += int((scaler.scale_ != np.sqrt(scaler.var_)).sum())
    return num_constant


def _check_components(size: int, dim: int, num_train: int) -> None:
    """Refuse more components than the embedding or the train set can have."""
    if size > dim:
        raise UsageError(
            f"'pca' = {size} is wider than the embedding, which has {dim:,} dimensions; set at "
            f"most {dim}"
        )
    check_train(size, num_train)


def check_train(size: int, num_train: int) -> None:
    """Refuse more components than train has independent rows.

    Raises:
        UsageError: names the setting, and the most that can be set.
    """
    if size > num_train - 1:
        most = f"set at most {num_train - 1}" if num_train > 1 else "remove it"
        raise UsageError(
            f"'pca' = {size} is wider than the train set, whose {num_train:,} patches span at most "
            f"{max(0, num_train - 1):,} components; {most}"
        )


def _fit_components(
    state: dict[str, NDArray[np.float64]],
    step: Step,
    rows: Callable[[], Iterator[NDArray[np.float32]]],
    dim: int,
    num_train: int,
) -> float:
    """Fit principal components; return the share of the variance that they explain."""
    if dim > MAX_COVARIANCE:
        mean, axes, explained = _iterate(rows, step.size, dim, num_train)
    else:
        mean, axes, explained = _decompose(rows, step.size, dim)
    if len(axes) < step.size:
        most = f"set at most {len(axes)}" if len(axes) else "check its backbone"
        raise UsageError(
            f"'pca' = {step.size}: the embeddings of train span only {len(axes)} dimensions; {most}"
        )
    state[step.key("mean")], state[step.key("axes")] = mean, axes
    return round(explained, 6)


def _decompose(
    rows: Callable[[], Iterator[NDArray[np.float32]]], size: int, dim: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    from scipy.linalg import eigh

    found = Covariance(dim)
    for block in rows():
        found.add(block)
    total = float(np.trace(found.squares))
    values, vectors = eigh(found.squares, subset_by_index=[dim - size, dim - 1])
    values, axes = values[::-1], vectors[:, ::-1].T
    # Of one value repeated, what is left is the rounding of its mean.
    noise = 2.0**-80 * found.count * float(found.mean @ found.mean)
    kept = int((values > max(RANK_TOLERANCE * values[0], noise)).sum())
    axes = axes[:kept]
    # Signs of eigenvectors are arbitrary: the largest entry of each is positive.
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(kept), largest])[:, None]
    return found.mean, axes, float(values[:kept].sum()) / max(total, 1e-300)


class _TrainRows:
    """Rows as patches of one pixel (``specs.TrainPatches``)."""

    def __init__(
        self, rows: Callable[[], Iterator[NDArray[np.float32]]], dim: int, num_train: int
    ) -> None:
        self._rows = rows
        self.shape = (dim, 1, 1)
        self.num_patches = num_train

    def batches(self, first: int = 0) -> Iterator[NDArray[np.float32]]:
        for block in self._rows():
            if first < len(block):
                yield block[first:].reshape(-1, *self.shape)
            first = max(0, first - len(block))


def _iterate(
    rows: Callable[[], Iterator[NDArray[np.float32]]], size: int, dim: int, num_train: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    from benchmark.errors import CellError
    from benchmark.networks.principal import fit_components

    try:
        found = fit_components(_TrainRows(rows, dim, num_train), num_components=size)
    except CellError:
        # Two rows there are: they do not differ.
        return np.zeros(dim), np.zeros((0, dim)), 0.0
    mean, axes = (item.numpy().astype(np.float64) for item in (found.mean, found.axes))
    return mean, axes, found.explained


def _draw_projection(dim: int, size: int, seed: int) -> NDArray[np.float64]:
    from sklearn.random_projection import GaussianRandomProjection

    drawn = GaussianRandomProjection(size, random_state=seed).fit(np.zeros((1, dim)))
    axes: NDArray[np.float64] = drawn.components_
    return axes


def _fit_codes(
    state: dict[str, NDArray[np.float64]],
    step: Step,
    rows: Callable[[], Iterator[NDArray[np.float32]]],
    dim: int,
) -> int:
    """Fit the codes of each dimension; return how many are constant on train."""
    found = Extremes(dim)
    for block in rows():
        found.add(block)
    num_constant = int((found.high <= found.low).sum())
    if num_constant == dim:
        raise UsageError(
            f"'dtype' = '{step.name}' has nothing to code: every dimension is constant on train; "
            "check its backbone, or remove 'dtype'"
        )
    if step.name == "binary":
        state[step.key("threshold")] = found.mean
    else:
        low = found.low.astype(np.float64)
        state[step.key("low")] = low
        state[step.key("scale")] = (found.high - low) / 255.0
    return num_constant


def missing_keys(derived: Derivation, state: Mapping[str, Any]) -> list[str]:
    """Return the tensors that a stored state lacks."""
    needed = {"pca": ("mean", "axes"), "random_projection": ("axes",), "binary": ("threshold",)}
    needed["int8"] = ("low", "scale")
    keys = [
        *(
            f"part{number}.{name}"
            for number in range(len(derived.parents) if derived.is_concat else 0)
            for name in ("mean", "scale")
        ),
        *(step.key(name) for step in steps_of(derived) for name in needed.get(step.name, ())),
    ]
    return [key for key in keys if key not in state]
