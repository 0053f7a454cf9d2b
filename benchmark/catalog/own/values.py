"""Digest of functions that no module holds, e.g. those of a notebook."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import types
from collections.abc import Iterator
from typing import Any

from benchmark.errors import blame

MAX_DEPTH = 20


def digest_value(value: Any) -> str:
    """Return the digest of a function with all that it reaches: helpers, globals, defaults.

    Code is taken as source text, so that the digest is the same in another process; values
    without source are pickled.

    Raises:
        ValueError: a value can be neither read nor pickled.
    """
    state = hashlib.blake2b(digest_size=16)
    for part in _parts(value, set(), 0):
        state.update(part.encode())
        state.update(b"\0")
    return state.hexdigest()


def _parts(value: Any, seen: set[int], depth: int) -> Iterator[str]:
    if id(value) in seen or depth > MAX_DEPTH:
        return
    if isinstance(value, (types.FunctionType, type, types.MethodType)):
        seen.add(id(value))
    if isinstance(value, types.ModuleType):
        yield f"module {value.__name__} {getattr(value, '__version__', '')}"
    elif isinstance(value, types.MethodType):
        yield from _parts(value.__func__, seen, depth + 1)
        yield from _parts(value.__self__, seen, depth + 1)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, seen, depth)
    elif isinstance(value, type):
        yield from _of_class(value, seen, depth)
    elif hasattr(value, "func") and hasattr(value, "keywords"):
        for item in (value.func, value.args, sorted(value.keywords.items())):
            yield from _parts(item, seen, depth + 1)
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} of {len(value)}"
        for item in value:
            yield from _parts(item, seen, depth + 1)
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            yield repr(key)
            yield from _parts(value[key], seen, depth + 1)
    elif value is None or isinstance(value, (str, bytes, int, float, bool)):
        yield repr(value)
    else:
        yield from _of_object(value, seen, depth)


def _of_function(value: types.FunctionType, seen: set[int], depth: int) -> Iterator[str]:
    if not _is_of_session(value):
        yield f"{value.__module__}.{value.__qualname__}"
        return
    yield _source(value) or repr(_code_of(value.__code__))
    for item in (value.__defaults__, value.__kwdefaults__):
        yield from _parts(item, seen, depth + 1)
    for cell in value.__closure__ or ():
        yield from _parts(cell.cell_contents, seen, depth + 1)
    for name in sorted(_names_in(value.__code__)):
        if name in value.__globals__:
            yield name
            yield from _parts(value.__globals__[name], seen, depth + 1)


def _of_class(value: type, seen: set[int], depth: int) -> Iterator[str]:
    if not _is_of_session(value):
        yield f"{value.__module__}.{value.__qualname__}"
        return
    yield _source(value) or value.__qualname__
    for base in value.__bases__:
        yield from _parts(base, seen, depth + 1)
    for name, item in sorted(vars(value).items()):
        item = getattr(item, "__func__", item)
        if isinstance(item, (types.FunctionType, type)):
            yield name
            yield from _parts(item, seen, depth + 1)


def _of_object(value: Any, seen: set[int], depth: int) -> Iterator[str]:
    yield from _parts(type(value), seen, depth + 1)
    if _is_of_session(type(value)) and hasattr(value, "__dict__"):
        yield from _parts(vars(value), seen, depth + 1)
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
