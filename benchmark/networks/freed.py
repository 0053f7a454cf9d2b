"""Keep the memory that a forward pass frees for the next one."""

from __future__ import annotations

import ctypes
import functools
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of the settings in glibc's ``malloc.h``."""

LARGEST_BYTES = 32 * 2**20
"""Largest piece of memory to keep; glibc takes no more."""

KEPT_BYTES = 256 * 2**20
"""How much freed memory a process keeps at most."""


@functools.cache
def keep_freed_memory() -> None:
    """Have this process keep freed memory, where its C library is glibc.

    By default glibc returns the memory of each activation to Linux, which then clears every page
    anew: a third of the time of small networks on a CPU (``python -m perf.peers --forward``).
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # another C library
        return
    # Setting one of them alone fixes the other at its default, which is too low.
    set_option(MMAP_THRESHOLD, LARGEST_BYTES)
    set_option(TRIM_THRESHOLD, KEPT_BYTES)
