"""Read, write and commit artefacts, on local disk or any Arrow file system.

An artefact is a folder ``<store>/<stage>/<name>-<fingerprint>``. Each of its files appears whole:
by a rename on a disk, by a single upload on an object store. ``manifest.json`` is written last: an
artefact is complete when its manifest exists. It holds the size and checksum of every other file.
Two runs on one store write the same bytes under the same names, so the later one replaces a file
by an equal one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.fs as pafs

from benchmark.errors import CellError
from benchmark.store.checksums import SEAL, checksum, is_broken, seal
from benchmark.store.damage import MISSING, DamageError, check_parquet, compare_sizes
from benchmark.store.files import Files
from benchmark.store.folders import Folder

MANIFEST = "manifest.json"
FAILURE = "failure.json"
PLAN = "plan.json"
UNLISTED = (MANIFEST, FAILURE)
"""Files that a manifest does not list."""
PARTS = ("part-", "candidates-")
"""How the names of tables begin that are computed one by one."""

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
class Artefact(Folder):
    """One folder of the store, with its identity, plan and manifest."""

    store: Store
    stage: str
    name: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """The folder, relative to the store's root."""
        return f"{self.stage}/{self.name}-{self.fingerprint}"

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
        """Return the status and its reason from the artefact's own files; stale is missing.

        The reason of a complete one is the remark in its manifest, e.g. on failed trials.
        """
        sizes = self.store.sizes(self.folder)
        if MANIFEST in sizes:
            try:
                found, manifest = self._examine(sizes)
            except FileNotFoundError:
                # Deleted since it was listed.
                return "missing", ""
            if found:
                return "missing", f"{describe_files(found)}: run again"
            return "complete", str(manifest.get("remark", ""))
        if FAILURE in sizes:
            return "failed", self._reason()
        return "missing", ""

    def damage(self) -> dict[str, str]:
        """Return what is wrong with the files of a complete artefact, by name, from their sizes.

        Manifests of older versions contain no sizes: nothing is wrong.

        Raises:
            CellError: the store cannot be read.
        """
        try:
            return self._examine(self.store.sizes(self.folder))[0]
        except FileNotFoundError:
            return {MANIFEST: "is missing"}

    def verify(self) -> tuple[dict[str, str], bool]:
        """Read a complete artefact; return what is wrong, and whether there were checksums.

        Raises:
            CellError: the store cannot be read.
        """
        found = self.damage()
        wanted = {} if MANIFEST in found else self._checksums()
        for name in wanted.keys() - found.keys():
            try:
                if checksum(self.read_bytes(name)) != wanted[name]:
                    found[name] = "has another content than was written"
            except FileNotFoundError:
                found[name] = "is missing"
        return dict(sorted(found.items())), bool(wanted)

    def discard_damage(self, *, by_part: bool) -> None:
        """Delete what is damaged in a complete artefact, and its manifest, to compute it again.

        The plan stays, so that the new files are equal to the old ones.

        Args:
            by_part: delete only the damaged parts, if nothing else is damaged.

        Raises:
            CellError: the store cannot be read or written.
        """
        found, _ = self.verify()
        is_sealed = MANIFEST not in found
        plan = self.manifest().get("plan") if is_sealed else None
        parts = (*PARTS, PLAN, MANIFEST)
        # Without a manifest nothing tells whether files other than tables are intact.
        suspects = found if is_sealed else self.files()
        if by_part and all(name.startswith(parts) for name in suspects):
            names = list(found)
        else:
            names = [name for name in self.files() if name != PLAN or name in found]
        for name in names:
            if name != MANIFEST:
                self.delete(name)
        if PLAN in found and plan and by_part:
            self.write_json(PLAN, plan)
        # Last: a complete artefact that lacks files is damaged, and discarded again.
        self.delete(MANIFEST)

    def tables(self, prefix: str) -> list[str]:
        """Return the sorted names of the tables to read; if complete, those of the manifest.

        Raises:
            CellError: one of the manifest's tables is missing.
        """
        found = self.files()
        names = [name for name in found if name.startswith(prefix)]
        if MANIFEST in found:
            wanted = self.manifest().get("files", names)
            for name in wanted:
                if name.startswith(prefix) and name not in found:
                    raise self.damage_of(name, MISSING)
        return names

    def read_verified(self, name: str) -> bytes:
        """Return the content of one file, compared with its checksum if the artefact is complete.

        Raises:
            FileNotFoundError: the file does not exist.
            CellError: the file is damaged, or the store cannot be read.
        """
        content = self.read_bytes(name)
        wanted = self._checksums().get(name) if self.is_complete else None
        if wanted is not None and checksum(content) != wanted:
            raise self.damage_of(name, "its checksum differs")
        return content

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
        content = json.dumps(plan, indent=2, sort_keys=True).encode()
        self.store.write_first(f"{self.folder}/{PLAN}", content)
        begun = self.plan()
        if begun is None:
            raise CellError(f"{self.uri} cannot be written: its folder is gone")
        return begun

    def plan(self) -> dict[str, Any] | None:
        """Return the plan of the first run, or None before ``begin``."""
        return self._read_object(PLAN) if self.has(PLAN) else None

    def commit(
        self,
        manifest: dict[str, Any],
        *,
        needs: Sequence[str] = (),
        checksums: Mapping[str, str] | None = None,
    ) -> None:
        """Complete the artefact: write its manifest as the last file.

        On a local disk, all files are synced first: a manifest that survives a power cut has its
        files beside it.

        Args:
            manifest: what is known of the artefact.
            needs: names of files without which it is not complete.
            checksums: of files, from those who wrote them; other files are read.

        Raises:
            CellError: a file is missing, empty or damaged, or the store cannot be written.
        """
        sizes = self.store.sizes(self.folder)
        for name in needs:
            if name not in sizes:
                raise self.damage_of(name, MISSING)
        sizes = {key: size for key, size in sizes.items() if key not in UNLISTED}
        found: dict[str, str] = {}
        for name, size in sizes.items():
            if not size:
                raise self.damage_of(name, "the file is empty")
            found[name] = (checksums or {}).get(name) or self._checksum_of_sound(name)
            self.store.sync(f"{self.folder}/{name}")
        self.write_json(
            MANIFEST,
            seal(
                {
                    "stage": self.stage,
                    "name": self.name,
                    "fingerprint": self.fingerprint,
                    "files": list(sizes),
                    "bytes": sizes,
                    "xxh3": found,
                    **manifest,
                }
            ),
        )
        self.delete(FAILURE)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete artefact.

        Raises:
            CellError: the manifest is damaged, or the store cannot be read.
        """
        found = self._read_object(MANIFEST)
        if is_broken(found):
            raise self.damage_of(MANIFEST, "its checksum differs")
        found.pop(SEAL, None)
        return found

    def fail(self, reason: str) -> None:
        """Record why the artefact could not be computed; a later run tries again."""
        if not self.is_complete:
            self.write_json(FAILURE, {"reason": reason})

    def _examine(self, sizes: Mapping[str, int]) -> tuple[dict[str, str], dict[str, Any]]:
        """Return what is wrong with files of these sizes, by name, and the manifest."""
        try:
            manifest = self.manifest()
        except DamageError as error:
            return {MANIFEST: f"is damaged ({error.found})"}, {}
        wanted = manifest.get("bytes")
        return compare_sizes(wanted, sizes) if isinstance(wanted, dict) else {}, manifest

    def _checksums(self) -> dict[str, str]:
        found = self.manifest().get("xxh3")
        return found if isinstance(found, dict) else {}

    def _checksum_of_sound(self, name: str) -> str:
        content = self.read_bytes(name)
        if name.endswith(".parquet"):
            check_parquet(self.store, f"{self.folder}/{name}", content)
        return checksum(content)

    def _reason(self) -> str:
        try:
            return str(self._read_object(FAILURE).get("reason", ""))
        except (CellError, FileNotFoundError) as error:
            return str(error)


def describe_files(damage: Mapping[str, str]) -> str:
    """Return what is wrong with the first of several files, without advice."""
    name = min(damage)
    more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
    return f"damaged: {name} {damage[name]}{more}"
