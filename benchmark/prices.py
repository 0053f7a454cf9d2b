"""Prices of devices and of storage, from a file of the user's; the package has none of its own."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, model_validator

from benchmark.fields import FiniteFloat, Title
from benchmark.section import Section
from benchmark.small_files import read_section

Price = Annotated[FiniteFloat, Field(ge=0.0, le=1e9)]


class DevicePrice(Section):
    """``[[devices]]``: the price of a kind of device."""

    name: Title
    """Its name as the page shows it, or a pattern such as ``*H200*``; a core of a processor is
    ``cpu``."""
    hour: Price
    """Price of one GPU, or of one core, for an hour."""


class Prices(Section):
    """Prices in one currency."""

    currency: Annotated[str, Field(min_length=1, max_length=10, pattern=r"^[^\s\x00-\x1f]+$")]
    devices: Annotated[tuple[DevicePrice, ...], Field(max_length=200)] = ()
    """The first whose name matches counts."""
    storage: Price | None = None
    """Price of a gigabyte (10^9 bytes) for a month."""

    @model_validator(mode="after")
    def _has_one(self) -> Prices:
        if not self.devices and self.storage is None:
            raise ValueError("it holds no price; write [[devices]] or 'storage'")
        return self

    def of_seconds(self, seconds: float | None, device: str | None) -> float | None:
        """Return the price of device-seconds; None: seconds, device or its price are unknown."""
        if seconds is None or device is None:
            return None
        for item in self.devices:
            if fnmatchcase(device.lower(), item.name.lower()):
                return seconds / 3600 * item.hour
        return None

    def of_bytes(self, num_bytes: float | None) -> float | None:
        """Return the price of storage for a month; None: one of both is unknown."""
        if num_bytes is None or self.storage is None:
            return None
        return num_bytes / 1e9 * self.storage


def read_prices(path: str | None, *, where: str) -> Prices | None:
    """Return the prices of a TOML file; None: there is none.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    return None if path is None else read_section(Prices, path, where=f"{where}: prices")
