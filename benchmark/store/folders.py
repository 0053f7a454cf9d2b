"""A folder of files in a store: tables as Parquet, documents as JSON, each written whole."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmark.store.checksums import checksum
from benchmark.store.damage import MISSING, DamageError, decode_parquet, handle_damage
from benchmark.store.files import Files
from benchmark.store.filesystems import join
from benchmark.store.migrations import Migration
from benchmark.store.names import current_name, older_name

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Folder(ABC):
    """The files of one folder of a store. It can be pickled, and workers write through it."""

    store: Files

    @property
    @abstractmethod
    def folder(self) -> str:
        """The folder, relative to the store's root."""

    @property
    def path(self) -> str:
        """The folder as an absolute path, or as a key without the scheme."""
        return f"{self.store.root}/{self.folder}"

    @property
    def uri(self) -> str:
        """The folder as the user would write it."""
        return join(self.store.uri, self.folder)

    def file(self, name: str) -> str:
        """Return the path of a file."""
        return self.store.place(f"{self.folder}/{name}")

    def file_uri(self, name: str) -> str:
        """Return the URI of a file as the user would write it."""
        return join(self.store.uri, f"{self.folder}/{name}")

    def has(self, name: str) -> bool:
        """Return whether a file exists, under its name of today or an older one."""
        names = dict.fromkeys((current_name(name), older_name(name)))
        if len(names) == 1 or self.store.is_local:
            return any(self.store.has(f"{self.folder}/{item}") for item in names)
        # An object store lists a folder in the time in which it looks for one name.
        return not names.keys().isdisjoint(self.files())

    def find(self, name: str, use: Callable[[str], T]) -> T:
        """Return the result of ``use`` for a file's name, or else for its name of other versions.

        Raises:
            FileNotFoundError: from ``use`` for both names.
        """
        try:
            return use(name)
        except FileNotFoundError as error:
            for other in {current_name(name), older_name(name)} - {name}:
                with contextlib.suppress(FileNotFoundError):
                    return use(other)
            raise error from None

    def files(self, prefix: str = "") -> list[str]:
        """Return the sorted names of files with a prefix, without temporary files."""
        return [name for name in self.store.sizes(self.folder) if name.startswith(prefix)]

    def tables(self, prefix: str) -> list[str]:
        """Return the sorted names of the tables to read whose names begin with a prefix."""
        return self.files(prefix)

    def migration(self, name: str) -> Migration | None:
        """Return what gives the table in a file its form of today; None: it has that form."""
        del name
        return None

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write one file atomically and return its checksum.

        Raises:
            CellError: the store is full or cannot be written.
        """
        self.store.write(f"{self.folder}/{name}", content)
        return checksum(content)

    def write_table(self, name: str, table: pa.Table) -> str:
        """Write one Parquet file atomically and return its checksum."""
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
        return self.write_bytes(name, memoryview(sink.getvalue()))  # type: ignore[arg-type]

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file atomically."""
        self.write_bytes(name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def delete(self, name: str) -> None:
        """Delete one file; a missing file is no error."""
        self.store.delete(f"{self.folder}/{name}")

    def read_bytes(self, name: str) -> bytes:
        """Return the content of one file."""
        return self.find(name, lambda found: self.store.read(f"{self.folder}/{found}"))

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
            raise self.damage_of(name, cause) from None

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
        chosen = None if columns is None else list(columns)

        def read(name: str) -> pa.Table:
            migrate = self.migration(name)
            table = self._decode(
                name,
                lambda source, fs: pq.read_table(
                    source,
                    columns=None if migrate else chosen,
                    filters=filters,
                    filesystem=fs,
                    partitioning=None,
                    page_checksum_verification=True,
                ),
            )
            if migrate is None:
                return table
            table = migrate(table)
            return table if chosen is None else table.select(chosen)

        found = list(self.tables(prefix) if names is None else names)
        if not found:
            raise self.damage_of(f"{prefix}*", "there is no such file")
        try:
            tables = [read(name) for name in found]
        except FileNotFoundError:
            gone = next((name for name in found if not self.has(name)), found[0])
            raise self.damage_of(gone, MISSING) from None
        table = pa.concat_tables(tables)
        if "patch_id" in table.column_names and not _is_sorted(table["patch_id"]):
            table = table.sort_by("patch_id")
        return table

    def _read_object(self, name: str) -> dict[str, Any]:
        content = self.read_json(name)
        if not isinstance(content, dict):
            raise self.damage_of(name, "not a JSON object")
        return content

    def _decode(self, name: str, decode: Callable[[str, pafs.FileSystem], T]) -> T:
        return self.find(
            name, lambda found: decode_parquet(self.store, f"{self.folder}/{found}", decode)
        )

    def damage_of(self, name: str, cause: object) -> DamageError:
        """Return the error for a damaged or missing file; in a run, also delete the file."""
        names = {current_name(name), older_name(name)}
        if len(names) > 1:
            name = next((found for found in self.files() if found in names), current_name(name))
        return handle_damage(self.store, f"{self.folder}/{name}", cause)


def _is_sorted(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    if len(column) < 2:
        return True
    column = column.combine_chunks()
    return bool(pc.all(pc.less_equal(column.slice(0, len(column) - 1), column.slice(1))).as_py())
