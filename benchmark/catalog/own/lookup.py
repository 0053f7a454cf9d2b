"""Find entries by name: built-in, registered in Python, of an installed package, or by path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.catalog.own.source import Place, Target, locate, parse, search_folders
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.registry import Named, Registry

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from benchmark.catalog.own.making import Kind

T = TypeVar("T", bound=Named)

GROUPS: Mapping[str, str] = {
    "backbone": "benchmark.backbones",
    "head": "benchmark.heads",
    "metric": "benchmark.metrics",
    "dataset": "benchmark.datasets",
}
"""Groups of entry points of installed packages, by kind of entry."""

FORM = "package.module:attribute"

_REGISTERED: dict[tuple[str, str], Any] = {}
"""Entries of this process, by kind and name."""


@lru_cache
def plugins(kind: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of installed packages of one kind, by name; imports none of them."""
    from importlib.metadata import entry_points

    return {item.name: item for item in entry_points(group=GROUPS[kind])}


def plugin_rows(registry: Registry[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, import path and distribution of each entry point that no built-in entry hides."""
    for name, item in sorted(plugins(registry.kind).items()):
        if name not in registry:
            dist = item.dist
            yield name, item.value, f"{dist.name} {dist.version}" if dist else "-"


def find_own(
    registry: Registry[T],
    name: str,
    *,
    where: str = "",
    folders: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
) -> T | None:
    """Return an entry that is none of a catalog's, or None if its name is one of the catalog.

    Args:
        registry: the catalog.
        name: what the user wrote.
        where: start of each message.
        folders: searched for own code after installed packages; None: the current folder.
        settings: keyword arguments for a function.
        search: search space of a head.

    Raises:
        UsageError: the name is unknown, or the code or a setting is wrong.
    """
    kind: Kind = registry.kind  # type: ignore[assignment]
    if name in registry:
        return None
    if (kind, name) in _REGISTERED:
        if settings or search:
            raise UsageError(
                f"{where}: {kind} '{name}' was registered and takes no settings and no search"
            )
        found: T = _REGISTERED[kind, name]
        return found
    target = parse(name)
    if target is None and name in plugins(kind):
        target = parse(plugins(kind)[name].value.partition("[")[0].strip())
    if target is None:
        if ":" in name:
            raise UsageError(
                f"{where}: {kind} {shown(name, 100)}: an import path is written {FORM}".lstrip(": ")
            )
        return None
    from benchmark.catalog.own.loading import refer
    from benchmark.catalog.own.making import make_entry

    given = search_folders() if folders is None else tuple(folders)
    place = f"{where}: {kind} '{name}'" if where else f"{kind} '{name}'"
    reference = refer(target, given, where=place)
    made: T = make_entry(kind, name, reference, settings or {}, search=search or {}, where=where)
    return made


def find_entry(
    registry: Registry[T],
    name: str,
    *,
    where: str = "",
    folders: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
) -> T:
    """Return an entry by name: of the catalog, or as ``find_own`` finds it.

    Raises:
        UsageError: the name is unknown, or the code or a setting is wrong.
    """
    found = find_own(registry, name, where=where, folders=folders, settings=settings, search=search)
    if found is not None:
        return found
    entry = registry.get(name, where=where, more=more_names(registry.kind))
    for key, value in (("settings; they are", settings), ("search; it is", search)):
        if value:
            raise UsageError(
                f"{where}: {registry.kind} '{name}' takes no {key} for own code and import "
                "paths".lstrip(": ")
            )
    return entry


def more_names(kind: str) -> list[str]:
    """Return the names of registered entries and entry points."""
    return [*(name for key, name in _REGISTERED if key == kind), *plugins(kind)]


def register(entry: Any, registries: Sequence[Registry[Any]]) -> None:
    """Add an entry for this process; one of the same name that was registered is replaced.

    Args:
        entry: a ``Backbone``, ``Head``, ``Metric`` or ``Dataset``.
        registries: the catalogs.

    Raises:
        UsageError: it is no entry, its name is taken, or its code cannot be shipped to workers.
    """
    from benchmark.catalog.own.making import KINDS, register_entry

    kind = next((key for key, item in KINDS.items() if isinstance(entry, item)), None)
    if kind is None:
        raise UsageError(
            f"register: a {type(entry).__name__} is no bm.Backbone, bm.Head, bm.Metric or "
            "bm.Dataset"
        )
    (registry,) = (item for item in registries if item.kind == kind)
    if entry.name in registry or entry.name in plugins(kind):
        raise UsageError(f"register: there is a {kind} '{entry.name}' already; take another name")
    if not entry.name or ":" in entry.name or not entry.name.isprintable():
        raise UsageError(
            f"register: the name {shown(entry.name, 100)} is empty, or holds ':' or control "
            "characters; take another"
        )
    wrap, own = _wrappers()
    made = register_entry(entry, wrap, own)
    _REGISTERED[kind, entry.name] = made


def _wrappers() -> tuple[Callable[[str, Any], Any], dict[str, Any]]:
    """Return a function that wraps the functions of an entry, and the identity that it fills."""
    from benchmark.catalog.own.adapters import ByValue
    from benchmark.catalog.own.loading import Folders, Reference, identity, refer
    from benchmark.catalog.own.values import folder_of, read_value

    own: dict[str, Any] = {}

    def wrap(field: str, value: Any) -> ByValue | Reference:
        target = _target_of(value)
        if target is not None:
            folder = folder_of(target.module)
            reference = refer(target, (folder,) if folder else (), where="register")
            own[field] = {**identity(reference), "name": f"{target.module}:{target.attribute}"}
            return reference
        try:
            found = read_value(value)
        except ValueError as error:
            raise UsageError(f"register: {field}: {error}; put it into a module") from None
        own[field] = {"code": found.digest}
        return ByValue(value, Folders(found.folders))

    return wrap, own


def _target_of(value: Any) -> Target | None:
    """Return the import path of a function or class of a module; None: workers cannot import it."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not module or module == "__main__" or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return Target(module, name) if found is value else None


def own_targets(
    names: Sequence[tuple[str, str]], folders: Sequence[str]
) -> list[tuple[Target, Place]]:
    """Return where the own code of these names (kind, name) lies, to ship it.

    Raises:
        UsageError: a name was registered in Python, or there is no such module.
    """
    found = []
    for kind, name in names:
        if (kind, name) in _REGISTERED:
            raise UsageError(
                f"submit: {kind} '{name}' was registered in this process, which a job does not "
                f"see; put it into a module and name it as {FORM}"
            )
        target = parse(name)
        if target is None and name in plugins(kind):
            target = parse(plugins(kind)[name].value.partition("[")[0].strip())
        if target is not None:
            found.append((target, locate(target, folders, where=f"submit: {kind} '{name}'")))
    return found
