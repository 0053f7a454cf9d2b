"""The source of own code: where a module lies, which files it reaches, and their digest.

Nothing is imported here: imports are read from the syntax tree.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from benchmark.errors import PACKAGE, UsageError, is_own_file, tidy

MAX_LITERAL = 255
"""Characters of a text in the code that may be the name of a file."""


class Target(NamedTuple):
    """An import path: ``package.module:attribute``."""

    module: str
    attribute: str

    @property
    def top(self) -> str:
        """The top package, or the module itself."""
        return self.module.partition(".")[0]


class Place(NamedTuple):
    """Where the top package of own code lies."""

    root: str
    """The folder that holds it."""
    is_installed: bool
    """Whether it is an installed package, which every machine must have; otherwise it is a file or
    folder of the user."""


class Source(NamedTuple):
    """The files that a module of own code reaches in the folder of its top package."""

    modules: dict[str, str]
    """Path below the root, and digest of the content, of each Python file."""
    data: dict[str, str]
    """The same for the other files that the code names."""
    digest: str


def parse(name: str) -> Target | None:
    """Return an import path, or None if a name is none."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    is_path = bool(colon) and all(part.isidentifier() for part in parts)
    return Target(module, attribute) if is_path else None


def search_folders(experiment: str = "") -> tuple[str, ...]:
    """Return the folders searched for own code after installed packages.

    Args:
        experiment: the path of its file; its folder is searched after the current one.
    """
    found = []
    try:
        found.append(str(Path.cwd()))
        if experiment.endswith(".toml") and "://" not in experiment:
            found.append(str(Path(experiment).resolve().parent))
    except (OSError, RuntimeError):
        # The current folder was deleted.
        pass
    return tuple(dict.fromkeys(found))


def locate(target: Target, folders: Sequence[str], *, where: str) -> Place:
    """Return where the top package of own code lies: installed packages come first.

    Args:
        target: the import path.
        folders: searched after installed packages.
        where: start of each message.

    Raises:
        UsageError: there is no such module, or an installed one shadows the user's.
    """
    added = {"", *folders}
    other = _find(target.top, [path for path in sys.path if os.path.realpath(path) not in added])
    mine = _find(target.top, folders)
    if mine is not None and other is not None and _path_of(mine) != _path_of(other):
        if mine.origin is None:
            # A folder without Python files of its own, e.g. of results.
            mine = None
        else:
            raise UsageError(
                f"{where}: '{target.top}' is the installed {_path_of(other)}, which comes before "
                f"your {_path_of(mine)}; rename yours"
            )
    found = other or mine
    if found is None:
        places = " and ".join(folders) or "a current folder, which was deleted"
        raise UsageError(
            f"{where}: there is no module '{target.top}' among the installed packages and in "
            f"{places}"
        )
    path = _path_of(found)
    return Place(str(path.parent), not is_own_file(str(path)))


def _find(top: str, folders: Sequence[str]) -> ModuleSpec | None:
    found = PathFinder.find_spec(top, list(folders))
    if found is None or (found.origin is None and not found.submodule_search_locations):
        return None
    return found


def _path_of(spec: ModuleSpec) -> Path:
    """Return the file of a module, or the folder of a package."""
    places = list(spec.submodule_search_locations or ())
    return Path(places[0] if places else spec.origin or "").resolve()


def read_source(module: str, root: str) -> Source:
    """Return the files that a module reaches below a folder, and their digest.

    These are the modules that it imports, directly or through others, wherever in a file the
    import statement is, and the other files that a text in the code names. Modules that are
    imported by a computed name are not found.

    Raises:
        UsageError: a file cannot be read.
    """
    from benchmark.store.digest import digest_file, fingerprint

    base = Path(root)
    modules: dict[str, str] = {}
    data: dict[str, str] = {}
    waiting = list(_files_of(module, base))
    try:
        while waiting:
            path = waiting.pop()
            name = path.relative_to(base).as_posix()
            if name in modules or str(path).startswith(PACKAGE):
                continue
            content = path.read_bytes()
            modules[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
            try:
                tree = ast.parse(content)
            except (SyntaxError, ValueError):
                # The import of the module shows the error with its line.
                continue
            waiting += _imported(tree, path, base)
            for file in _named_files(tree, path.parent, base):
                with suppress(OSError):
                    data[_name_of(file, base)] = digest_file(file)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"own code '{module}' cannot be read: {error}") from None
    return Source(modules, data, fingerprint([sorted(modules.items()), sorted(data.items())]))


def _name_of(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else str(file)


def _files_of(module: str, base: Path) -> Iterator[Path]:
    """Yield the files that Python runs to import a module of a folder."""
    folder = base
    for part in module.split("."):
        if (file := folder / f"{part}.py").is_file() and not (
            folder / part / "__init__.py"
        ).exists():
            yield file
            return
        folder /= part
        if (file := folder / "__init__.py").is_file():
            yield file


def _imported(tree: ast.Module, path: Path, base: Path) -> Iterator[Path]:
    """Yield the files of a folder that the import statements of a file run."""
    package = path.parent.relative_to(base).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name, base)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # A name is an attribute or a module of the package.
                yield from _files_of(f"{stem}.{alias.name}" if stem else alias.name, base)


def _named_files(tree: ast.Module, folder: Path, base: Path) -> Iterator[Path]:
    """Yield the files, except modules, whose name is a text in the code."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        text = node.value
        if not 0 < len(text) <= MAX_LITERAL or not text.isprintable() or text.endswith(".py"):
            continue
        for place in (folder, base):
            file = place / text
            if file.is_file():
                yield file
                break


@lru_cache
def installed_version(top: str, root: str) -> dict[str, str]:
    """Return name, version and digest of the installed distribution that brings a package.

    The digest is that of the checksums of its Python files and libraries in its record.
    """
    from importlib import metadata

    from benchmark.store.digest import fingerprint

    def same(name: str) -> bool:
        return name.replace("-", "_").lower() == top.lower()

    found = sorted(
        metadata.distributions(path=[root]), key=lambda item: not same(item.metadata["Name"] or "")
    )
    for item in found:
        files = [file for file in item.files or () if file.parts[0] in (top, f"{top}.py")]
        if files:
            sums = sorted(
                (str(file), file.hash.value)
                for file in files
                if file.hash and file.suffix in (".py", ".so", ".pyd")
            )
            return {
                "distribution": f"{item.metadata['Name']} {item.version}",
                "code": fingerprint(sums),
            }
    return {"distribution": f"python {sys.version.split()[0]}", "code": ""}


def files_to_ship(targets: Iterable[tuple[Target, Place]]) -> dict[str, Path]:
    """Return the files of own code by their path below the folder that holds its top package.

    These are the files that it reaches, and everything in the folder of its top package except
    hidden files and caches.
    """
    found: dict[str, Path] = {}
    for target, place in targets:
        if place.is_installed:
            continue
        base = Path(place.root)
        source = read_source(target.module, place.root)
        names = {*source.modules, *(name for name in source.data if not name.startswith("/"))}
        found |= {name: base / name for name in sorted(names)}
        for folder, folders, files in os.walk(base / target.top):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and name != "__pycache__"
            )
            here = Path(folder)
            for name in sorted(files):
                if not name.startswith(".") and not name.endswith((".pyc", ".pyo")):
                    found[(here / name).relative_to(base).as_posix()] = here / name
    return found


def describe(target: Target) -> str:
    """Return an import path as text for messages."""
    return tidy(f"{target.module}:{target.attribute}", 200)
