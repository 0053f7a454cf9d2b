"""Read, write and commit artefacts, on local disk or any Arrow file system.

An artefact is a folder ``<store>/<stage>/<name>-<fingerprint>``. Each of its files appears whole:
by a rename on a disk, by a single upload on an object store. ``_manifest.json`` is written last: an
artefact is complete when its manifest exists. It holds the size and checksum of every other file.
Two runs on one store write the same bytes under the same names, so the later one replaces a file
by an equal one.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.fs as pafs

from benchmark.errors import CellError
from benchmark.store.checksums import SEAL, checksum, is_broken, seal
from benchmark.store.damage import MISSING, DamageError, check_parquet, compare_sizes
from benchmark.store.files import Files
from benchmark.store.folders import Folder
from benchmark.store.migrations import (
    MIGRATIONS,
    Migration,
    find_problem,
    kind_of,
    migration_of,
    versions_of,
)
from benchmark.store.names import FAILURE, MANIFEST, PARTS, PLAN, current_name, older_name

UNLISTED = (MANIFEST, FAILURE)
"""Files that a manifest does not list."""
INCOMPLETE = {MANIFEST: "is missing"}
"""The damage of an artefact that is not complete."""

Status = Literal["complete", "stale", "missing", "failed", "left out"]
LEFT_OUT: Status = "left out"
"""Not computed, although nothing failed: the reason says what does not suit."""


class Store(Files):
    """A root folder for artefacts, given as a path or a URI (``s3://bucket/prefix``)."""

    def artefact(self, stage: str, name: str, fingerprint: str) -> Artefact:
        """Return the artefact with this identity; it need not exist."""
        return Artefact(store=self, stage=stage, name=name, fingerprint=fingerprint)

    def names(self, stage: str) -> dict[str, str]:
        """Return the names of a stage's artefacts, complete or not, by fingerprint.

        Raises:
            CellError: the store cannot be read.
        """
        pairs = (name.rpartition("-") for name in self._folders(stage))
        return {fingerprint: name for name, _, fingerprint in pairs}

    def artefacts(self, stage: str) -> list[Artefact]:
        """Return a stage's artefacts, complete or not; some may share a fingerprint.

        Raises:
            CellError: the store cannot be read.
        """
        parts = (folder.rpartition("-") for folder in self._folders(stage))
        return [self.artefact(stage, name, found) for name, _, found in parts if name]

    def _folders(self, stage: str) -> list[str]:
        selector = pafs.FileSelector(f"{self.root}/{stage}", allow_not_found=True)
        found = self.attempt(stage, "read", lambda: self.fs.get_file_info(selector))
        return [info.base_name for info in found]

    def other_fingerprints(self, artefact: Artefact) -> list[str]:
        """Return the fingerprints of complete artefacts with the same name and other settings."""
        found = []
        for folder in self._folders(artefact.stage):
            name, _, fingerprint = folder.rpartition("-")
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
        return _shows(self.files(), MANIFEST)

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
        if _shows(sizes, MANIFEST):
            found, manifest = self._examine(sizes)
            if found == INCOMPLETE:
                # Deleted since it was listed.
                return "missing", ""
            if found:
                return "missing", f"{describe_files(found)}: run again"
            return "complete", str(manifest.get("remark", ""))
        if _shows(sizes, FAILURE):
            return self._read_failure()
        return "missing", ""

    def damage(self) -> dict[str, str]:
        """Return what is wrong with the files of an artefact, by name, from their sizes.

        Manifests of older versions contain no sizes: nothing is wrong. Without a manifest, the
        artefact is not complete: ``INCOMPLETE``.

        Raises:
            CellError: the store cannot be read.
        """
        return self._examine(self.store.sizes(self.folder))[0]

    def verify(self) -> tuple[dict[str, str], bool]:
        """Read a complete artefact; return what is wrong, and whether there were checksums.

        Raises:
            CellError: the store cannot be read.
        """
        found, manifest = self._examine(self.store.sizes(self.folder))
        wanted = self._verify_content(found, manifest)
        return dict(sorted(found.items())), bool(wanted)

    def discard_damage(self, *, by_part: bool) -> None:
        """Delete what is damaged in a complete artefact, and its manifest, to compute it again.

        The plan stays, so that the new files are equal to the old ones.

        Args:
            by_part: delete only the damaged parts, if nothing else is damaged.

        Raises:
            CellError: the store cannot be read or written.
        """
        sizes = self.store.sizes(self.folder)
        found, manifest = self._examine(sizes)
        self._verify_content(found, manifest)
        # Without a manifest nothing tells whether files other than tables are intact.
        suspects = found if manifest else sizes
        are_parts = all(
            name.startswith(PARTS) or current_name(name) in (MANIFEST, PLAN) for name in suspects
        )
        for name in sizes:
            keeps = (are_parts and by_part) or current_name(name) == PLAN
            if current_name(name) != MANIFEST and (name in found or not keeps):
                self.delete(name)
        if by_part and manifest.get("plan") and any(current_name(name) == PLAN for name in found):
            self.write_json(PLAN, manifest["plan"])
        # Last: a complete artefact that lacks files is damaged, and discarded again.
        for name in (MANIFEST, older_name(MANIFEST)):
            if name in sizes:
                self.delete(name)

    def tables(self, prefix: str) -> list[str]:
        """Return the sorted names of the tables to read; if complete, those of the manifest.

        Raises:
            CellError: one of the manifest's tables is missing.
        """
        found = self.files()
        names = [name for name in found if name.startswith(prefix)]
        if _shows(found, MANIFEST):
            wanted = self.manifest().get("files", names)
            for name in wanted:
                if name.startswith(prefix) and name not in found:
                    raise self.damage_of(name, MISSING)
        return names

    def migration(self, name: str) -> Migration | None:
        """Return what gives the table in a file its form of today; None: it has that form."""
        kind = kind_of(self.stage, name)
        # The manifest is read only for the few kinds that have older forms.
        if kind is None or kind not in MIGRATIONS or not self.is_complete:
            return None
        return migration_of(kind, self.manifest())

    def read_verified(self, name: str) -> bytes:
        """Return the content of one file, compared with its checksum if the artefact is complete.

        Raises:
            FileNotFoundError: the file does not exist.
            CellError: the file is damaged, or the store cannot be read.
        """
        wanted = self._checksums() if self.is_complete else {}

        def read(found: str) -> bytes:
            content = self.store.read(f"{self.folder}/{found}")
            if found in wanted and checksum(content) != wanted[found]:
                raise self.damage_of(found, "its checksum differs")
            return content

        return self.find(name, read)

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
        sizes = self._renamed(self.store.sizes(self.folder))
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
                    **versions_of(self.stage, sizes),
                    **manifest,
                }
            ),
        )
        self.delete(FAILURE)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete artefact.

        Raises:
            CellError: the manifest is damaged, a table is of a newer version, or the store cannot
                be read.
        """
        return self.find(MANIFEST, self._read_manifest)

    def fail(self, reason: str, *, is_left_out: bool = False) -> None:
        """Record why the artefact was not computed; a later run tries again.

        Args:
            reason: what failed.
            is_left_out: nothing failed: the reason says why it is not computed.
        """
        if not self.is_complete:
            left_out = {"left_out": True} if is_left_out else {}
            self.write_json(FAILURE, {"reason": reason, **left_out})

    def _renamed(self, sizes: dict[str, int]) -> dict[str, int]:
        """Give files of an artefact that an older version began today's names; return the sizes."""
        for name in [name for name in sizes if current_name(name) != name]:
            size, target = sizes.pop(name), current_name(name)
            if target in sizes:
                self.delete(name)
            else:
                self.store.move(f"{self.folder}/{name}", f"{self.folder}/{target}")
                sizes[target] = size
        return dict(sorted(sizes.items()))

    def _examine(self, sizes: Mapping[str, int]) -> tuple[dict[str, str], dict[str, Any]]:
        """Return what is wrong with files of these sizes, by name, and the manifest if sound."""
        if not _shows(sizes, MANIFEST):
            return dict(INCOMPLETE), {}
        name = next(name for name in sizes if current_name(name) == MANIFEST)
        try:
            manifest = self._read_manifest(name)
        except FileNotFoundError:
            return dict(INCOMPLETE), {}
        except DamageError as error:
            return {name: f"is damaged ({error.found})"}, {}
        wanted = manifest.get("bytes")
        return compare_sizes(wanted, sizes) if isinstance(wanted, dict) else {}, manifest

    def _read_manifest(self, name: str) -> dict[str, Any]:
        found = self._read_object(name)
        if is_broken(found):
            raise self.damage_of(name, "its checksum differs")
        found.pop(SEAL, None)
        if problem := find_problem(found):
            # Not damage: nothing may be deleted or computed again.
            raise CellError(f"{self.uri}: {problem}")
        return found

    def _verify_content(self, found: dict[str, str], manifest: dict[str, Any]) -> dict[str, str]:
        """Add to ``found`` the files whose content differs; return all checksums."""
        wanted = _checksums_of(manifest)
        for name in wanted.keys() - found.keys():
            try:
                if checksum(self.store.read(f"{self.folder}/{name}")) != wanted[name]:
                    found[name] = "has another content than was written"
            except FileNotFoundError:
                found[name] = "is missing"
        return wanted

    def _checksums(self) -> dict[str, str]:
        return _checksums_of(self.manifest())

    def _checksum_of_sound(self, name: str) -> str:
        content = self.read_bytes(name)
        if name.endswith(".parquet"):
            check_parquet(self.store, f"{self.folder}/{name}", content)
        return checksum(content)

    def _read_failure(self) -> tuple[Status, str]:
        try:
            found = self._read_object(FAILURE)
        except (CellError, FileNotFoundError) as error:
            return "failed", str(error)
        status = LEFT_OUT if found.get("left_out") is True else "failed"
        return status, str(found.get("reason", ""))


def describe_files(damage: Mapping[str, str]) -> str:
    """Return what is wrong with the first of several files, without advice."""
    name = min(damage)
    more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
    return f"damaged: {name} {damage[name]}{more}"


def _shows(names: Container[str], name: str) -> bool:
    """Return whether a listing contains a file under its name of today or an older one."""
    return name in names or older_name(name) in names


def _checksums_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    found = manifest.get("xxh3")
    return found if isinstance(found, dict) else {}
