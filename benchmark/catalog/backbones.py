"""The available backbones: a new one needs only an entry here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from benchmark.catalog.efficientnet import (
    LITES,
    NUM_PARAMETERS,
    build_random,
    publish_lite,
    untrained,
)
from benchmark.catalog.handcrafted import HANDCRAFTED
from benchmark.catalog.huggingface.resolve import PREFIX, resolve_huggingface
from benchmark.catalog.options import FED, READ, check_applicable, feed, options_where
from benchmark.catalog.own.lookup import FORM, find_own, more_names
from benchmark.catalog.products.resolve import PRODUCT_PREFIX, resolve_product
from benchmark.catalog.timm.layers import read_layer
from benchmark.catalog.timm.models import TIMM_PREFIX, resolve_timm
from benchmark.catalog.torchgeo.models import TORCHGEO_PREFIX, resolve_torchgeo
from benchmark.errors import UsageError
from benchmark.problems import options_place
from benchmark.registry import Registry
from benchmark.specs import Backbone

if TYPE_CHECKING:
    import torch

    from benchmark.options import BackboneOptions


def build_mean_color(num_bands: int) -> torch.nn.Module:
    """Build the mean and standard deviation of each band: (B, C, H, W) to (B, 2 C)."""
    import torch

    class MeanColor(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, c, _, _ = x.shape
            std, mean = torch.std_mean(x.reshape(b, c, -1), dim=2, correction=0)
            return torch.cat([mean, std], dim=1)

    del num_bands
    return MeanColor()


BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    [
        *LITES,
        Backbone(
            name="random",
            description="EfficientNet-Lite0 with untrained weights",
            family="efficientnet",
            build=build_random,
            dim=1280,
            num_parameters=NUM_PARAMETERS[0],
            image_size=224,
            mean=(0.5,),
            std=(0.5,),
            publish=partial(publish_lite, 0),
            source="timm tf_efficientnet_lite0, untrained",
            license="Apache-2.0",
            is_floor=True,
        ),
        Backbone(
            name="mean_color",
            description="mean and standard deviation of each band",
            family="hand-crafted",
            build=build_mean_color,
            dim=None,
            num_parameters=0,
            is_trainable=False,
            bands=None,
            source="two moments of the pixels",
            license="Apache-2.0",
            is_floor=True,
        ),
        *HANDCRAFTED,
    ],
)


SOURCES: Mapping[str, str] = {
    "hf:ORG/NAME[@REVISION], hf:PATH/TO/FOLDER": "image models of transformers and timm",
    "timm:NAME[.TAG]": "networks of timm, e.g. timm:resnet50.a1_in1k",
    "torchgeo:MODEL/WEIGHTS": "networks pretrained on satellite and aerial images, e.g. "
    "torchgeo:resnet18/ResNet18_Weights.SENTINEL2_RGB_MOCO",
    "torchgeo:rcf": "random convolutional features",
    "embeddings:PATH": "embeddings in files of Parquet, CSV or NPZ: docs/PRODUCTS.md",
}
"""Names of models that are not entries: their form, and their meaning."""


def find_backbone(
    name: str,
    *,
    where: str = "",
    options: BackboneOptions | None = None,
    folders: Sequence[str] | None = None,
) -> Backbone:
    """Return a backbone by name: an entry, a model of one of the ``SOURCES``, or own code.

    Args:
        name: what the user wrote; with ``options.model``, a name of the user's own.
        where: the place, e.g. ``experiments/x.toml``; the message starts with it.
        options: how it is used; None: the defaults.
        folders: searched for own code after installed packages; None: the current folder.

    Raises:
        UsageError: the name is unknown, the model cannot be used, or an option does not apply.
    """
    if options is not None and options.has_lists:
        raise UsageError(
            f"{options_where(name, where)}: lists of layers or poolings make several backbones, of "
            "an experiment; give one 'layer' and one 'pooling' here"
        )
    if options is not None and options.model is not None:
        return _find_alias(name, options, where=where, folders=folders)
    if name.startswith(PREFIX):
        return resolve_huggingface(name, where=where, options=options)
    if name.startswith(TIMM_PREFIX):
        return resolve_timm(name, where=where, options=options)
    if name.startswith(TORCHGEO_PREFIX):
        return resolve_torchgeo(name, where=where, options=options)
    if name.startswith(PRODUCT_PREFIX):
        return resolve_product(name, where=where, options=options)
    settings = options.settings if options else {}
    own = find_own(BACKBONES, name, where=where, folders=folders, settings=settings)
    if own is not None:
        check_applicable(name, options, FED | {"settings"}, where=where)
        return own if options is None else feed(own, options, where=where)
    try:
        entry = BACKBONES.get(name, where=where, more=more_names("backbone"))
    except UsageError as error:
        known = ", ".join(SOURCES)
        raise UsageError(f"{error} Models of other sources: {known}. Own code: {FORM}.") from None
    # Backbones that do not resize patches have no image size to change.
    applicable = FED if entry.image_size is not None else FED - {"image_size"}
    network = untrained(name)
    check_applicable(name, options, applicable if network is None else READ, where=where)
    if options is None:
        return entry
    fed = feed(entry, options, where=where)
    return fed if network is None else read_layer(fed, options, network, where=where)


def _find_alias(
    name: str, options: BackboneOptions, *, where: str, folders: Sequence[str] | None
) -> Backbone:
    """Return a model under the user's own name."""
    model = options.model or ""
    if name in BACKBONES.names():
        raise UsageError(
            f"{options_where(name, where)}: 'model' is set, but '{name}' is a backbone of the "
            "catalog; choose another name"
        )
    try:
        own = options.model_copy(update={"model": None})
        entry = find_backbone(model, where=where, options=own, folders=folders)
    except UsageError as error:
        # The options lie in the table of the user's name.
        text = str(error).replace(options_place(model), options_place(name))
        raise UsageError(text) from None
    return replace(entry, name=name, alias_of=entry.name)
