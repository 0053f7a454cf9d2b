"""An embedding product in the form of rasters, with one band for each dimension."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from benchmark.catalog.products.headers import Header, read_header
from benchmark.catalog.products.layouts import PER_PIXEL, PLAIN, Layout, find_layout, year_of
from benchmark.catalog.products.locating import Files, Located, explained
from benchmark.catalog.products.pixels import Rule
from benchmark.catalog.products.sampling import RasterSampler
from benchmark.catalog.rasters.files import FileError, open_raster
from benchmark.catalog.roots.root import Root
from benchmark.errors import UsageError
from benchmark.fields import shown
from benchmark.store.digest import fingerprint

if TYPE_CHECKING:
    from benchmark.options import BackboneOptions

T = TypeVar("T")

METHODS = (None, "none", PER_PIXEL)
"""How the values of a Zarr store may be quantised without a layout or a scale of the user."""
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
    layers: tuple[Header, ...] = ()
    """Of Zarr stores, whose headers are small and are read at once; of files: none."""

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
        told = map(self._year_of, self.layers) if self.layers else map(self._named_year, self.files)
        years = sorted({year for year in told if year is not None})
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
            found = self.root.identify(self.files) if not self.layers else self._identify_stores()
        gone = [path for path in self.files if path not in found]
        if gone:
            raise UsageError(f"{self.where}: there is no file '{gone[0]}'; correct the path")
        return fingerprint(
            [sorted(found.values()), self.layout.name, self.rule, self.drops_missing, VERSION]
        )

    def _identify_stores(self) -> Mapping[str, str]:
        """Return the identity of each store: that of all its files, and of what is read of it.

        Paths of files inside a store count: they say where a chunk lies.
        """
        found = {}
        for store in self.files:
            digests = self.root.identify(self.root.list(f"{glob.escape(store)}/**/*"))
            inside = {path.removeprefix(f"{store}/"): text for path, text in digests.items()}
            read = [
                [header.layer.array, header.layer.time]
                for header in self.layers
                if header.layer is not None and header.layer.store == store
            ]
            found[store] = fingerprint([inside, read])
        return found

    def open(self) -> RasterSampler:
        """Read the headers of all files (see ``products.PlacedProduct``).

        Raises:
            UsageError: a file is damaged, or has other bands.
        """
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            headers = self.layers or tuple(pool.map(self._header, self.files))
        for header in headers:
            self._check_equal(header)
        return RasterSampler(
            root=self.root,
            headers=headers,
            years=tuple(map(self._year_of, headers)),
            layout=self.layout,
            rule=self.rule,
            where=self.where,
        )

    def _year_of(self, header: Header) -> int | None:
        if header.layer is None:
            return self._named_year(header.path)
        return _layer_year(header, self.address) or self.year

    def _named_year(self, path: str) -> int | None:
        return self.year or year_of(path, self.address)

    def _header(self, path: str) -> Header:
        return open_header(self.root, path, self.where)

    def _check_equal(self, found: Header) -> None:
        first = self.first
        for what, mine, others in (
            ("bands", found.num_bands, first.num_bands),
            ("pixel type", found.dtype, first.dtype),
            ("names of bands", found.names, first.names),
            ("layout", _layout_of(found, self.address, self.rule).name, self.layout.name),
        ):
            if mine != others:
                raise UsageError(
                    f"{self.where}: '{found.path}' differs from '{first.path}' in its {what}; "
                    "name one file, or a folder of files with equal bands"
                )


def open_rasters(found: Located, *, options: BackboneOptions | None, where: str) -> RasterProduct:
    """Open the product in some rasters, of which the first is looked at.

    Raises:
        UsageError: none is of the year wanted, or the first is damaged or has no place on the
            ground.
    """
    year = options.year if options else None
    layers: tuple[Header, ...] = ()
    if found.are_stores:
        layers = _layers_of(found, year, where)
        files = tuple(dict.fromkeys(header.layer.store for header in layers if header.layer))
    else:
        years = [year_of(path, found.address) for path in found.files]
        files = _of_year(found.files, years, year, where)
    first = layers[0] if layers else open_header(found.root, files[0], where)
    rule = Rule(
        sample=options.sample if options else "mean",
        scale=options.scale if options else None,
        offset=options.offset if options else None,
        nodata=options.nodata if options else None,
    )
    layout = _layout_of(first, found.address, rule)
    if layout.refusal:
        raise UsageError(f"{where}: '{first.path}' {layout.refusal}")
    _check_quantisation(layers, layout, rule, where)
    return RasterProduct(
        address=found.address,
        root=found.root,
        files=files,
        first=first,
        layout=layout,
        rule=rule,
        year=year,
        layers=layers,
        drops_missing=options is not None and options.missing == "drop",
        where=where,
    )


def _layout_of(header: Header, address: str, rule: Rule) -> Layout:
    """Return the layout of a file; the user's own scale or offset replace one that is known."""
    if rule.scale is None and rule.offset is None:
        return find_layout(header, address)
    return PLAIN._replace(words=f"times {rule.scale or 1:g} plus {rule.offset or 0:g}")


def _of_year(
    items: Sequence[T], years: Sequence[int | None], year: int | None, where: str
) -> tuple[T, ...]:
    """Return the items of a year; all of them where none is wanted, or nothing tells one.

    Raises:
        UsageError: there are only items of other years.
    """
    known = sorted({item for item in years if item is not None})
    if year is None or not known:
        return tuple(items)
    if year not in known:
        names = ", ".join(map(str, known))
        raise UsageError(f"{where}: 'year' = {year}: its files are of {names}; choose one of them")
    return tuple(item for item, its_year in zip(items, years, strict=True) if its_year == year)


def _layers_of(found: Located, year: int | None, where: str) -> tuple[Header, ...]:
    """Return the headers of the arrays in Zarr stores, those of one year if it is given.

    Raises:
        UsageError: a store is damaged, or its metadata are not clear.
    """
    from benchmark.catalog.products.zarr_layers import read_layers

    headers: list[Header] = []
    for store in found.files:
        try:
            headers += read_layers(found.root, store)
        except FileError as error:
            raise UsageError(f"{where}: '{store}' {error}") from None
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    years = [_layer_year(header, found.address) for header in headers]
    return _of_year(headers, years, year, where)


def _layer_year(header: Header, address: str) -> int | None:
    """Return the year that the times of an array tell, else the path of its store."""
    if header.layer is None or header.layer.year is not None:
        return header.layer.year if header.layer else None
    return year_of(header.layer.store, address)


def _check_quantisation(layers: Sequence[Header], layout: Layout, rule: Rule, where: str) -> None:
    """Check that the values of Zarr stores become vectors in a known way.

    Raises:
        UsageError: they do not, or the user's own scale would replace a factor for each pixel.
    """
    is_given = (rule.scale, rule.offset) != (None, None)
    for header in layers:
        method = header.layer.method if header.layer else None
        if header.is_scaled and is_given:
            raise UsageError(
                f"{where}: '{header.path}' has a factor for each pixel; leave out 'scale' and "
                "'offset'"
            )
        if method not in METHODS and layout.dequantise is None and not is_given:
            raise UsageError(
                f"{where}: '{header.path}' is quantised by {shown(method, 100)}, which is not "
                "known; set 'scale' and 'offset'"
            )


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
