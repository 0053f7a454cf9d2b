"""A catalog of named entries; a duplicate or unknown name is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from benchmark.errors import UsageError, did_you_mean


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """Its name."""
        ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """An ordered, read-only collection of entries, looked up by name."""

    def __init__(self, kind: str, entries: Iterable[T]) -> None:
        """Build the registry; raises ValueError if two entries share a name."""
        self.kind = kind
        self._entries: dict[str, T] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ValueError(f"two {kind}s are named '{entry.name}'")
            self._entries[entry.name] = entry

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the names in the order of the catalog."""
        return list(self._entries)

    def get(self, name: str, *, where: str = "", more: Iterable[str] = ()) -> T:
        """Return the entry of that name.

        Args:
            name: what the user wrote.
            where: the place, e.g. ``experiments/x.toml``; the message starts with it.
            more: names known from elsewhere, which the message may suggest.

        Raises:
            UsageError: the name is unknown; suggests the nearest one.
        """
        try:
            return self._entries[name]
        except KeyError:
            prefix = f"{where}: " if where else ""
            hint = did_you_mean(name, [*self._entries, *more])
            raise UsageError(f"{prefix}unknown {self.kind} '{name}'.{hint}") from None
