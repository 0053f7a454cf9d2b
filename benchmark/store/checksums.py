"""Checksums of files and manifests, by XXH3: fast, and made to find damage, not forgery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

SEAL = "seal"
"""The key of a sealed document that holds the checksum of all its other keys."""


def checksum(content: bytes | memoryview) -> str:
    """Return the XXH3 checksum of a file's content: 64 bits as 16 hex digits."""
    return str(xxhash.xxh3_64_hexdigest(content))


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with its own checksum under the key ``seal``."""
    return {**document, SEAL: _checksum_of(document)}


def is_broken(document: Mapping[str, Any]) -> bool:
    """Return whether a document that was read does not match its seal; False without a seal."""
    return SEAL in document and document[SEAL] != _checksum_of(document)


def _checksum_of(document: Mapping[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != SEAL}
    # As it will be read: keys are texts and tuples are lists.
    as_read = json.loads(json.dumps(content))
    return checksum(json.dumps(as_read, sort_keys=True, separators=(",", ":")).encode())
