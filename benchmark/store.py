"""Where artefacts live, on local disk or any Arrow file system, and how they are committed.

An artefact is a folder ``<store>/<stage>/<name>-<fingerprint>``. Its files are written under a
temporary name and moved into place, its ``manifest.json`` last: an artefact is complete when
its manifest exists. Two runs on one store write the same bytes under the same names, so the
later one replaces a file by an equal one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmark.errors import CellError, UsageError

MANIFEST = "manifest.json"
FAILURE = "failure.json"
PLAN = "plan.json"

Status = Literal["complete", "stale", "missing", "failed"]


class Store:
    """A root folder for artefacts, given as a path or a URI (``s3://bucket/prefix``)."""

    def __init__(self, uri: str) -> None:
        """Open the store without touching it.

        Raises:
            UsageError: the URI's scheme is unknown.
        """
        self.uri = uri
        try:
            if "://" in uri:
                self.fs, self.root = pafs.FileSystem.from_uri(uri)
            else:
                self.fs, self.root = pafs.LocalFileSystem(), str(Path(uri).absolute())
        except (pa.ArrowInvalid, OSError) as error:
            raise UsageError(f"store '{uri}': {error}") from None
        self.is_local = isinstance(self.fs, pafs.LocalFileSystem)

    def check_writable(self) -> None:
        """Create the root and write a probe.

        Raises:
            UsageError: it cannot be written; says why.
        """
        probe = f"{self.root}/.probe-{uuid.uuid4().hex}"
        try:
            self.fs.create_dir(self.root, recursive=True)
            with self.fs.open_output_stream(probe) as stream:
                stream.write(b"probe")
            self.fs.delete_file(probe)
        except OSError as error:
            raise UsageError(
                f"store '{self.uri}' cannot be written: {_reason(error)}. "
                "Choose another with --store."
            ) from None

    def artefact(self, stage: str, name: str, fingerprint: str) -> Artefact:
        """Return the artefact of that identity, whether or not it exists."""
        return Artefact(store=self, stage=stage, name=name, fingerprint=fingerprint)

    def other_fingerprints(self, artefact: Artefact) -> list[str]:
        """Return the fingerprints of complete artefacts of that name under other settings."""
        found = []
        selector = pafs.FileSelector(f"{self.root}/{artefact.stage}", allow_not_found=True)
        for info in self.fs.get_file_info(selector):
            name, _, fingerprint = info.base_name.rpartition("-")
            if name == artefact.name and fingerprint != artefact.fingerprint:
                other = self.artefact(artefact.stage, name, fingerprint)
                if other.is_complete:
                    found.append(fingerprint)
        return found


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One folder of the store; it pickles, and workers write through it."""

    store: Store
    stage: str
    name: str
    fingerprint: str

    @property
    def path(self) -> str:
        """Its folder: an absolute path, or a key without the scheme."""
        return f"{self.store.root}/{self.stage}/{self.name}-{self.fingerprint}"

    @property
    def uri(self) -> str:
        """Its folder as the user would write it."""
        return f"{self.store.uri.rstrip('/')}/{self.stage}/{self.name}-{self.fingerprint}"

    @property
    def is_complete(self) -> bool:
        """Whether its manifest exists."""
        return self.has(MANIFEST)

    def status(self) -> tuple[Status, str]:
        """Return complete, failed, stale or missing, and the reason."""
        if self.is_complete:
            return "complete", ""
        if self.has(FAILURE):
            return "failed", str(self.read_json(FAILURE).get("reason", ""))
        others = self.store.other_fingerprints(self)
        if others:
            return "stale", f"computed with other settings ({', '.join(sorted(others)[:3])})"
        return "missing", ""

    def file(self, name: str) -> str:
        """Return the path of one of its files."""
        return f"{self.path}/{name}"

    def has(self, name: str) -> bool:
        """Return whether it holds a file of that name."""
        info = self.store.fs.get_file_info(self.file(name))
        return bool(info.type == pafs.FileType.File)

    def files(self, prefix: str = "") -> list[str]:
        """Return the sorted names of its files that begin with a prefix, without temporaries."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        names = (info.base_name for info in self.store.fs.get_file_info(selector) if info.is_file)
        return sorted(name for name in names if name.startswith(prefix) and ".tmp-" not in name)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write one file: all of it, or nothing.

        Raises:
            CellError: the store is full or cannot be written.
        """
        fs, final = self.store.fs, self.file(name)
        # On an object store a PUT is atomic by itself; elsewhere a rename is.
        target = f"{final}.tmp-{uuid.uuid4().hex}" if self.store.is_local else final
        try:
            fs.create_dir(self.path, recursive=True)
            with fs.open_output_stream(target) as stream:
                stream.write(content)
            if self.store.is_local:
                Path(target).replace(final)
        except OSError as error:
            if self.store.is_local:
                _discard(target)
            raise CellError(f"{self.uri}/{name} cannot be written: {_reason(error)}") from None

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file: all of it, or nothing."""
        sink = pa.BufferOutputStream()
        # Pixels and embeddings are noise to a compressor: it costs time and saves little.
        codecs = {
            column: "NONE" if column in ("image", "embedding", "y_score") else "ZSTD"
            for column in table.column_names
        }
        pq.write_table(table, sink, compression=codecs, use_dictionary=["split", "scene", "region"])
        self.write_bytes(name, memoryview(sink.getvalue()))  # type: ignore[arg-type]

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file: all of it, or nothing."""
        self.write_bytes(name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def delete(self, name: str) -> None:
        """Delete one file; one that is gone already is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.store.fs.delete_file(self.file(name))

    def read_bytes(self, name: str) -> bytes:
        """Return the content of one file."""
        with self.store.fs.open_input_file(self.file(name)) as stream:
            return bytes(stream.read())

    def read_json(self, name: str) -> Any:
        """Return the content of one JSON file."""
        return json.loads(self.read_bytes(name))

    def read_table(
        self,
        *,
        prefix: str = "part-",
        columns: Sequence[str] | None = None,
        names: Iterable[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return its Parquet files as one table, sorted by ``patch_id`` where it has one.

        Args:
            prefix: of the files to read.
            columns: to read; None reads all.
            names: read these files instead.
            splits: keep only the rows of these splits; others are dropped while reading.
        """
        filters = None if splits is None else [("split", "in", list(splits))]
        tables = [
            pq.read_table(
                self.file(name),
                columns=None if columns is None else list(columns),
                filters=filters,
                filesystem=self.store.fs,
                partitioning=None,
            )
            for name in (self.files(prefix) if names is None else names)
        ]
        table = pa.concat_tables(tables)
        if "patch_id" in table.column_names and not _is_sorted(table["patch_id"]):
            table = table.sort_by("patch_id")
        return table

    def begin(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Remember the plan of an artefact's first run and return it to every later one.

        A plan (batch size, layout, parts) does not change the identity of a result, but may
        change its last bits, so an interrupted artefact goes on with the plan of its begin.
        """
        if self.has(PLAN):
            return dict(self.read_json(PLAN))
        if self.store.is_local:
            target = f"{self.file(PLAN)}.tmp-{uuid.uuid4().hex}"
            try:
                Path(self.path).mkdir(parents=True, exist_ok=True)
                Path(target).write_text(json.dumps(plan, indent=2, sort_keys=True))
                os.link(target, self.file(PLAN))
            except FileExistsError:
                return dict(self.read_json(PLAN))
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise CellError(f"{self.uri} cannot be written: {_reason(error)}") from None
                # A file system without hard links: the later of two first runs wins.
                self.write_json(PLAN, plan)
            finally:
                _discard(target)
        else:
            self.write_json(PLAN, plan)
        return dict(self.read_json(PLAN))

    def commit(self, manifest: dict[str, Any]) -> None:
        """Complete the artefact: write its manifest, the last file of all.

        On a local disk every file has reached the disk before: a manifest that survives a power
        cut has its files beside it.
        """
        if self.store.is_local:
            for name in self.files():
                _sync(self.file(name))
        self.write_json(
            MANIFEST,
            {
                "stage": self.stage,
                "name": self.name,
                "fingerprint": self.fingerprint,
                "files": [name for name in self.files() if name not in (MANIFEST, FAILURE)],
                **manifest,
            },
        )
        self._forget_failure()

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete artefact."""
        return dict(self.read_json(MANIFEST))

    def fail(self, reason: str) -> None:
        """Record why the artefact could not be computed; a later run tries again."""
        if not self.is_complete:
            self.write_json(FAILURE, {"reason": reason})

    def _forget_failure(self) -> None:
        if self.has(FAILURE):
            self.store.fs.delete_file(self.file(FAILURE))


def _is_sorted(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    if len(column) < 2:
        return True
    column = column.combine_chunks()
    return bool(pc.all(pc.less_equal(column.slice(0, len(column) - 1), column.slice(1))).as_py())


def _discard(path: str) -> None:
    # Best effort: what made the write fail may make this fail, and it is the first that counts.
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC or "No space left" in str(error):
        return "no space left on the device"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    if error.errno in (errno.EROFS,):
        return "read-only file system"
    return os.strerror(error.errno) if error.errno else str(error)
