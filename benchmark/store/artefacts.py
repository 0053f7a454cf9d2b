"""Read, write and commit artefacts, on local disk or any Arrow file system.

An artefact is a folder ``<store>/<stage>/<name>-<fingerprint>``. Each of its files appears whole:
by a rename on a disk, by a single upload on an object store. ``manifest.json`` is written last: an
artefact is complete when its manifest exists. Two runs on one store write the same bytes under
the same names, so the later one replaces a file by an equal one.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmark.errors import CellError
from benchmark.store.damage import compare_sizes, decode_parquet, describe_damage
from benchmark.store.files import Files, discard
from benchmark.store.filesystems import join
from benchmark.store.retries import explain

T = TypeVar("T")

MANIFEST = "manifest.json"
FAILURE = "failure.json"
PLAN = "plan.json"

Status = Literal["complete", "stale", "missing", "failed"]


class Store(Files):
    """A root folder for artefacts, given as a path or a URI (``s3://bucket/prefix``)."""

    def artefact(self, stage: str, name: str, fingerprint: str) -> Artefact:
        """Return the artefact with this identity; it need not exist."""
        return Artefact(store=self, stage=stage, name=name, fingerprint=fingerprint)

    def other_fingerprints(self, artefact: Artefact) -> list[str]:
        """Return the fingerprints of complete artefacts with the same name and other settings."""
        found = []
        selector = pafs.FileSelector(f"{self.root}/{artefact.stage}", allow_not_found=True)
        for info in self.attempt(artefact.stage, "read", lambda: self.fs.get_file_info(selector)):
            name, _, fingerprint = info.base_name.rpartition("-")
            is_other = name == artefact.name and fingerprint != artefact.fingerprint
            if is_other and self.artefact(artefact.stage, name, fingerprint).is_complete:
                found.append(fingerprint)
        return found


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One folder of the store. It can be pickled, and workers write through it."""

    store: Store
    stage: str
    name: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """The folder, relative to the store's root."""
        return f"{self.stage}/{self.name}-{self.fingerprint}"

    @property
    def path(self) -> str:
        """The folder as an absolute path, or as a key without the scheme."""
        return f"{self.store.root}/{self.folder}"

    @property
    def uri(self) -> str:
        """The folder as the user would write it."""
        return join(self.store.uri, self.folder)

    @property
    def is_complete(self) -> bool:
        """Whether the manifest exists."""
        return self.has(MANIFEST)

    @property
    def is_listed_complete(self) -> bool:
        """Whether a listing shows the manifest, which bypasses caches of absent names (NFS)."""
        return MANIFEST in self.files()

    def status(self) -> tuple[Status, str]:
        """Return the status and its reason."""
        status, reason = self.own_status()
        if status == "missing" and (others := self.store.other_fingerprints(self)):
            return "stale", f"computed with other settings ({', '.join(sorted(others)[:3])})"
        return status, reason

    def own_status(self) -> tuple[Status, str]:
        """Return the status and its reason from the artefact's own files; stale is missing."""
        if self.is_complete:
            return self._check_complete()
        if self.has(FAILURE):
            return "failed", self._reason()
        return "missing", ""

    def damaged(self) -> list[str]:
        """Return the sorted names of the manifest's files that are missing or of another size.

        Manifests of older versions contain no sizes: the list is empty.

        Raises:
            CellError: the manifest is damaged, or the store cannot be read.
        """
        return sorted(self._differences())

    def file(self, name: str) -> str:
        """Return the path of a file."""
        return self.store.place(f"{self.folder}/{name}")

    def file_uri(self, name: str) -> str:
        """Return the URI of a file as the user would write it."""
        return join(self.store.uri, f"{self.folder}/{name}")

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.store.has(f"{self.folder}/{name}")

    def files(self, prefix: str = "") -> list[str]:
        """Return the sorted names of files with a prefix, without temporary files."""
        return [name for name in self.store.sizes(self.folder) if name.startswith(prefix)]

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write one file atomically.

        Raises:
            CellError: the store is full or cannot be written.
        """
        self.store.write(f"{self.folder}/{name}", content)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file atomically."""
        sink = pa.BufferOutputStream()
        # Pixels and embeddings hardly compress: it costs time and saves little.
        codecs = {
            column: "NONE" if column in ("image", "embedding", "y_score") else "ZSTD"
            for column in table.column_names
        }
        pq.write_table(
            table,
            sink,
            compression=codecs,
            use_dictionary=["split", "scene", "region"],
            write_page_checksum=True,
        )
        self.write_bytes(name, memoryview(sink.getvalue()))  # type: ignore[arg-type]

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file atomically."""
        self.write_bytes(name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def delete(self, name: str) -> None:
        """Delete one file; a missing file is no error."""
        self.store.delete(f"{self.folder}/{name}")

    def read_bytes(self, name: str) -> bytes:
        """Return the content of one file."""
        return self.store.read(f"{self.folder}/{name}")

    def read_schema(self, name: str) -> pa.Schema:
        """Return the schema of one Parquet file, with its metadata."""
        return self.read_metadata(name).schema.to_arrow_schema()

    def read_metadata(self, name: str) -> pq.FileMetaData:
        """Return the footer of one Parquet file.

        Raises:
            CellError: the file is damaged, or the store cannot be read.
        """
        return self._decode(name, lambda source, fs: pq.read_metadata(source, filesystem=fs))

    def read_json(self, name: str) -> Any:
        """Return the content of one JSON file.

        Raises:
            CellError: the file is damaged, or the store cannot be read.
        """
        content = self.read_bytes(name)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            cause = f"not JSON: {error}" if content else "the file is empty"
            raise self._damage(name, cause) from None

    def read_table(
        self,
        *,
        prefix: str = "part-",
        columns: Sequence[str] | None = None,
        names: Iterable[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return Parquet files as one table, sorted by ``patch_id`` if it has that column.

        Args:
            prefix: read the files whose names begin with it.
            columns: to read; None reads all.
            names: read these files instead.
            splits: read only the rows of these splits.

        Raises:
            CellError: a file is missing or damaged, or the store cannot be read.
        """
        filters = None if splits is None else [("split", "in", list(splits))]

        def read(source: str, fs: pafs.FileSystem) -> pa.Table:
            return pq.read_table(
                source,
                columns=None if columns is None else list(columns),
                filters=filters,
                filesystem=fs,
                partitioning=None,
                page_checksum_verification=True,
            )

        found = list(self.files(prefix) if names is None else names)
        if not found:
            raise CellError(f"{self.uri} holds no file {prefix}*: delete it and run again")
        try:
            tables = [self._decode(name, read) for name in found]
        except FileNotFoundError:
            gone = next((name for name in found if not self.has(name)), found[0])
            raise CellError(
                f"{self.file_uri(gone)} is missing: delete {self.uri} and run again"
            ) from None
        table = pa.concat_tables(tables)
        if "patch_id" in table.column_names and not _is_sorted(table["patch_id"]):
            table = table.sort_by("patch_id")
        return table

    def begin(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Save the plan of an artefact's first run, and return that plan to every later run.

        A plan (batch size, layout, parts) does not change the identity of a result, but may
        change its last bits: an interrupted artefact must be resumed with its first plan.

        Raises:
            CellError: the store is full or cannot be written.
        """
        begun = self.plan()
        if begun is not None:
            return begun
        if self.store.is_local:
            target = f"{self.file(PLAN)}.tmp-{uuid.uuid4().hex}"
            try:
                Path(self.path).mkdir(parents=True, exist_ok=True)
                Path(target).write_text(json.dumps(plan, indent=2, sort_keys=True))
                os.link(target, self.file(PLAN))
            except FileExistsError:
                return self._read_object(PLAN)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise CellError(f"{self.uri} cannot be written: {explain(error)}") from None
                # Without hard links, the later of two first runs wins.
                self.write_json(PLAN, plan)
            finally:
                discard(target)
        else:
            self.write_json(PLAN, plan)
        begun = self.plan()
        if begun is None:
            raise CellError(f"{self.uri} cannot be written: its folder is gone")
        return begun

    def plan(self) -> dict[str, Any] | None:
        """Return the plan of the first run, or None before ``begin``."""
        return self._read_object(PLAN) if self.has(PLAN) else None

    def commit(self, manifest: dict[str, Any]) -> None:
        """Complete the artefact: write its manifest as the last file.

        On a local disk, all files are synced first: a manifest that survives a power cut has its
        files beside it.

        Raises:
            CellError: a file is empty, or the store cannot be written.
        """
        sizes = self.store.sizes(self.folder)
        for name, size in sizes.items():
            if not size:
                raise CellError(f"{self.file_uri(name)} is empty: delete it and run again")
            if self.store.is_local:
                self.store.attempt(
                    f"{self.folder}/{name}", "written", partial(_sync, self.file(name))
                )
        sizes = {key: size for key, size in sizes.items() if key not in (MANIFEST, FAILURE)}
        self.write_json(
            MANIFEST,
            {
                "stage": self.stage,
                "name": self.name,
                "fingerprint": self.fingerprint,
                "files": list(sizes),
                "bytes": sizes,
                **manifest,
            },
        )
        self.delete(FAILURE)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete artefact.

        Raises:
            CellError: the manifest is damaged, or the store cannot be read.
        """
        return self._read_object(MANIFEST)

    def fail(self, reason: str) -> None:
        """Record why the artefact could not be computed; a later run tries again."""
        if not self.is_complete:
            self.write_json(FAILURE, {"reason": reason})

    def _check_complete(self) -> tuple[Status, str]:
        """Return the status of an artefact whose manifest exists."""
        try:
            differences = self._differences()
        except FileNotFoundError:
            # Deleted after the look that found it.
            return "missing", ""
        except CellError as error:
            return "missing", str(error)
        if not differences:
            return "complete", ""
        name = min(differences)
        others = len(differences) - 1
        more = f" (and {others} more)" if others else ""
        return (
            "missing",
            f"damaged: {name} {differences[name]}{more}: delete {self.uri} and run again",
        )

    def _differences(self) -> dict[str, str]:
        wanted = self.manifest().get("bytes")
        if not isinstance(wanted, dict) or not wanted:
            return {}
        return compare_sizes(wanted, self.store.sizes(self.folder))

    def _reason(self) -> str:
        try:
            return str(self._read_object(FAILURE).get("reason", ""))
        except (CellError, FileNotFoundError) as error:
            return str(error)

    def _read_object(self, name: str) -> dict[str, Any]:
        content = self.read_json(name)
        if not isinstance(content, dict):
            raise self._damage(name, "not a JSON object")
        return content

    def _decode(self, name: str, decode: Callable[[str, pafs.FileSystem], T]) -> T:
        return decode_parquet(self.store, f"{self.folder}/{name}", decode)

    def _damage(self, name: str, cause: object) -> CellError:
        return describe_damage(self.store, f"{self.folder}/{name}", cause)


def _is_sorted(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    if len(column) < 2:
        return True
    column = column.combine_chunks()
    return bool(pc.all(pc.less_equal(column.slice(0, len(column) - 1), column.slice(1))).as_py())


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
