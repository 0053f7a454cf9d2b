"""Two processes that train together, as forks of one that has imported torch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch


def run_pair(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a rank, 0 or 1, and of arguments in two processes at once."""
    multiprocessing.set_forkserver_preload(["torch", "benchmark.training.segment", "tests.toys"])
    torch.multiprocessing.start_processes(
        function, args=arguments, nprocs=2, start_method="forkserver"
    )
