"""References to own code, which any process that receives one can import.

Ray's workers do not have the user's folders on their import path: unpickling a reference appends
its folder there, at the end, so that it shadows nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.catalog.own.source import Place, Target, installed_version, locate, read_source
from benchmark.errors import BenchmarkError, CellError, UsageError, blame, did_you_mean

_LOCK = threading.RLock()
_LOADED: dict[str, str] = {}
"""Digest of the content with which each own file was imported in this process, by path."""
_MODULES: dict[tuple[str, str], tuple[str, Any]] = {}
"""Digest of the source and imported module, by name and folder."""
_USED: set[str] = set()
"""Top packages of the own code that this process uses."""


@dataclass(frozen=True)
class Reference:
    """A function, class or entry of own code, by import path; a call runs it."""

    target: Target
    place: Place
    digest: str
    """Of its source when the run began; empty for installed packages."""

    def load(self) -> Any:
        """Import the module and return the attribute.

        Raises:
            CellError: the module cannot be imported, has changed since the run began, or has no
                such attribute; the message is the module's own error.
        """
        with own_errors():
            module = found = self._import()
            for part in self.target.attribute.split("."):
                if not hasattr(found, part):
                    known = [name for name in vars(module) if not name.startswith("_")]
                    raise CellError(
                        f"the module '{self.target.module}' ({module.__file__}) has no "
                        f"'{self.target.attribute}'.{did_you_mean(self.target.attribute, known)}"
                    )
                found = getattr(found, part)
            return found

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """Call the function or class; what it raises becomes a CellError with file and line."""
        function = self.load()
        with own_errors():
            return function(*arguments, **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.target, self.place, self.digest)

    def _import(self) -> Any:
        if self.place.is_installed:
            if self.target.top != "sklearn":
                _USED.add(self.target.top)
            return importlib.import_module(self.target.module)
        key = (self.target.module, self.place.root)
        with _LOCK:
            digest, module = _MODULES.get(key, ("", None))
            if digest != self.digest:
                module = self._import_file()
                _MODULES[key] = (self.digest, module)
            return module

    def _import_file(self) -> Any:
        """Import the module from its folder, anew if a file has changed since it was imported."""
        append_folder(self.place.root)
        source, base = read_source(self.target.module, self.place.root), Path(self.place.root)
        if source.digest != self.digest:
            raise CellError(
                f"the code of '{self.target.module}' in {base} has changed since the run began, "
                "or differs on this machine: run again"
            )
        files = {str(base / name): digest for name, digest in source.modules.items()}
        _forget_stale(files)
        module = importlib.import_module(self.target.module)
        origin = module.__file__ or ""
        if origin and os.path.realpath(origin) not in files:
            raise CellError(
                f"another '{self.target.module}' is imported already, from {origin}: rename one, "
                "or use another process"
            )
        _LOADED.update(files)
        _USED.add(self.target.top)
        return module


def _restore(target: Target, place: Place, digest: str) -> Reference:
    if not place.is_installed:
        append_folder(place.root)
    return Reference(target, place, digest)


def append_folder(folder: str) -> None:
    """Append a folder to the import path, unless it is on it."""
    if folder not in sys.path:
        sys.path.append(folder)


@dataclass(frozen=True)
class Folders:
    """Folders that a process appends to its import path when it unpickles them."""

    names: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_folders, (self.names,)


def _restore_folders(names: tuple[str, ...]) -> Folders:
    for name in names:
        append_folder(name)
    return Folders(names)


def used_packages() -> frozenset[str]:
    """Return the top packages of own code that this process has imported because of its user."""
    return frozenset(_USED)


def refer(target: Target, folders: tuple[str, ...], *, where: str) -> Reference:
    """Return the reference to own code as it is now, without importing it.

    Raises:
        UsageError: there is no such module.
    """
    place = locate(target, folders, where=where)
    if place.is_installed:
        return Reference(target, place, "")
    source = read_source(target.module, place.root)
    stem = target.module.replace(".", "/")
    if not {f"{stem}.py", f"{stem}/__init__.py"} & source.modules.keys():
        raise UsageError(f"{where}: there is no module '{target.module}' in {place.root}")
    return Reference(target, place, source.digest)


def identity(reference: Reference) -> dict[str, Any]:
    """Return the identity of the code of a reference, for a fingerprint."""
    if reference.place.is_installed:
        return dict(installed_version(reference.target.top, reference.place.root))
    return {"code": reference.digest}


@contextmanager
def own_errors(prefix: str = "") -> Iterator[None]:
    """Turn what own code raises into a CellError with its file and line."""
    try:
        yield
    except BenchmarkError as error:
        if not prefix:
            raise
        raise CellError(f"{prefix}{error}") from None
    except Exception as error:  # own code raises what it likes
        raise CellError(f"{prefix}{blame(error)}") from None


@contextmanager
def checked(where: str) -> Iterator[None]:
    """Turn an error of own code into the user's mistake (exit code 2)."""
    try:
        yield
    except UsageError as error:
        if where and not str(error).startswith(where):
            raise UsageError(f"{where}: {error}") from None
        raise
    except CellError as error:
        # Both may name the entry.
        what = where.rpartition(": ")[2]
        start = where.removesuffix(what) if str(error).startswith(what) else f"{where}: "
        raise UsageError(f"{start}{error}") from None


def _forget_stale(files: dict[str, str]) -> None:
    """Drop modules of these files that were imported before their last change, or by others."""
    names = {Path(file).name for file in files}
    loaded: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = str(getattr(module, "__file__", None) or "")
        if name != "__main__" and Path(file).name in names:
            loaded[os.path.realpath(file)] = name
    stale = {file: name for file, name in loaded.items() if file in files}
    if any(_LOADED.get(file) != files[file] for file in stale):
        for name in stale.values():
            del sys.modules[name]
    for file, digest in files.items():
        if _LOADED.get(file) != digest:
            # Python compares only time and size of a file with those of its compiled copy.
            with suppress(OSError, NotImplementedError):
                Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)
    importlib.invalidate_caches()
