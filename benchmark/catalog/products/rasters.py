"""An embedding product in the form of rasters, with one band for each dimension."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmark.catalog.products.headers import Header, read_header
from benchmark.catalog.products.layouts import PLAIN, Layout, find_layout, year_of
from benchmark.catalog.products.locating import Files, Located, explained
from benchmark.catalog.products.pixels import Rule
from benchmark.catalog.products.sampling import RasterSampler
from benchmark.catalog.rasters.files import FileError, open_raster
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError
from benchmark.store.digest import fingerprint

if TYPE_CHECKING:
    from benchmark.options import BackboneOptions

VERSION = 1
"""Raised by hand when the vectors of a content change."""
NUM_AT_ONCE = 16
"""Headers that are read at once."""


@dataclass(frozen=True, kw_only=True)
class RasterProduct(Files):
    """Rasters of equal bands (``products.PlacedProduct``)."""

    first: Header
    layout: Layout
    rule: Rule
    year: int | None
    """The year of the files, if the user chose one."""

    @property
    def words(self) -> str:
        """Description for users."""
        return f"{self.first.num_bands:,} bands {self.layout.words}; {self.rule.words}"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.first.num_bands * self.rule.num_statistics

    @property
    def needs_outlines(self) -> bool:
        """Whether the centre of a patch is not enough."""
        return self.rule.sample != "centre"

    @property
    def facts(self) -> Mapping[str, Any]:
        """Files and rule, as JSON."""
        years = sorted({year for path in self.files if (year := self._year_of(path)) is not None})
        return {
            "address": self.address,
            "num_files": len(self.files),
            "layout": self.layout.name,
            "values": self.layout.words,
            "sample": self.rule.sample,
            "years": years,
        }

    def revision(self) -> str:
        """Return a digest of the content of the files, of any name, and of the rule.

        Of large files, a part is hashed, as of scenes.

        Raises:
            UsageError: a file is gone, or the server fails.
        """
        return self._revision

    @cached_property
    def _revision(self) -> str:
        with explained(self.address, self.where):
            found = self.root.identify(self.files)
        gone = [path for path in self.files if path not in found]
        if gone:
            raise UsageError(f"{self.where}: there is no file '{gone[0]}'; correct the path")
        return fingerprint(
            [sorted(found.values()), self.layout.name, self.rule, self.drops_missing, VERSION]
        )

    def open(self) -> RasterSampler:
        """Read the headers of all files (see ``products.PlacedProduct``).

        Raises:
            UsageError: a file is damaged, or has other bands.
        """
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            headers = tuple(pool.map(self._header, self.files))
        return RasterSampler(
            root=self.root,
            headers=headers,
            years=tuple(map(self._year_of, self.files)),
            layout=self.layout,
            rule=self.rule,
            where=self.where,
        )

    def _year_of(self, path: str) -> int | None:
        return self.year or year_of(path, self.address)

    def _header(self, path: str) -> Header:
        found, first = open_header(self.root, path, self.where), self.first
        for what, mine, others in (
            ("bands", found.num_bands, first.num_bands),
            ("pixel type", found.dtype, first.dtype),
            ("names of bands", found.names, first.names),
            ("layout", _layout_of(found, self.address, self.rule).name, self.layout.name),
        ):
            if mine != others:
                raise UsageError(
                    f"{self.where}: '{path}' differs from '{first.path}' in its {what}; name one "
                    "file, or a folder of files with equal bands"
                )
        return found


def open_rasters(found: Located, *, options: BackboneOptions | None, where: str) -> RasterProduct:
    """Open the product in some rasters, of which the first is looked at.

    Raises:
        UsageError: none is of the year wanted, or the first is damaged or has no place on the
            ground.
    """
    year = options.year if options else None
    files = found.files if year is None else _of_year(found, year, where)
    first = open_header(found.root, files[0], where)
    rule = Rule(
        sample=options.sample if options else "mean",
        scale=options.scale if options else None,
        offset=options.offset if options else None,
        nodata=options.nodata if options else None,
    )
    return RasterProduct(
        address=found.address,
        root=found.root,
        files=files,
        first=first,
        layout=_layout_of(first, found.address, rule),
        rule=rule,
        year=year,
        drops_missing=options is not None and options.missing == "drop",
        where=where,
    )


def _layout_of(header: Header, address: str, rule: Rule) -> Layout:
    """Return the layout of a file; the user's own scale or offset replace one that is known."""
    if rule.scale is None and rule.offset is None:
        return find_layout(header, address)
    return PLAIN._replace(words=f"times {rule.scale or 1:g} plus {rule.offset or 0:g}")


def _of_year(found: Located, year: int, where: str) -> tuple[str, ...]:
    """Return the files of a year; all of them where no name tells one.

    Raises:
        UsageError: there are only files of other years.
    """
    years = {path: year_of(path, found.address) for path in found.files}
    known = sorted({item for item in years.values() if item is not None})
    files = tuple(path for path, item in years.items() if item == year)
    if known and not files:
        names = ", ".join(map(str, known))
        raise UsageError(f"{where}: 'year' = {year}: its files are of {names}; choose one of them")
    return files or found.files


def open_header(root: Root, path: str, where: str) -> Header:
    """Return the header of a raster.

    Raises:
        UsageError: it is missing or damaged, or cannot be used.
    """

    def read() -> Header:
        with open_raster(root, path) as file:
            return read_header(file, path)

    try:
        return root.retried(read)
    except FileError as error:
        raise UsageError(f"{where}: '{path}' {error}") from None
