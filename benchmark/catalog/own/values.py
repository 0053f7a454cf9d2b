"""Digest of functions that no module holds, e.g. those of a notebook."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.catalog.own.source import read_source
from benchmark.errors import blame, is_own_file

MAX_DEPTH = 20


class Value(NamedTuple):
    """The identity of a function that no module holds."""

    digest: str
    folders: tuple[str, ...]
    """Folders of the user's modules that it uses, which workers must import."""


@dataclass
class _Walk:
    """What was visited."""

    seen: set[int] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def module(self, name: str) -> str:
        """Return the identity of a module: the digest of its source, or its version."""
        folder = folder_of(name)
        if folder is None:
            return str(getattr(sys.modules.get(name), "__version__", ""))
        self.folders.add(folder)
        return read_source(name, folder).digest


def read_value(value: Any) -> Value:
    """Return the digest of a function with all that it reaches: helpers, globals, modules.

    Code is taken as source text, so that the digest is the same in another process; values
    without source are pickled.

    Raises:
        ValueError: a value can be neither read nor pickled.
    """
    state, walk = hashlib.blake2b(digest_size=16), _Walk()
    for part in _parts(value, walk, 0):
        state.update(part.encode())
        state.update(b"\0")
    return Value(state.hexdigest(), tuple(sorted(walk.folders)))


def folder_of(module: str) -> str | None:
    """Return the folder of the top package of an imported module; None: it is none of the user."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not is_own_file(file) or module == "__main__":
        return None
    path = Path(file).resolve()
    depth = module.count(".") + (path.name == "__init__.py")
    return str(path.parents[depth])


def _parts(value: Any, walk: _Walk, depth: int) -> Iterator[str]:
    if id(value) in walk.seen or depth > MAX_DEPTH:
        return
    if isinstance(value, (types.FunctionType, type, types.MethodType)):
        walk.seen.add(id(value))
    if isinstance(value, types.ModuleType):
        yield f"module {value.__name__} {walk.module(value.__name__)}"
    elif isinstance(value, types.MethodType):
        yield from _parts(value.__func__, walk, depth + 1)
        yield from _parts(value.__self__, walk, depth + 1)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, walk, depth)
    elif isinstance(value, type):
        yield from _of_class(value, walk, depth)
    elif hasattr(value, "func") and hasattr(value, "keywords"):
        for item in (value.func, value.args, sorted(value.keywords.items())):
            yield from _parts(item, walk, depth + 1)
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} of {len(value)}"
        for item in value:
            yield from _parts(item, walk, depth + 1)
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield repr(key)
            yield from _parts(value[key], walk, depth + 1)
    elif value is None or isinstance(value, (str, bytes, int, float, bool)):
        yield repr(value)
    else:
        yield from _of_object(value, walk, depth)


def _of_function(value: types.FunctionType, walk: _Walk, depth: int) -> Iterator[str]:
    if not _is_of_session(value):
        yield f"{value.__module__}.{value.__qualname__} {walk.module(value.__module__)}"
        return
    yield _source(value) or repr(_code_of(value.__code__))
    for item in (value.__defaults__, value.__kwdefaults__):
        yield from _parts(item, walk, depth + 1)
    for cell in value.__closure__ or ():
        yield from _parts(cell.cell_contents, walk, depth + 1)
    for name in sorted(_names_in(value.__code__)):
        if name in value.__globals__:
            yield name
            yield from _parts(value.__globals__[name], walk, depth + 1)


def _of_class(value: type, walk: _Walk, depth: int) -> Iterator[str]:
    if not _is_of_session(value):
        yield f"{value.__module__}.{value.__qualname__} {walk.module(value.__module__)}"
        return
    yield _source(value) or value.__qualname__
    for base in value.__bases__:
        yield from _parts(base, walk, depth + 1)
    for name, item in sorted(vars(value).items()):
        item = getattr(item, "__func__", item)
        if isinstance(item, (types.FunctionType, type)):
            yield name
            yield from _parts(item, walk, depth + 1)


def _of_object(value: Any, walk: _Walk, depth: int) -> Iterator[str]:
    yield from _parts(type(value), walk, depth + 1)
    if _is_of_session(type(value)) and hasattr(value, "__dict__"):
        yield from _parts(vars(value), walk, depth + 1)
        return
    try:
        yield hashlib.blake2b(pickle.dumps(value), digest_size=16).hexdigest()
    except Exception as error:
        raise ValueError(f"a {type(value).__name__} cannot be pickled: {blame(error)}") from None


def _is_of_session(value: Any) -> bool:
    """Return whether no file of a module holds a function or class."""
    return getattr(value, "__module__", "") == "__main__" or "<locals>" in value.__qualname__


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return ""


def _code_of(code: types.CodeType) -> tuple[Any, ...]:
    inner = [
        _code_of(item) if isinstance(item, types.CodeType) else item for item in code.co_consts
    ]
    return (code.co_code, code.co_names, inner)


def _names_in(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            names |= _names_in(item)
    return names
