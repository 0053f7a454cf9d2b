"""A check, its result, and how checks are run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from benchmark.errors import BenchmarkError, blame

T = TypeVar("T")
Check: TypeAlias = Callable[[T], None]
"""A function that raises if a case breaks the contract; its docstring says the contract."""


class Broken(BenchmarkError):
    """A contract is broken; the message says how."""


class Checked(NamedTuple):
    """The result of one check."""

    name: str
    is_ok: bool
    reason: str
    """Why it failed; if it did not, what it has checked."""

    def to_json(self) -> dict[str, Any]:
        """Return the record that ``--json`` prints."""
        return {"check": self.name, "ok": self.is_ok, "reason": self.reason}


def expect(is_kept: bool, reason: str) -> None:
    """Raise Broken with a reason unless a contract is kept."""
    if not is_kept:
        raise Broken(reason)


def run_checks(checks: Sequence[Check[T]], case: T) -> Iterator[Checked]:
    """Run checks one after another and yield their results; own errors are failed checks."""
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check(case)
        except Exception as error:  # own code raises what it likes
            yield Checked(name, False, blame(error))
        else:
            yield Checked(name, True, (check.__doc__ or name).strip().splitlines()[0])


def pickles(value: T) -> T:
    """Return a copy of a value as another process gets it.

    Functions that no module holds are passed as they are: Ray ships their code.

    Raises:
        Broken: it does not pickle.
    """
    kept: list[Any] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> int | None:
            is_code = getattr(item, "__module__", None) == "__main__"
            if not is_code and "<" not in str(getattr(item, "__qualname__", "")):
                return None
            kept.append(item)
            return len(kept) - 1

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: Any) -> Any:
            return kept[number]

    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(value)
        found: T = Unpickler(io.BytesIO(buffer.getvalue())).load()
    except Exception as error:  # of any type: own classes define how they pickle
        raise Broken(f"it cannot be sent to another process: {blame(error)}") from None
    return found
