"""Folders and the token of a local Ray, where the usual ones cannot be used.

Ray keeps sockets in ``/tmp/ray``, or below ``RAY_TMPDIR`` or ``TMPDIR``, and its token in the home
folder. Batch systems give long paths, and containers a home that is read-only or missing.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError, one_line

MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes of a socket's path (``sun_path`` of unix(7) without its last zero; macOS takes fewer)."""
SHORT_ROOTS = ("/tmp", "/var/tmp", "/dev/shm")
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def token_file() -> Path | None:
    """Return where Ray keeps this user's token; None if there is no home folder."""
    try:
        return Path("~/.ray/auth_token").expanduser()
    except RuntimeError:
        return None


def prepare_folders(stack: ExitStack) -> dict[str, Any]:
    """Return the options of ``ray.init`` for its folders; none if the usual folder works.

    Otherwise they name private folders, which are deleted when the stack is closed. Objects that do
    not fit into memory go to the temporary folder, which may be on a larger disk than the sockets.

    Raises:
        UsageError: no folder can be used.
    """
    from ray._common.utils import get_default_ray_temp_dir

    usual = Path(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]
    problem = _problem_of(usual)
    if not problem:
        return {}
    roots = [*filter(None, [os.environ.get("XDG_RUNTIME_DIR")]), *SHORT_ROOTS]
    for root in roots:
        with suppress(OSError):
            folder = _make_private(stack, root)
            if _is_short(Path(folder)):
                spilled = _make_private(stack, tempfile.gettempdir())
                return {"_temp_dir": folder, "object_spilling_directory": spilled}
    raise UsageError(
        f"no folder for Ray's sockets: {usual} {problem}, and {', '.join(roots)} cannot be used "
        "either; set RAY_TMPDIR to a short folder that you can write to"
    )


def prepare_token(stack: ExitStack) -> None:
    """Make a token if this user has none: in the home folder or, for this run alone, elsewhere.

    A home folder that ``HOME`` does not name is one that Ray's own processes do not find.

    Raises:
        UsageError: no file can be written.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get(TOKEN_PATH):
        return
    path = token_file() if "HOME" in os.environ else None
    with suppress(OSError):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_new(path)
            return
    try:
        path = Path(_make_private(stack, tempfile.gettempdir())) / "auth_token"
        _write_new(path)
    except OSError as error:
        raise UsageError(f"Ray's token cannot be written: {one_line(error)}") from None
    os.environ[TOKEN_PATH] = str(path)
    stack.callback(os.environ.pop, TOKEN_PATH, None)
    _forget_token()


def _forget_token() -> None:
    """Make Ray read the token again: it may hold that of an earlier run in this process."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()


def _write_new(path: Path) -> None:
    """Write a token that only this user can read, unless there is one; never a part of it."""
    if path.is_file():
        return
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".token-") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        with suppress(FileExistsError):
            os.link(file.name, path)


def _problem_of(folder: Path) -> str:
    """Return why Ray cannot keep its sockets in a folder; empty if it can."""
    if not folder.is_absolute():
        return "is not an absolute path"
    if not _is_short(folder):
        return "has a path that is too long"
    try:
        if not folder.parent.is_dir():
            return "is in no folder"
        if folder.exists():
            if folder.stat().st_uid != os.geteuid():
                return "belongs to another user"
            tempfile.TemporaryFile(dir=folder).close()
        else:
            tempfile.TemporaryFile(dir=folder.parent).close()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def _is_short(folder: Path) -> bool:
    session = f"session_2000-01-01_00-00-00_000000_{os.getpid()}"
    longest = folder / session / "sockets" / "plasma_store"
    return len(os.fsencode(longest)) <= MAX_SOCKET_PATH


def _make_private(stack: ExitStack, root: str) -> str:
    """Make a folder that only this user can enter; it is deleted when the stack is closed."""
    made = tempfile.TemporaryDirectory(prefix="bm-", dir=root, ignore_cleanup_errors=True)
    return stack.enter_context(made)
