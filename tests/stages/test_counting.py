"""Patches are counted once, although batches, parts and later runs report them."""

from __future__ import annotations

import threading

from benchmark.stages.embed.counting import PartCounts, item_of


def test_batches_parts_and_later_runs_count_each_patch_once() -> None:
    shown: list[int] = []
    counts = PartCounts(shown.append)
    counts.reach({(0, "a"): 64, (1, "a"): 64})  # found of an earlier run: one report
    counts.reach_items({item_of(0, "b"): 8})
    counts.reach_items({item_of(0, "b"): 8})
    counts.reach_items({item_of(0, "b"): 24})
    counts.reach_items({item_of(0, "b"): 4})  # its process died and began anew
    counts.reach({(0, "b"): 60})
    counts.reach({(0, "a"): 64, (0, "b"): 60})  # the pipeline is repeated
    counts.reach_items({item_of(0, "c"): 4, item_of(1, "b"): 8})  # in one report
    assert shown == [128, 8, 16, 36, 12]


def test_threads_lose_no_patch() -> None:
    shown: list[int] = []
    counts = PartCounts(shown.append)

    def report(number: int) -> None:
        for count in range(1, 101):
            counts.reach({(number % 2, "a"): count})

    threads = [threading.Thread(target=report, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(shown) == 200
