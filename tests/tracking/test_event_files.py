"""Event files of TensorBoard hold the points of the store's tables, and are written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmark.experiment.context import Context
from benchmark.tracking.event_files import FOLDER, write_events
from tests.finetuned import learned, write_finetuned

pytest.importorskip("tensorboard")


@pytest.mark.slow
def test_trainings_are_read_back_by_tensorboard(open_small: Callable[..., Context]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    context = open_small(backbones=[learned("net")], heads=[], finetune={})
    (cell,) = context.prediction_cells()
    scores = np.full((3, 5), 0.2, np.float32)
    write_finetuned(cell.artefact, np.array(["a", "b", "c"]), scores, num_trials=2, num_epochs=4)
    folder = f"{context.store.uri}/{FOLDER}/{context.experiment.name}"
    assert write_events(context) == f"1 new event files of TensorBoard in {folder}"
    assert write_events(context) == f"0 new event files of TensorBoard in {folder}"
    (path,) = Path(context.store.root, FOLDER).rglob("*tfevents*")
    assert path.parent.name == Path(cell.artefact.folder).name
    events = EventAccumulator(str(path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "trials/val_score",
        *(
            f"trial{n}/{key}"
            for n in (0, 1)
            for key in ("train_loss", "val_score", "learning_rate")
        ),
    }
    losses = {item.step: item.value for item in events.Scalars("trial1/train_loss")}
    assert losses == pytest.approx({epoch: 1.6 * 0.6**epoch + 0.1 for epoch in (1, 2, 3, 4)})
    assert len(events.Scalars("trials/val_score")) == 2
