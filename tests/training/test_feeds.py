"""Every patch occurs once per epoch, in the same batches for any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import CellError
from benchmark.store.artefacts import Artefact, Store
from benchmark.tables import count_rows
from benchmark.training.feeds import (
    Batch,
    MemoryFeed,
    Samples,
    Shard,
    SplitReader,
    read_samples,
)
from tests.toys import draw_samples, write_patches

SHAPE = (3, 8, 8)
POOL = draw_samples(40, side=8)


def first(count: int) -> Samples:
    return Samples(POOL.ids[:count], POOL.pixels[:count], POOL.labels[:count])


def batches(
    count: int,
    size: int,
    *,
    world: int = 1,
    seed: int = 0,
    epoch: int = 0,
    first_step: int = 0,
) -> list[list[Batch]]:
    """Return the batches of every rank."""
    found = []
    for rank in range(world):
        feed = MemoryFeed(first(count), batch_size=size, seed=seed, shard=Shard(rank, world))
        assert feed.num_steps == -(-count // size)
        found.append(list(feed.batches(epoch, first_step)))
        assert len(found[-1]) == max(0, feed.num_steps - first_step)
    return found


def whole(parts: tuple[Batch, ...]) -> list[str]:
    """Return the ids of one step of all ranks, in the places that they name."""
    (num_global,) = {part.num_global for part in parts}
    placed = [""] * num_global
    for part in parts:
        assert len(part.positions) == len(part.ids)
        for position, patch_id in zip(part.positions.tolist(), part.ids, strict=True):
            assert placed[position] == ""
            placed[position] = str(patch_id)
    return placed


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 40),
    size=st.integers(1, 45),
    world=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_every_patch_comes_once_and_the_batches_do_not_depend_on_the_workers(
    count: int, size: int, world: int, epoch: int
) -> None:
    alone = [list(map(str, batch.ids)) for batch in batches(count, size, epoch=epoch)[0]]
    ranks = batches(count, size, world=world, epoch=epoch)
    steps = [whole(parts) for parts in zip(*ranks, strict=True)]
    assert steps == alone
    assert sorted(patch_id for step in steps for patch_id in step) == list(POOL.ids[:count])
    assert [len(step) for step in steps] == [size] * (count // size) + [count % size] * (
        count % size > 0
    )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_pixels_and_labels_are_those_of_the_patch(world: int) -> None:
    place = {patch_id: number for number, patch_id in enumerate(POOL.ids)}
    for batch in (item for rank in batches(40, 7, world=world) for item in rank):
        rows = [place[patch_id] for patch_id in batch.ids]
        assert torch.equal(batch.pixels, POOL.pixels[rows])
        assert torch.equal(batch.labels, POOL.labels[rows])


def test_a_worker_without_a_patch_still_takes_the_step() -> None:
    last = [rank[-1] for rank in batches(9, 4, world=2)]
    assert [len(batch.ids) for batch in last] == [1, 0]
    assert [batch.num_global for batch in last] == [1, 1]
    assert last[1].pixels.shape == (0, *SHAPE)


def test_another_epoch_and_another_seed_have_another_order() -> None:
    orders = {
        tuple(str(i) for batch in batches(40, 8, seed=seed, epoch=epoch)[0] for i in batch.ids)
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 6
    assert tuple(POOL.ids) not in orders


@pytest.mark.parametrize("first_step", range(7))
def test_an_epoch_goes_on_from_any_step(first_step: int) -> None:
    for all_steps, rest in zip(
        batches(40, 7, world=2, epoch=1),
        batches(40, 7, world=2, epoch=1, first_step=first_step),
        strict=True,
    ):
        for one, two in zip(all_steps[first_step:], rest, strict=True):
            assert list(one.ids) == list(two.ids)
            assert torch.equal(one.positions, two.positions)
            assert one.num_global == two.num_global


@pytest.fixture
def splits() -> dict[str, Samples]:
    return {
        name: draw_samples(count, side=8, seed=seed, prefix=name)
        for seed, (name, count) in enumerate({"train": 20, "val": 13, "test": 8}.items())
    }


@pytest.fixture
def patches(tmp_path: Path, splits: dict[str, Samples]) -> Artefact:
    artefact = Store(str(tmp_path)).artefact("patches", "toy", "0")
    return write_patches(artefact, splits, num_parts=4)


def test_rows_that_lie_in_any_order_are_read_sorted(
    patches: Artefact, splits: dict[str, Samples]
) -> None:
    found = read_samples(patches, SHAPE, ("train",))
    assert list(found.ids) == list(splits["train"].ids)
    assert torch.equal(found.pixels, splits["train"].pixels)
    assert torch.equal(found.labels, splits["train"].labels)
    assert (found.pixels.dtype, found.labels.dtype) == (torch.uint8, torch.int64)


def test_several_splits_are_read_together(patches: Artefact, splits: dict[str, Samples]) -> None:
    found = read_samples(patches, SHAPE, ("train", "val"))
    assert list(found.ids) == sorted([*splits["train"].ids, *splits["val"].ids])
    by_id = dict(zip(found.ids, found.labels.tolist(), strict=True))
    for name in ("train", "val"):
        assert [by_id[i] for i in splits[name].ids] == splits[name].labels.tolist()


def test_a_split_without_rows_is_empty(patches: Artefact) -> None:
    found = read_samples(patches, SHAPE, ("elsewhere",))
    assert (len(found.ids), found.pixels.shape, len(found.labels)) == (0, (0, *SHAPE), 0)


def test_labels_that_must_not_be_seen_are_not_read(
    patches: Artefact, splits: dict[str, Samples]
) -> None:
    # A table without the column: reading it would fail.
    for name in patches.files("part-"):
        table = patches.read_table(names=[name]).drop(["label"])
        patches.write_table(name, table)
    found = read_samples(patches, SHAPE, ("test",), with_labels=False)
    assert list(found.ids) == list(splits["test"].ids)
    assert torch.equal(found.pixels, splits["test"].pixels)
    assert len(found.labels) == 0
    reader = SplitReader(patches, SHAPE, "test", with_labels=False)
    assert sum(len(samples.ids) for samples in reader) == 8
    with pytest.raises((pa.ArrowInvalid, KeyError), match="label"):
        read_samples(patches, SHAPE, ("test",))


def test_rows_are_counted_part_by_part_and_empty_parts_left_out(
    patches: Artefact, splits: dict[str, Samples]
) -> None:
    assert sum(count_rows(patches, ("train",)).values()) == 20
    assert sum(count_rows(patches, ("train", "val")).values()) == 33
    only_train = patches.read_table(names=["part-000003.parquet"], splits=("train",))
    patches.write_table("part-000003.parquet", only_train)
    assert list(count_rows(patches, ("test",))) == [f"part-{i:06d}.parquet" for i in range(3)]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_the_shards_of_a_split_are_disjoint_and_complete(
    patches: Artefact, splits: dict[str, Samples], world: int
) -> None:
    seen: list[str] = []
    for rank in range(world):
        reader = SplitReader(patches, SHAPE, "val", shard=Shard(rank, world), with_labels=True)
        for samples in reader:
            seen += list(samples.ids)
            rows = [int(i.removeprefix("val")) for i in samples.ids]
            assert torch.equal(samples.labels, splits["val"].labels[rows])
            assert torch.equal(samples.pixels, splits["val"].pixels[rows])
    assert sorted(seen) == list(splits["val"].ids)


def test_what_fits_is_kept_and_the_rest_read_again(patches: Artefact) -> None:
    sizes = [rows * int(np.prod(SHAPE)) for rows in count_rows(patches, ("val",)).values()]
    reader = SplitReader(
        patches, SHAPE, "val", with_labels=True, keep_bytes=sizes[0] + sizes[1] + sizes[2] // 2
    )
    passes = [[list(samples.ids) for samples in reader] for _ in range(3)]
    assert passes[0] == passes[1] == passes[2]
    for name in patches.files("part-"):
        patches.delete(name)
    again = iter(reader)
    assert [list(next(again).ids) for _ in range(2)] == passes[0][:2]
    with pytest.raises(CellError, match=r"part-000002\.parquet is missing: run again"):
        next(again)


def test_a_part_that_does_not_fit_leaves_the_room_for_a_smaller_one(patches: Artefact) -> None:
    large = pa.concat_tables([patches.read_table(names=[f"part-{i:06d}.parquet"]) for i in (0, 1)])
    patches.write_table("part-000000.parquet", large)
    patches.delete("part-000001.parquet")
    sizes = [rows * int(np.prod(SHAPE)) for rows in count_rows(patches, ("val",)).values()]
    assert sizes[0] > sizes[1] + 100
    reader = SplitReader(patches, SHAPE, "val", with_labels=True, keep_bytes=sizes[1])
    passes = [[list(samples.ids) for samples in reader] for _ in range(2)]
    patches.delete("part-000002.parquet")
    again = iter(reader)
    assert [list(next(again).ids) for _ in range(2)] == passes[0][:2] == passes[1][:2]
