"""A fine-tuning that is interrupted, resumed or split into segments gives the same result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.errors import CellError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.flipping import AXES
from benchmark.networks.classifier import build_classifier
from benchmark.search.bookkeeping import Outcome, Segment
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.names import WEIGHTS
from benchmark.tables import check_table, predictions_schema, vectors_array
from benchmark.training import segment as finetuning
from benchmark.training.checkpoints import read_weights
from benchmark.training.feeds import Batch, Feed, MemoryFeed, Samples, Shard, read_samples
from benchmark.training.loop import ALONE, MemoryShort, Ranks, Training, Validation
from benchmark.training.segment import SMALLER, Job, OpenFeed, Report, Worker, read_log
from tests.pairs import run_pair
from tests.toys import (
    build_blocks,
    build_dropping,
    build_exact,
    build_forgetful,
    build_nan_gradients,
    draw_samples,
    toy,
    write_patches,
)

SPLITS = {"train": 26, "val": 11, "test": 13}
BEST, LAST = "trial-000-best.safetensors", "trial-000-last.safetensors"
RECIPE: dict[str, Any] = {
    "num_epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.01,
    "backbone_ratio": 1.0,
    "micro_batch": 3,
}
NET = toy("net", build_dropping)


def draw_splits() -> dict[str, Samples]:
    return {
        name: draw_samples(count, seed=seed, prefix=name)
        for seed, (name, count) in enumerate(SPLITS.items())
    }


def make_job(
    folder: Path | str,
    patches: Artefact,
    name: str,
    *,
    backbone: Any = NET,
    refit: str = "train",
    flips: tuple[str, ...] = (),
    **recipe: Any,
) -> Job:
    """Make a job on the toy patches that writes into an artefact of that name."""
    splits = draw_splits()

    def counts(*names: str) -> tuple[int, ...]:
        labels = np.concatenate([splits[name].labels.numpy() for name in names])
        return tuple(np.bincount(labels, minlength=3).tolist())

    return Job(
        backbone=backbone,
        config=FinetuneConfig(**{**RECIPE, **recipe}),
        seed=0,
        refit=refit,
        class_counts=counts("train"),
        refit_counts=counts("train", "val") if "val" in refit else counts("train"),
        bands=("red", "green", "blue"),
        shape=(3, 16, 16),
        patches=patches,
        artefact=Store(str(folder)).artefact("finetune", name, "0"),
        num_threads=1,
        num_workers=1,
        flips=flips,
    )


@pytest.fixture(scope="module")
def splits() -> dict[str, Samples]:
    return draw_splits()


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory, splits: dict[str, Samples]) -> Artefact:
    store = Store(str(tmp_path_factory.mktemp("finetuning")))
    return write_patches(store.artefact("patches", "toy", "0"), splits)


OpenJob = Callable[..., Job]


@pytest.fixture
def open_job(patches: Artefact, tmp_path: Path) -> OpenJob:
    """Open a job on the toy patches, each of another name in an artefact of its own."""

    def open_named(name: str, *, source: Artefact = patches, **recipe: Any) -> Job:
        return make_job(tmp_path, source, name, **recipe)

    return open_named


def open_memory(job: Job) -> OpenFeed:
    def opened(splits: tuple[str, ...], config: FinetuneConfig, ranks: Ranks) -> Feed:
        return MemoryFeed(
            read_samples(job.patches, job.shape, splits),
            batch_size=config.batch_size,
            seed=job.seed,
            shard=Shard(ranks.rank, ranks.world),
        )

    return opened


class Stopped(Exception):
    """Ends a training from outside, as a killed process does."""


class BreakingFeed:
    """A feed that ends the training after so many batches."""

    def __init__(self, feed: Feed, num_batches: int) -> None:
        self.feed = feed
        self.left = num_batches

    @property
    def num_steps(self) -> int:
        return self.feed.num_steps

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for batch in self.feed.batches(epoch, first_step):
            if not self.left:
                raise Stopped("killed")
            self.left -= 1
            yield batch


def open_breaking(job: Job, num_batches: int) -> OpenFeed:
    def opened(splits: tuple[str, ...], config: FinetuneConfig, ranks: Ranks) -> Feed:
        return BreakingFeed(open_memory(job)(splits, config, ranks), num_batches)

    return opened


def fit(first: int, last: int, **params: Any) -> Segment:
    return Segment("fit", 0, params, first, last)


REFIT = Segment("refit", 0, {}, 0, 3)


def run(
    job: Job,
    *segments: Segment,
    open_feed: OpenFeed | None = None,
    report: Report | None = None,
) -> list[Outcome]:
    """Run segments, each with a worker of its own, as new processes do."""
    opener = open_feed or open_memory(job)
    return [Worker(job, ALONE, opener, report).run(segment) for segment in segments]


def weights(job: Job, name: str = LAST) -> dict[str, torch.Tensor]:
    """Return what a file holds: of a checkpoint the optimiser too."""
    return read_weights(job.artefact, name)


def is_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def curve(job: Job) -> list[dict[str, float]]:
    """Return the numbers of every epoch but its seconds, in which runs differ."""
    rows = read_log(job.artefact, 0)["curve"]
    return [
        {key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows
    ]


def assert_same(one: Job, two: Job) -> None:
    assert curve(one) == curve(two)
    for name in (BEST, LAST):
        assert is_same(weights(one, name), weights(two, name)), name
    for key in ("best_epoch", "num_trained"):
        assert read_log(one.artefact, 0)[key] == read_log(two.artefact, 0)[key]


def test_a_segment_leaves_a_curve_the_weights_and_its_outcome(open_job: OpenJob) -> None:
    job = open_job("plain")
    reported: list[dict[str, float]] = []
    (outcome,) = run(job, fit(0, 3), report=reported.append)
    rows = read_log(job.artefact, 0)["curve"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert reported == rows
    assert outcome.scores == [row["val_score"] for row in rows]
    assert outcome.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert outcome.is_stopped
    assert outcome.error == ""
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    log = read_log(job.artefact, 0)
    assert log["plan"]["batch_size"] == 8
    assert log["plan"]["micro_batch"] == 3
    assert outcome.peak_memory_bytes > 0
    assert outcome.peak_device_bytes == 0
    assert read_log(job.artefact, 7) == {}


# Four batches in an epoch: in each epoch, at its begin, within it and at its end.
@pytest.mark.parametrize("num_batches", [0, 1, 3, 4, 6, 8, 11])
def test_an_interrupted_segment_goes_on_to_the_same_bits(
    open_job: OpenJob, num_batches: int
) -> None:
    calm, torn = open_job("calm"), open_job("torn", checkpoint_every_s=1e-9)
    run(calm, fit(0, 3))
    with pytest.raises(Stopped, match="killed"):
        run(torn, fit(0, 3), open_feed=open_breaking(torn, num_batches))
    assert torn.artefact.files("segment-") == []
    if num_batches > 1:
        # Saved steps are not computed again.
        with pytest.raises(Stopped, match="killed"):
            run(torn, fit(0, 3), open_feed=open_breaking(torn, 0))
        left = 12 - num_batches + 1
        run(torn, fit(0, 3), open_feed=open_breaking(torn, left))
    else:
        run(torn, fit(0, 3))
    assert_same(calm, torn)


def test_a_segment_that_dies_again_and_again_comes_to_the_same_bits(open_job: OpenJob) -> None:
    calm, torn = open_job("calm"), open_job("torn", checkpoint_every_s=1e-9)
    run(calm, fit(0, 3))
    for _ in range(40):
        try:
            run(torn, fit(0, 3), open_feed=open_breaking(torn, 2))
            break
        except Stopped:
            continue
    assert_same(calm, torn)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_death_after_an_epoch_costs_nothing(open_job: OpenJob, epoch: int) -> None:
    calm, torn = open_job("calm"), open_job("torn")
    run(calm, fit(0, 3))

    def die(row: dict[str, float]) -> None:
        if row["epoch"] == epoch:
            raise Stopped("killed")

    with pytest.raises(Stopped, match="killed"):
        run(torn, fit(0, 3), report=die)
    run(torn, fit(0, 3), open_feed=open_breaking(torn, 4 * (3 - epoch)))
    assert_same(calm, torn)


@pytest.mark.parametrize("suffix", ["best.safetensors", "last.safetensors", "log.json"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_death_between_two_files_of_an_epoch_loses_none(
    open_job: OpenJob, monkeypatch: pytest.MonkeyPatch, suffix: str, epoch: int
) -> None:
    """The process dies right after one of the files that an epoch leaves has been written."""
    calm, torn = open_job("calm"), open_job("torn")
    run(calm, fit(0, 3))
    write, count = Artefact.write_bytes, 0

    def write_and_die(self: Artefact, name: str, content: bytes) -> None:
        nonlocal count
        write(self, name, content)
        count += name.endswith(suffix)
        if name.endswith(suffix) and count == min(epoch, num_written[suffix]):
            raise Stopped("killed")

    # Best weights are written only in better epochs.
    scores = [(row["val_score"], -row["val_loss"]) for row in read_log(calm.artefact, 0)["curve"]]
    num_best = sum(all(score > other for other in scores[:at]) for at, score in enumerate(scores))
    num_written = {"best.safetensors": num_best, "last.safetensors": 3, "log.json": 3}
    monkeypatch.setattr(Artefact, "write_bytes", write_and_die)
    with pytest.raises(Stopped, match="killed"):
        run(torn, fit(0, 3))
    monkeypatch.undo()
    run(torn, fit(0, 3))
    assert_same(calm, torn)


def test_segments_one_after_another_are_one_segment(open_job: OpenJob) -> None:
    whole, parts = open_job("whole"), open_job("parts")
    (outcome,) = run(whole, fit(0, 3))
    first, second = run(parts, fit(0, 1), fit(1, 3))
    assert [*first.scores, *second.scores] == outcome.scores
    assert (first.is_stopped, second.is_stopped) == (False, True)
    assert_same(whole, parts)


def test_a_recorded_segment_is_not_computed_again(open_job: OpenJob) -> None:
    job = open_job("recorded")
    before = run(job, fit(0, 2), REFIT)
    times = {path: path.stat().st_mtime_ns for path in Path(job.artefact.path).iterdir()}

    def refuse(splits: tuple[str, ...], config: FinetuneConfig, ranks: Ranks) -> Feed:
        raise AssertionError("the feed was opened")

    assert run(job, fit(0, 2), REFIT, open_feed=refuse) == before
    assert {path: path.stat().st_mtime_ns for path in Path(job.artefact.path).iterdir()} == times


def test_a_torn_checkpoint_lets_the_training_begin_anew_with_a_note(open_job: OpenJob) -> None:
    calm, torn = open_job("calm"), open_job("torn")
    run(calm, fit(0, 2), fit(2, 3))
    run(torn, fit(0, 2))
    content = torn.artefact.read_bytes(LAST)
    torn.artefact.write_bytes(LAST, content[: len(content) // 2])
    (outcome,) = run(torn, fit(2, 3))
    assert_same(calm, torn)
    assert outcome.scores == [curve(calm)[2]["val_score"]]
    (note,) = read_log(torn.artefact, 0)["notes"]
    assert "last.safetensors is damaged" in note
    assert note.endswith("the training was restarted")
    assert read_log(calm.artefact, 0)["notes"] == []


def script(monkeypatch: pytest.MonkeyPatch, *found: tuple[float, float]) -> None:
    """Let the epochs have these val scores and losses, whatever the weights."""
    rows = iter(found)
    monkeypatch.setattr(Training, "validate", lambda *_: Validation(*next(rows)))


@pytest.mark.parametrize(("patience", "num_epochs"), [(1, 2), (2, 5), (3, 6), (9, 7)])
def test_training_stops_when_its_patience_is_over(
    open_job: OpenJob, monkeypatch: pytest.MonkeyPatch, patience: int, num_epochs: int
) -> None:
    # Better in the first and the third epoch.
    script(monkeypatch, (0.5, 1.0), (0.4, 1.0), (0.6, 1.0), *[(0.6, 1.0)] * 4)
    job = open_job("patient", num_epochs=7, patience=patience)
    (outcome,) = run(job, fit(0, 7))
    assert len(outcome.scores) == num_epochs
    assert outcome.is_stopped
    assert read_log(job.artefact, 0)["best_epoch"] == (1 if patience == 1 else 3)


def test_a_trial_that_stopped_in_a_segment_says_so_at_once(
    open_job: OpenJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, (0.5, 1.0), (0.4, 1.0), (0.4, 1.0))
    job = open_job("stopped", num_epochs=9, patience=2)
    first, second = run(job, fit(0, 1), fit(1, 5))
    assert not first.is_stopped
    assert (second.scores, second.is_stopped) == ([0.4, 0.4], True)


def test_a_trial_has_its_own_number_of_epochs(open_job: OpenJob) -> None:
    (outcome,) = run(open_job("short"), fit(0, 3, num_epochs=2, learning_rate=0.003))
    assert len(outcome.scores) == 2
    assert outcome.is_stopped


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.1)], 2),
        # Ties: the lowest loss, then the first epoch.
        ([(0.7, 0.9), (0.7, 0.5), (0.7, 0.6)], 2),
        ([(0.7, 0.5), (0.7, 0.5), (0.6, 0.1)], 1),
        ([(0.0, 9.0), (0.0, 8.0), (0.0, 7.0)], 3),
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(
    open_job: OpenJob,
    monkeypatch: pytest.MonkeyPatch,
    found: list[tuple[float, float]],
    best: int,
) -> None:
    script(monkeypatch, *found)
    job = open_job("best")
    epochs = []

    def keep(row: dict[str, float]) -> None:
        epochs.append(weights(job))

    run(job, fit(0, 3), report=keep)
    assert read_log(job.artefact, 0)["best_epoch"] == best
    kept = weights(job, BEST)
    for epoch, state in enumerate(epochs, start=1):
        model = {
            key.removeprefix("model."): value
            for key, value in state.items()
            if key.startswith("model.")
        }
        assert is_same(kept, model) is (epoch == best)


def predictions(job: Job) -> Any:
    return check_table(job.artefact.read_table(), predictions_schema(3), what="predictions")


def test_a_refit_on_train_predicts_val_and_test_with_the_best_weights(
    open_job: OpenJob, splits: dict[str, Samples]
) -> None:
    job = open_job("refit")
    _, outcome = run(job, fit(0, 3), REFIT)
    assert outcome.scores == []
    assert outcome.error == ""
    table = predictions(job)
    assert job.artefact.read_table().column_names == ["patch_id", "y_pred", "y_score"]
    assert table["patch_id"].to_pylist() == sorted([*splits["val"].ids, *splits["test"].ids])
    scores = vectors_array(table["y_score"])
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)
    assert (table["y_pred"].to_numpy() == scores.argmax(axis=1)).all()
    assert is_same(weights(job, WEIGHTS), weights(job, BEST))
    # By hand, without the worker.
    model = build_classifier(NET, 3, 3)
    model.load_state_dict(weights(job, BEST))
    pixels = torch.cat([splits["test"].pixels, splits["val"].pixels]) / 255
    with torch.inference_mode():
        expected = model.eval()((pixels - 0.5) / 0.5).softmax(dim=1).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_test_labels_are_never_read(
    open_job: OpenJob, splits: dict[str, Samples], tmp_path: Path
) -> None:
    wrong = dict(splits)
    wrong["test"] = splits["test"]._replace(labels=(splits["test"].labels + 1) % 3)
    other = write_patches(Store(str(tmp_path)).artefact("patches", "wrong", "0"), wrong)
    jobs = [open_job("right"), open_job("wrong", source=other)]
    for job in jobs:
        run(job, fit(0, 2), REFIT)
    assert predictions(jobs[0]).equals(predictions(jobs[1]))


def test_predicting_reads_no_labels_at_all(
    open_job: OpenJob, patches: Artefact, tmp_path: Path
) -> None:
    blind = Store(str(tmp_path)).artefact("patches", "blind", "0")
    for name in patches.files("part-"):
        blind.write_table(name, patches.read_table(names=[name]).drop(["label"]))
    job = open_job("seeing")
    run(job, fit(0, 2), REFIT)
    expected = predictions(job)
    for name in (*job.artefact.files("part-"), *job.artefact.files("segment-refit")):
        job.artefact.delete(name)
    # The same artefact, whose trial is over, on a table without the column.
    run(open_job("seeing", source=blind), REFIT)
    assert predictions(job).equals(expected)


def test_val_labels_choose_and_are_not_trained_on(
    open_job: OpenJob, splits: dict[str, Samples], tmp_path: Path
) -> None:
    wrong = dict(splits)
    wrong["val"] = splits["val"]._replace(labels=(splits["val"].labels + 1) % 3)
    other = write_patches(Store(str(tmp_path)).artefact("patches", "wrong", "0"), wrong)
    jobs = [open_job("right"), open_job("wrong", source=other)]
    for job in jobs:
        run(job, fit(0, 1))
    assert is_same(weights(jobs[0]), weights(jobs[1]))
    assert curve(jobs[0])[0]["val_loss"] != curve(jobs[1])[0]["val_loss"]


def test_a_refit_on_both_splits_trains_on_both_for_the_best_number_of_epochs(
    open_job: OpenJob, splits: dict[str, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, (0.5, 1.0), (0.7, 1.0), (0.6, 1.0))
    job = open_job("both", refit="train+val")
    seen: list[list[str]] = []
    opened: list[tuple[str, ...]] = []

    class Recording(BreakingFeed):
        def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
            seen.append([])
            for batch in super().batches(epoch, first_step):
                seen[-1] += map(str, batch.ids)
                yield batch

    def open_recording(names: tuple[str, ...], config: FinetuneConfig, ranks: Ranks) -> Feed:
        opened.append(names)
        return Recording(open_memory(job)(names, config, ranks), 1000)

    run(job, fit(0, 3), open_feed=open_recording)
    seen.clear()
    run(job, REFIT, open_feed=open_recording)
    assert opened == [("train",), ("train", "val")]
    both = sorted([*splits["train"].ids, *splits["val"].ids])
    assert [sorted(ids) for ids in seen] == [both, both]
    assert not is_same(weights(job, WEIGHTS), weights(job, BEST))
    assert len(predictions(job)) == SPLITS["val"] + SPLITS["test"]


def test_an_interrupted_refit_goes_on_to_the_same_bits(open_job: OpenJob) -> None:
    calm = open_job("calm", refit="train+val")
    torn = open_job("torn", refit="train+val", checkpoint_every_s=1e-9)
    for job in (calm, torn):
        run(job, fit(0, 3))
    with pytest.raises(Stopped, match="killed"):
        run(torn, REFIT, open_feed=open_breaking(torn, 3))
    run(calm, REFIT)
    run(torn, REFIT)
    assert is_same(weights(calm, WEIGHTS), weights(torn, WEIGHTS))
    assert predictions(calm).equals(predictions(torn))


@pytest.mark.parametrize("refit", ["train", "train+val"])
def test_lora_leaves_merged_weights_of_the_plain_classifier(
    open_job: OpenJob, splits: dict[str, Samples], refit: str
) -> None:
    backbone = toy("blocks", build_blocks)
    job = open_job("lora", backbone=backbone, mode="lora", refit=refit)
    run(job, fit(0, 3), REFIT)
    model = build_classifier(backbone, 3, 3)
    start = model.state_dict()["body.blocks.0.first.weight"].clone()
    assert set(weights(job, WEIGHTS)) == set(model.state_dict())
    model.load_state_dict(weights(job, WEIGHTS))
    assert not torch.allclose(model.state_dict()["body.blocks.0.first.weight"], start, atol=1e-4)
    assert any(".lora_" in key for key in weights(job, BEST))
    pixels = torch.cat([splits["test"].pixels, splits["val"].pixels]) / 255
    with torch.inference_mode():
        expected = model.eval()((pixels - 0.5) / 0.5).softmax(dim=1).numpy()
    scores = vectors_array(predictions(job)["y_score"])
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["lora", "linear_then_full", "last_blocks"])
def test_other_modes_go_on_to_the_same_bits_too(open_job: OpenJob, mode: str) -> None:
    backbone = toy("blocks", build_blocks)
    calm = open_job("calm", backbone=backbone, mode=mode)
    torn = open_job("torn", backbone=backbone, mode=mode, checkpoint_every_s=1e-9)
    run(calm, fit(0, 3))
    with pytest.raises(Stopped, match="killed"):
        run(torn, fit(0, 3), open_feed=open_breaking(torn, 6))
    run(torn, fit(0, 3))
    assert_same(calm, torn)


def test_a_halved_micro_batch_is_remembered_with_its_note(open_job: OpenJob) -> None:
    backbone = toy("forgetful", build_forgetful)
    job = open_job("forgetful", backbone=backbone, micro_batch=8)
    run(job, fit(0, 1), fit(1, 3))
    log = read_log(job.artefact, 0)
    assert log["notes"] == ["forgetful: out of memory: the micro-batch was halved to 4"]
    assert log["plan"]["micro_batch"] == 4
    small = open_job("small", backbone=backbone, micro_batch=4)
    run(small, fit(0, 3))
    assert_same(job, small)


class Unconnected(torch.nn.Module):
    """A model as one of several workers wraps it, without the others."""

    def __init__(self, model: torch.nn.Module, **_: Any) -> None:
        super().__init__()
        self.model = model
        self.no_sync = contextlib.nullcontext

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def test_one_of_several_workers_without_memory_begins_again_with_less(
    open_job: OpenJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt of a pair ends; the next one, here alone, has smaller micro-batches."""
    backbone = toy("forgetful", build_forgetful)
    job = open_job("pair", backbone=backbone, batch_size=20, micro_batch=8)

    monkeypatch.setattr("benchmark.training.loop.DistributedDataParallel", Unconnected)
    with pytest.raises(MemoryShort, match="the micro-batch was halved to 4"):
        Worker(job, Ranks(0, 2), open_memory(job)).run(fit(0, 3))
    monkeypatch.undo()
    assert job.artefact.read_json(SMALLER)["micro_batch"] == 4
    assert job.artefact.files("segment-") == []
    run(job, fit(0, 3))
    log = read_log(job.artefact, 0)
    assert log["notes"] == ["forgetful: out of memory: the micro-batch was halved to 4"]
    assert log["plan"]["micro_batch"] == 4


def test_a_failed_segment_is_not_recorded(open_job: OpenJob) -> None:
    job = open_job("nan", backbone=toy("nan", build_nan_gradients))
    with pytest.raises(CellError, match="backbone 'nan': the loss became nan in epoch 1, step 1"):
        run(job, fit(0, 3))
    assert job.artefact.files("segment-") == []


PAIR = {"backbone": toy("exact", build_exact), "batch_size": 5, "refit": "train+val"}


def run_rank(rank: int, folder: str, patches: Artefact) -> None:
    """Fine-tune as one of two processes: once undisturbed, once interrupted in mid-epoch."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    # Workers agree on a checkpoint after so many steps, of which an epoch here has six.
    finetuning.CHECK_EVERY = 2
    ranks = Ranks(rank, 2)
    calm = make_job(folder, patches, "calm", **PAIR)
    torn = make_job(folder, patches, "torn", checkpoint_every_s=1e-9, **PAIR)
    for segment in (fit(0, 3), REFIT):
        Worker(calm, ranks, open_memory(calm)).run(segment)
        with contextlib.suppress(Stopped):
            Worker(torn, ranks, open_breaking(torn, 9)).run(segment)
        Worker(torn, ranks, open_memory(torn)).run(segment)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_resume_to_the_same_bits_and_come_to_what_one_comes_to(
    patches: Artefact, tmp_path: Path
) -> None:
    run_pair(run_rank, str(tmp_path), patches)
    alone = make_job(tmp_path, patches, "alone", **PAIR)
    run(alone, fit(0, 3), REFIT)
    calm = make_job(tmp_path, patches, "calm", **PAIR)
    torn = make_job(tmp_path, patches, "torn", **PAIR)
    for name in (BEST, LAST, WEIGHTS):
        assert is_same(weights(calm, name), weights(torn, name)), name
    assert predictions(calm).equals(predictions(torn))
    for one, two in zip(curve(calm), curve(torn), strict=True):
        assert one == pytest.approx(two, rel=1e-12)
    for one, two in zip(curve(calm), curve(alone), strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    assert len(calm.artefact.files("part-")) == 2
    assert predictions(calm)["patch_id"].equals(predictions(alone)["patch_id"])
    np.testing.assert_allclose(
        vectors_array(predictions(calm)["y_score"]),
        vectors_array(predictions(alone)["y_score"]),
        atol=2e-3,
    )


def test_flips_of_symmetric_patches_predict_as_none(
    splits: dict[str, Samples], tmp_path: Path, open_job: OpenJob
) -> None:
    store = Store(str(tmp_path / "symmetric"))
    quarters = {name: item.pixels[:, :, :8, :8] for name, item in splits.items()}
    halves = {name: torch.cat([item, item.flip(-1)], dim=-1) for name, item in quarters.items()}
    whole = {
        name: splits[name]._replace(pixels=torch.cat([item, item.flip(-2)], dim=-2))
        for name, item in halves.items()
    }
    source = write_patches(store.artefact("patches", "symmetric", "0"), whole)
    found = []
    for flips in ((), ("left-right",), tuple(AXES)):
        job = open_job(f"flips-{len(flips)}", source=source, flips=flips, num_epochs=1)
        run(job, fit(0, 1), Segment("refit", 0, {}, 0, 1))
        found.append(
            vectors_array(job.artefact.read_table(names=["part-000000.parquet"])["y_score"])
        )
    assert len(found[0]) == SPLITS["val"] + SPLITS["test"]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
