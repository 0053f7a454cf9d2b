"""The user's cache between runs: digests, device measurements, compiled models."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(name: str = "") -> Path:
    """Return a folder of the user's cache, created if missing; only this user can write to it.

    Raises:
        OSError: it cannot be created, e.g. below a read-only home.
    """
    folder = user_cache_path("backbone-benchmark") / name
    is_homeless = not os.environ.get("XDG_CACHE_HOME") and os.environ.get("HOME") == ""
    if is_homeless or not folder.is_absolute():
        raise FileNotFoundError("there is no home folder for a cache")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
