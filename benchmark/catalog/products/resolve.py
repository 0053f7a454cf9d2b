"""Find the embedding products that an experiment names ``embeddings:PATH``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from benchmark.catalog.options import backbone_what, check_applicable
from benchmark.catalog.roots.address import refuse_secrets
from benchmark.errors import UsageError
from benchmark.specs import Backbone

if TYPE_CHECKING:
    from benchmark.options import BackboneOptions

PRODUCT_PREFIX = "embeddings:"
APPLICABLE = frozenset({"id_column", "vector_columns"})


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
    from benchmark.catalog.products.tables import open_tables

    address = name.removeprefix(PRODUCT_PREFIX)
    # First: all other messages hold the name.
    refuse_secrets(address, where=f"{where}: a backbone {PRODUCT_PREFIX}...".lstrip(": "))
    check_applicable(name, options, APPLICABLE, where=where)
    product = open_tables(
        address,
        id_column=options.id_column if options else None,
        vector_columns=options.vector_columns if options else None,
        where=backbone_what(name, where),
    )
    return Backbone(
        name=name,
        description=f"embeddings read from {product.label}, {product.columns.words}",
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
