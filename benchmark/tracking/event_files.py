"""Write trials and trainings as event files of TensorBoard into the store."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.context import Context
from benchmark.store.filesystems import join
from benchmark.tracking.content import Point, as_keys, points_of

FOLDER = "tensorboard"
FILE = "events.out.tfevents.benchmark"
"""TensorBoard looks for ``tfevents``; its own names would hold time, host and process."""


def check_tensorboard(*, where: str) -> None:
    """Check that the package is installed.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            f"{where}: tensorboard needs the package tensorboard, which is not installed; run: "
            'pip install "backbone-benchmark[tensorboard]"'
        )


def write_events(context: Context) -> str:
    """Write one event file for each complete cell that has none yet; return one line about it.

    Raises:
        CellError: a table of a cell is damaged, or the store cannot be written.
    """
    store = context.store
    folder = f"{FOLDER}/{context.experiment.name}"
    num_written = 0
    for cell in context.prediction_cells():
        path = f"{folder}/{_name(cell)}/{FILE}"
        if cell.artefact.is_complete and not store.has(path) and (points := points_of(cell)):
            store.write(path, _events(points))
            num_written += 1
    return f"{num_written} new event files of TensorBoard in {join(store.uri, folder)}"


def _name(cell: Cell) -> str:
    """Return the name of the folder that the cell has in its stage: no other cell has it."""
    return cell.artefact.folder.rpartition("/")[2]


def _events(points: list[Point]) -> bytes:
    from torch.utils.tensorboard import SummaryWriter

    keys = as_keys(point.series for point in points)
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for series, step, value in points:
                writer.add_scalar(keys[series], value, step)
        (path,) = Path(folder).iterdir()
        return path.read_bytes()
