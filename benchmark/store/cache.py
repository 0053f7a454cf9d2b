"""The user's cache between runs: digests, device measurements, compiled models."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(name: str = "") -> Path:
    """Return a folder of the user's cache, created if missing; only this user can write to it.

    Raises:
        OSError: it cannot be created, e.g. below a read-only home, or there is no home.
    """
    try:
        folder = user_cache_path("backbone-benchmark") / name
    except RuntimeError:
        folder = Path(name)
    if not folder.is_absolute():
        # There is neither HOME nor an entry in the list of users.
        raise FileNotFoundError("there is no home folder for a cache")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
