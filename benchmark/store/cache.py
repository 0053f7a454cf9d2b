"""What this user keeps between runs: digests, measurements of devices, compiled models."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(name: str = "") -> Path:
    """Return a folder of this user's cache, made if need be, which nobody else can write to.

    Raises:
        OSError: it cannot be made, e.g. below a read-only home.
    """
    folder = user_cache_path("backbone-benchmark") / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
