"""A root in a bucket of S3, Google Cloud Storage or Azure, opened as stores are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from shutil import copyfileobj
from typing import Any, TypeVar

from benchmark.catalog.roots.gdal import options_of
from benchmark.catalog.roots.remote import LATER, NO_ANSWER, RemoteRoot, Stat
from benchmark.catalog.roots.root import CutOff, Unreadable
from benchmark.errors import BenchmarkError, CellError, UsageError
from benchmark.store.deadlines import within
from benchmark.store.files import TRIAL_LONGEST_S, TRIAL_NUM_TRIES
from benchmark.store.filesystems import (
    ANSWER_TIMEOUT_S,
    Opened,
    join,
    open_filesystem,
    open_for_trial,
)
from benchmark.store.retries import explain, is_transient, retry

T = TypeVar("T")

FACTS_TIMEOUT_S = 120.0
"""Longest wait for what a bucket says of a file or of its list of files."""
CHUNK_BYTES = 2**20
REFUSED = re.compile(r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|[Ff]orbidden|\b40[13]\b")
"""In the answer of a bucket that does not tell what it holds."""
TAGS = ("ETag", "etag", "Last-Modified", "last_modified", "LastModified", "updated")
"""What libraries call the ETag and the time of modification, best first."""


@dataclass(frozen=True, kw_only=True)
class BucketRoot(RemoteRoot):
    """A prefix of a bucket as a ``root.Root``."""

    connection: Mapping[str, Any] | None = field(default=None, repr=False)
    """Of S3; each process opens its own."""

    def list(self, pattern: str) -> Sequence[str]:
        """Return the paths of the objects that match a glob, sorted.

        Raises:
            UsageError: the bucket cannot be listed.
        """
        import pyarrow.fs as pafs
        from fsspec.utils import glob_translate

        fs, base = self._open().fs, self._open().root
        selector = pafs.FileSelector(base, allow_not_found=True, recursive=True)
        try:
            found = self.asked(lambda: self._ask("", lambda: fs.get_file_info(selector)))
        except (CellError, OSError) as error:
            reason = error.problem.reason if isinstance(error, Unreadable) else error
            raise UsageError(f"[dataset] root = '{self.address}': {reason}") from None
        paths = [item.path.removeprefix(base).lstrip("/") for item in found if item.is_file]
        matches = re.compile(glob_translate(pattern)).match
        return sorted(path for path in paths if matches(path))

    def stat(self, path: str) -> Stat:
        """Return size and ETag of an object (see ``RemoteRoot``)."""
        return self._ask(path, lambda: _stat_of(self._open().fs, self._place(path)))

    def fetch(self, path: str, num_bytes: int, start: int = 0) -> bytes:
        """Return bytes of an object (see ``RemoteRoot``)."""

        def read() -> bytes:
            with self._open().fs.open_input_file(self._place(path)) as file:
                file.seek(start)
                return bytes(file.read(num_bytes))

        return self._ask(path, read)

    def download(self, path: str, place: Path) -> int:
        """Copy a whole object once and return its bytes (see ``RemoteRoot``)."""

        def copy() -> int:
            with (
                self._open().fs.open_input_stream(self._place(path)) as source,
                place.open("wb") as file,
            ):
                copyfileobj(source, file, CHUNK_BYTES)
                return file.tell()

        return self._ask(path, copy, timeout_s=None)

    def check_answer(self) -> None:
        """Ask the bucket once, with little patience; what it answers is looked at later.

        Raises:
            UsageError: it does not answer.
        """
        fs = open_for_trial(self.address, self._open())
        where = f"[dataset] root = '{self.address}'"

        def ask() -> None:
            retry(
                lambda: fs.get_file_info(self._open().root),
                what=where,
                num_tries=TRIAL_NUM_TRIES,
                longest_s=TRIAL_LONGEST_S,
            )

        try:
            within(ask, timeout_s=ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise UsageError(f"{where}: {NO_ANSWER}") from None
        except Exception as error:
            # The drivers of buckets raise more than OSError. Who may read objects may be refused
            # their list.
            if REFUSED.search(str(error)) is None:
                raise UsageError(f"{where}: {explain(error)}") from None

    def where(self, path: str) -> str:
        """Return the URI of an object."""
        return join(self.address, path)

    def _open(self) -> Opened:
        return _opened(self.address, tuple((self.connection or {}).items()))

    def _place(self, path: str) -> str:
        return f"{self._open().root}/{path}".rstrip("/")

    def _ask(
        self, path: str, work: Callable[[], T], *, timeout_s: float | None = FACTS_TIMEOUT_S
    ) -> T:
        """Return the result of requests; their errors become those of ``RemoteRoot``."""
        try:
            return work() if timeout_s is None else within(work, timeout_s=timeout_s)
        except FileNotFoundError:
            raise
        except TimeoutError:
            # Not asked again: the library below has tried until now.
            raise CellError(f"no answer in time ({self.where(path)}); {LATER}") from None
        except OSError as error:
            text = f"{explain(error)} ({self.where(path)})"
            if "curlCode" in str(error):
                raise CellError(f"{text}; run again: what was read is kept") from None
            raise (CutOff if is_transient(error) else Unreadable)(path, text) from None
        except BenchmarkError:
            raise
        except Exception as error:
            # The drivers of buckets raise more than OSError, also in the middle of a file.
            raise CutOff(path, f"{explain(error)} ({self.where(path)})") from None


def open_bucket_root(address: str) -> BucketRoot:
    """Return a root in a bucket, with the credentials of this environment.

    Raises:
        UsageError: the address or a setting is wrong, or the bucket does not answer.
    """
    try:
        connection = open_filesystem(address).connection
    except UsageError as error:
        raise UsageError(
            str(error).replace(f"store '{address}'", f"[dataset] root = '{address}'")
        ) from None
    found: dict[str, Any] | None = None if connection is None else dict(connection)
    if found is not None and os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() == "YES":
        secrets = ("access_key", "secret_key", "session_token")
        found = {key: value for key, value in found.items() if key not in secrets}
        found["anonymous"] = True
    return BucketRoot(address=address, connection=found, options=options_of(address, connection))


@lru_cache(maxsize=8)
def _opened(address: str, connection: tuple[tuple[str, Any], ...]) -> Opened:
    return open_filesystem(address, dict(connection) or None)


def _stat_of(fs: Any, place: str) -> Stat:
    if fs.type_name.startswith("py::fsspec"):
        facts = dict(fs.handler.fs.info(place))
        num_bytes = int(facts["size"])
    else:
        with fs.open_input_file(place) as file:
            num_bytes = file.size()
            facts = {key: value.decode() for key, value in file.metadata().items()}
    tag = next((str(facts[key]) for key in TAGS if facts.get(key)), "")
    return Stat(num_bytes, tag)
