"""Recognisable secrets for an environment, and a search for them in everything that is written."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil

# New each time: a secret that stood here would be found in what is shipped of this folder.
_TOKEN = secrets.token_hex(32)

SECRETS = {
    "AWS_ACCESS_KEY_ID": f"AKIA{_TOKEN[:16].upper()}",
    "AWS_SECRET_ACCESS_KEY": f"s3cr3t/of+the/{_TOKEN[:26]}",
    "AWS_SESSION_TOKEN": f"session+token/of+the/{_TOKEN[26:52]}==/end",
    "HF_TOKEN": f"hf_{_TOKEN[10:44]}",
    "RAY_AUTH_TOKEN": _TOKEN,
}


def spellings(secret: str) -> Iterator[bytes]:
    """Yield a secret as it may be written: plain, in a URL, in base64 and in hexadecimal."""
    plain = secret.encode()
    yield plain
    yield quote(secret, safe="").encode()
    # Padding depends on what surrounds it; its middle does not, at one of three offsets.
    for offset in range(3):
        num_bytes = (len(plain) - offset) // 3 * 3
        yield base64.b64encode(plain[offset : offset + num_bytes])
    yield plain.hex().encode()


NEEDLES = [(name, text) for name, secret in SECRETS.items() for text in spellings(secret)]


def find_secrets(written: Iterable[tuple[str, bytes]]) -> list[str]:
    """Return which secrets stand where.

    Args:
        written: what is searched: its name for the message, and its content.
    """
    return sorted(
        {
            f"{name} in {place}"
            for place, content in written
            for name, text in NEEDLES
            if text in content
        }
    )


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every regular file below folders, but the token's own."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.name != "auth_token":
                with contextlib.suppress(FileNotFoundError):
                    yield str(path), path.read_bytes()


def command_lines(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the command lines, which everybody on a machine may read, of processes of a home."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HOME") == str(home):
                words = process.cmdline()
                yield f"the command line of {words[:1]}", " ".join(words).encode()
