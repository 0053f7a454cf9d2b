"""Two processes that train together, as forks of one that has imported torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.forks import serve_forks


def run_pair(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a rank, 0 or 1, and of arguments in two processes at once."""
    serve_forks()
    torch.multiprocessing.start_processes(
        function, args=arguments, nprocs=2, start_method="forkserver"
    )
