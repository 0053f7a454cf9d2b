"""A step does what the recipe says, on one device or several, in one pass or many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss

from benchmark.errors import CellError
from benchmark.finetune_settings import FinetuneConfig
from benchmark.training.feeds import Batch, MemoryFeed, Samples, Shard
from benchmark.training.loop import Ranks, Training, choose_precision, seed_of
from tests.pairs import run_pair
from tests.toys import (
    build_blocks,
    build_exact,
    build_forgetful,
    build_nan_gradients,
    build_normalised,
    build_pooler,
    build_starved,
    draw_samples,
    toy,
)

RGB = ("red", "green", "blue")
EXACT = toy("exact", build_exact)
SAMPLES = draw_samples(24)


def open_training(
    backbone: Any = EXACT,
    *,
    samples: Samples = SAMPLES,
    num_classes: int = 3,
    micro_batch: int | None = None,
    ranks: Ranks | None = None,
    is_double: bool = False,
    seed: int = 0,
    **recipe: Any,
) -> tuple[Training, MemoryFeed]:
    config = FinetuneConfig(**{"batch_size": 8, "num_epochs": 3, **recipe})
    ranks = ranks or Ranks()
    feed = MemoryFeed(
        samples, batch_size=config.batch_size, seed=seed, shard=Shard(ranks.rank, ranks.world)
    )
    training = Training(
        backbone,
        RGB,
        np.bincount(samples.labels, minlength=num_classes).tolist(),
        config,
        seed=seed,
        num_steps=feed.num_steps,
        ranks=ranks,
        micro_batch=micro_batch,
    )
    if is_double:
        training.model.double()
    return training, feed


def train(training: Training, feed: MemoryFeed, epochs: range) -> list[float]:
    """Train and return the mean loss of each epoch on this worker's patches."""
    losses = []
    for epoch in epochs:
        training.begin_epoch(epoch)
        loss, seen = 0.0, 0
        for step, batch in enumerate(feed.batches(epoch)):
            loss += float(training.step(batch, epoch, step))
            seen += len(batch.ids)
        losses.append(loss / max(1, seen))
    return losses


def state(training: Training) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in training.model.state_dict().items()}


def is_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def whole(samples: Samples, rows: Any = slice(None)) -> Batch:
    """Return patches as one batch of all workers."""
    ids, pixels, labels = samples.ids[rows], samples.pixels[rows], samples.labels[rows]
    return Batch(ids, pixels, labels, torch.arange(len(ids)), len(ids))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(micro_batch: int) -> None:
    results = []
    for size in (8, micro_batch):
        training, feed = open_training(micro_batch=size, is_double=True)
        assert training.micro_batch == size
        before = state(training)
        train(training, feed, range(1))
        assert not is_same(before, state(training))
        results.append(state(training))
    assert_close(*results)


def test_a_micro_batch_is_at_most_a_workers_share() -> None:
    training, _ = open_training(micro_batch=64)
    assert training.micro_batch == 8
    two, _ = open_training(micro_batch=64, ranks=Ranks(0, 3))
    assert two.micro_batch == 3


def test_a_batch_with_more_patches_than_were_asked_for_is_trained_on() -> None:
    """Three workers stream a patch each, where the batch was to have two."""
    training, _ = open_training(batch_size=2)
    training.begin_epoch(0)
    loss = training.step(whole(SAMPLES, slice(0, 3)), 0, 0)
    assert math.isfinite(float(loss))


def test_batch_normalisation_lets_micro_batches_add_up_too() -> None:
    backbone = toy("norm", build_normalised)
    results = []
    for size in (8, 3):
        training, feed = open_training(backbone, micro_batch=size)
        train(training, feed, range(1))
        results.append(state(training))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
    fresh, _ = open_training(backbone)
    for name in ("running_mean", "running_var"):
        assert torch.equal(results[0][f"body.norm.{name}"], state(fresh)[f"body.norm.{name}"])


@pytest.mark.parametrize("mode", ["full", "linear_then_full", "last_blocks", "lora"])
def test_the_loss_goes_down_and_classes_are_told_apart(mode: Any) -> None:
    training, feed = open_training(
        toy("blocks", build_blocks), mode=mode, num_epochs=6, learning_rate=0.05
    )
    losses = train(training, feed, range(6))
    assert losses[-1] < 0.7 * losses[0]
    assert training.validate([draw_samples(30, seed=1)], 3).score > 0.95


def test_the_same_seed_trains_the_same_and_another_one_does_not() -> None:
    results = []
    for seed in (0, 0, 1):
        training, feed = open_training(seed=seed)
        train(training, feed, range(1))
        results.append(state(training))
    assert is_same(results[0], results[1])
    assert not is_same(results[0], results[2])


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.35, 0.9])
def test_the_rate_rises_to_one_and_falls_to_nothing(warmup: float) -> None:
    training, feed = open_training(num_epochs=20, warmup=warmup)
    steps = feed.num_steps
    rates = np.array([training.rate(at // steps, at % steps) for at in range(20 * steps)])
    peak = int(rates.argmax())
    assert peak == math.ceil(warmup * len(rates))
    assert rates[peak] == pytest.approx(1.0, abs=0.05)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert rates.min() > 0
    assert rates[-1] < 0.1
    assert rates.max() <= 1.0


def test_a_step_takes_the_learning_rates_of_head_and_backbone() -> None:
    training, feed = open_training(learning_rate=0.01, backbone_ratio=0.2, weight_decay=0.3)
    for epoch, step in ((0, 0), (1, 2)):
        training.begin_epoch(epoch)
        training.step(next(feed.batches(epoch, step)), epoch, step)
        expected = {0.01 * training.rate(epoch, step), 0.002 * training.rate(epoch, step)}
        found = {group["lr"] for group in training.optimizer.param_groups}
        assert sorted(found) == pytest.approx(sorted(expected))
    decayed = {
        item.ndim > 1: group["weight_decay"]
        for group in training.optimizer.param_groups
        for item in group["params"]
    }
    assert decayed == {True: 0.3, False: 0.0}


def test_linear_then_full_trains_the_layer_alone_and_then_everything() -> None:
    training, feed = open_training(mode="linear_then_full", num_epochs=5)
    assert training.linear_epochs == 2
    frozen = state(training)
    for epoch in range(5):
        train(training, feed, range(epoch, epoch + 1))
        now = state(training)
        is_frozen = torch.equal(now["body.conv.weight"], frozen["body.conv.weight"])
        assert is_frozen is (epoch < 2)
        assert not torch.equal(now["head.weight"], frozen["head.weight"])
        assert (training.rate(epoch, 0) == 1.0) is (epoch < 2)


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 10])
def test_linear_then_full_always_comes_to_train_everything(num_epochs: int) -> None:
    training, feed = open_training(mode="linear_then_full", num_epochs=num_epochs)
    before = state(training)["body.conv.weight"]
    train(training, feed, range(num_epochs))
    assert not torch.equal(state(training)["body.conv.weight"], before)


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_a_gradient_is_clipped_to_its_largest_norm(clip_norm: float) -> None:
    training, feed = open_training(clip_norm=clip_norm)
    norms: list[float] = []

    def record(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        grads = [
            item.grad.flatten()
            for group in optimizer.param_groups
            for item in group["params"]
            if item.grad is not None
        ]
        norms.append(float(torch.cat(grads).norm()))

    training.optimizer.register_step_pre_hook(record)
    train(training, feed, range(1))
    assert len(norms) == feed.num_steps
    if clip_norm == 0.01:
        assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
    else:
        assert min(norms) > 0.01


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_class_weights_have_a_mean_of_one_over_train(class_weight: Any) -> None:
    # Twelve, four and two patches of three classes of four.
    rows = np.concatenate(
        [np.flatnonzero(SAMPLES.labels.numpy() == k)[:n] for k, n in enumerate((8, 4, 2))]
    )
    samples = Samples(SAMPLES.ids[rows], SAMPLES.pixels[rows], SAMPLES.labels[rows])

    def open_level() -> Training:
        """A network that gives all four classes the same probability: a loss of log 4."""
        training, _ = open_training(
            samples=samples,
            num_classes=4,
            class_weight=class_weight,
            label_smoothing=0.0,
            batch_size=len(rows),
        )
        torch.nn.init.zeros_(training.model.head.weight)
        training.begin_epoch(0)
        return training

    loss = float(open_level().step(whole(samples), 0, 0))
    assert loss / len(rows) == pytest.approx(math.log(4), rel=1e-5)
    per_class = [
        float(open_level().step(whole(samples, samples.labels.numpy() == k), 0, 0))
        for k in range(3)
    ]
    if class_weight == "balanced":
        assert per_class == pytest.approx([len(rows) / 3 * math.log(4)] * 3, rel=1e-5)
    else:
        assert per_class == pytest.approx([n * math.log(4) for n in (8, 4, 2)], rel=1e-5)


def test_what_the_logits_do_not_use_is_not_trained() -> None:
    training, feed = open_training(toy("pooler", build_pooler))
    before = state(training)
    train(training, feed, range(1))
    assert torch.equal(state(training)["body.pooler.weight"], before["body.pooler.weight"])
    assert training.parts.num_trained == sum(
        value.numel() for key, value in before.items() if "pooler" not in key
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError("no"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_halves_the_micro_batch_to_the_same_result(error: Exception) -> None:
    # The first pass of the first step succeeds, so that there are gradients of it.
    recipe = {"batch_size": 12, "clip_norm": 0.05}
    late = toy("late", partial(build_starved, error, True))
    short, feed = open_training(late, micro_batch=6, **recipe)
    train(short, feed, range(2))
    assert short.micro_batch == 3
    assert short.notes == ["late: out of memory: the micro-batch was halved to 3"]
    small, feed = open_training(micro_batch=3, **recipe)
    train(small, feed, range(2))
    assert is_same(state(short), state(small))
    assert small.notes == []


def test_the_micro_batch_is_halved_until_it_fits() -> None:
    samples = draw_samples(32)
    training, feed = open_training(
        toy("forgetful", build_forgetful), samples=samples, batch_size=32, micro_batch=32
    )
    train(training, feed, range(1))
    assert training.micro_batch == 4
    assert [note[-2:].strip() for note in training.notes] == ["16", "8", "4"]


def test_one_patch_that_does_not_fit_ends_the_cell_and_says_what_to_do() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    training, feed = open_training(toy("huge", partial(build_starved, error, False)))
    with pytest.raises(CellError, match=r"'huge': out of memory with one patch.*last_blocks"):
        train(training, feed, range(1))


def test_another_error_is_not_taken_for_one_of_memory() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    training, feed = open_training(toy("wrong", partial(build_starved, error, False)))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        train(training, feed, range(1))
    assert training.micro_batch == 8
    assert training.notes == []


def test_a_loss_that_is_not_finite_is_named_with_its_place_and_a_way_out() -> None:
    training, feed = open_training(toy("nan", build_nan_gradients), learning_rate=0.02)
    message = (
        r"backbone 'nan': the loss became nan in epoch 1, step 1 of 3 \(learning_rate 0\.02\); "
        r"set a smaller \[finetune\] learning_rate or backbone_ratio"
    )
    with pytest.raises(CellError, match=message):
        train(training, feed, range(1))


def test_an_epoch_does_not_end_with_a_loss_that_is_not_finite() -> None:
    training, feed = open_training()
    batches = feed.batches(1)
    training.begin_epoch(1)
    training.step(next(batches), 1, 0)
    with torch.no_grad():
        training.model.head.bias.fill_(torch.inf)
    training.step(next(batches), 1, 1)
    with pytest.raises(CellError, match="the loss became nan in epoch 2, step 3 of 3"):
        training.step(next(batches), 1, 2)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_validation_is_the_balanced_accuracy_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_samples(50, num_classes=4)
    labels = rng.integers(0, 3, 50)
    training, _ = open_training(num_classes=4)
    weight = torch.nn.init.normal_(training.model.head.weight, std=3.0)
    with torch.no_grad():
        weight[[2, 3]] = weight[[3, 2]]
    scores = training.predict(drawn.pixels).numpy()
    torch.testing.assert_close(scores.sum(axis=1), np.ones(50, np.float32))
    # The fourth class never occurs, but is predicted.
    assert (scores.argmax(axis=1) == 3).any()
    parts = [
        Samples(drawn.ids[rows], drawn.pixels[rows], torch.from_numpy(labels[rows]))
        for rows in (slice(0, 7), slice(7, 8), slice(8, 50))
    ]
    found = training.validate(iter(parts), 4)
    assert found.score == pytest.approx(balanced_accuracy_score(labels, scores.argmax(axis=1)))
    scores = scores.astype(np.float64)
    expected = log_loss(labels, scores / scores.sum(axis=1, keepdims=True), labels=range(4))
    assert found.loss == pytest.approx(expected, rel=1e-4)


def test_validating_leaves_a_training_as_it_was() -> None:
    results = []
    for is_validated in (True, False):
        training, feed = open_training()
        for epoch in range(2):
            train(training, feed, range(epoch, epoch + 1))
            if is_validated:
                training.validate([SAMPLES], 3)
        results.append(state(training))
    assert is_same(*results)


def test_predictions_hardly_depend_on_the_micro_batch() -> None:
    scores = [open_training(micro_batch=size)[0].predict(SAMPLES.pixels) for size in (1, 5, 8)]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


def test_precision_is_bfloat16_on_request_and_float32_on_a_cpu() -> None:
    assert choose_precision("auto", torch.device("cpu")) == "float32"
    assert choose_precision("bfloat16", torch.device("cpu")) == "bfloat16"
    training, feed = open_training(
        toy("low", build_forgetful), precision="bfloat16", micro_batch=4, learning_rate=0.01
    )
    losses = train(training, feed, range(3))
    assert losses[-1] < losses[0]
    assert {value.dtype for value in state(training).values()} == {torch.float32}


def test_seeds_differ_in_every_part() -> None:
    seeds = {seed_of(a, b, c) for a in range(3) for b in (1, 11) for c in (1, "draws", 111)}
    assert len(seeds) == 3 * 2 * 3
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert seed_of(1, 11) != seed_of(11, 1)


PAIR_RECIPES: tuple[dict[str, Any], ...] = (
    {"backbone": toy("exact", build_exact), "micro_batch": 1},
    {"backbone": toy("pooler", build_pooler), "mode": "linear_then_full"},
)
PAIR = draw_samples(9)
"""In batches of four: in the last one there is one patch, and the second worker has none."""


def train_pair(ranks: Ranks) -> list[tuple[dict[str, torch.Tensor], tuple[float, float], float]]:
    found = []
    for recipe in PAIR_RECIPES:
        training, feed = open_training(
            samples=PAIR, ranks=ranks, is_double=True, batch_size=4, num_epochs=2, **recipe
        )
        train(training, feed, range(2))
        rows = slice(ranks.rank, None, ranks.world)
        part = Samples(PAIR.ids[rows], PAIR.pixels[rows], PAIR.labels[rows])
        validation = training.validate([part], 3)
        found.append((state(training), validation, training.rate(1, 0)))
    return found


def run_rank(rank: int, folder: str) -> None:
    """Train as one of two processes, and save the result."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.save(train_pair(Ranks(rank, 2)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    folder = tmp_path_factory.mktemp("pair")
    run_pair(run_rank, str(folder))
    yield [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PAIR_RECIPES)))
def test_two_workers_train_as_one(of_two: list[Any], number: int) -> None:
    alone, validation, _ = train_pair(Ranks())[number]
    before = state(
        open_training(
            samples=PAIR, is_double=True, batch_size=4, num_epochs=2, **PAIR_RECIPES[number]
        )[0]
    )
    assert not torch.allclose(alone["body.conv.weight"], before["body.conv.weight"], atol=1e-5)
    for ranks in of_two:
        weights, found, _ = ranks[number]
        assert_close(weights, alone)
        assert found == pytest.approx(validation, rel=1e-5)
    assert is_same(of_two[0][number][0], of_two[1][number][0])
