"""The one process that others are forks of, which saves the seconds of importing torch."""

from __future__ import annotations

from multiprocessing import forkserver

import pytest

LOADED = ("PIL.Image", "numpy", "pytest", "torch", "torch.export", "transformers.pipelines")
"""What it has imported: never this package, which some of the forks must not find.

A process that runs tests has a single such server, which keeps the list and the environment of its
first fork: were they given elsewhere too, the order of tests would decide what a fork holds.
"""


def serve_forks() -> None:
    """Start the server, unless it runs."""
    forkserver.set_forkserver_preload(list(LOADED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        forkserver.ensure_running()
