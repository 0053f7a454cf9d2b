"""Read regular files of bounded size (a pipe or a device could wait for ever); follow links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, *, most_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a folder, a pipe, a socket or a device, or larger than ``most_bytes``.
    """
    _refuse_irregular(path.stat().st_mode)
    # It may be replaced between the two calls.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123
        _refuse_irregular(os.fstat(descriptor).st_mode)
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes / 2**20:g} MiB")
    return data


def follow_links(path: Path) -> Path:
    """Return an absolute path without links; what is missing is kept as it is.

    Raises:
        OSError: the links form a loop, or a name is too long for the file system.
    """
    try:
        found = path.resolve()
    except RuntimeError:
        # So Python says it up to version 3.12; later ones return the loop.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
    try:
        found.stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise OSError(error.errno, error.strerror) from None
    return found


def _refuse_irregular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError("it is a directory; give the path of a file")
    if not stat.S_ISREG(mode):
        kind = (
            "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        )
        raise ValueError(f"it is {kind}; give the path of a regular file")
