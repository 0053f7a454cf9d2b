"""Find the embedding products that an experiment names ``embeddings:PATH``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from benchmark.catalog.options import backbone_what, check_applicable
from benchmark.catalog.roots.address import refuse_secrets
from benchmark.errors import UsageError
from benchmark.specs import Backbone

if TYPE_CHECKING:
    from benchmark.catalog.products.rasters import RasterProduct
    from benchmark.catalog.products.tables import TableProduct
    from benchmark.options import BackboneOptions

PRODUCT_PREFIX = "embeddings:"
OF_TABLES = frozenset({"id_column", "vector_columns", "join", "missing"})
OF_RASTERS = frozenset({"sample", "year", "scale", "offset", "nodata", "missing"})


def resolve_product(
    name: str, *, where: str = "", options: BackboneOptions | None = None
) -> Backbone:
    """Return the backbone whose embeddings are in files.

    Args:
        name: ``embeddings:`` and the path or URI of a file, or of a folder of files.
        where: the place of the name; prefix of error messages.
        options: of this backbone.

    Raises:
        UsageError: there is no such file, it cannot be read, its columns are not clear, or an
            option does not apply.
    """
    from benchmark.catalog.products.locating import find_files
    from benchmark.catalog.products.rasters import open_rasters
    from benchmark.catalog.products.tables import open_tables

    address = name.removeprefix(PRODUCT_PREFIX)
    # First: all other messages hold the name.
    refuse_secrets(address, where=f"{where}: a backbone {PRODUCT_PREFIX}...".lstrip(": "))
    # Before a file is opened: no product has them.
    check_applicable(name, options, OF_TABLES | OF_RASTERS, where=where)
    what = backbone_what(name, where)
    found = find_files(address, what)
    check_applicable(name, options, OF_RASTERS if found.are_rasters else OF_TABLES, where=where)
    product: TableProduct | RasterProduct
    if found.are_rasters:
        product = open_rasters(found, options=options, where=what)
    else:
        product = open_tables(found, options=options, where=what)
    return Backbone(
        name=name,
        description=f"embeddings read from {product.label}, {product.words}",
        family="product",
        build=refuse_network,
        dim=product.dim,
        num_parameters=0,
        is_trainable=False,
        bands=(),
        source=product.label,
        license="as the product says",
        revision=product.revision,
        product=product,
    )


def refuse_network(num_bands: int) -> NoReturn:
    """Refuse to build a network, where a command needs one.

    Raises:
        UsageError: always.
    """
    del num_bands
    raise UsageError(
        "embeddings of a product are read from files: no network computes them for other images; "
        "name a backbone that has one"
    )
