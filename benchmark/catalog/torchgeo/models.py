"""Backbones from networks of torchgeo: ``torchgeo:MODEL/WEIGHTS`` and ``torchgeo:rcf``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.options import (
    FED,
    READ,
    backbone_what,
    check_applicable,
    feed,
    options_where,
    prefixed,
)
from benchmark.catalog.tensors import Facts, measure, misfit
from benchmark.catalog.timm.layers import read_layer
from benchmark.catalog.torchgeo.weights import RGB, Local, WeightsFile, read_feeding
from benchmark.errors import UsageError, did_you_mean
from benchmark.specs import Backbone
from benchmark.store.digest import FileRevision

if TYPE_CHECKING:
    import torch

    from benchmark.options import BackboneOptions

TORCHGEO_PREFIX = "torchgeo:"

RCF = "rcf"
RCF_FEATURES = 1024
"""Length of its embedding: two per filter, since both signs are rectified."""
RCF_SEED = 1
"""Not 0, which torchgeo takes as no seed."""

WAVELENGTHS: Mapping[str, float] = {
    "blue": 0.49, "green": 0.56, "red": 0.665, "nir": 0.842,
}  # fmt: skip
"""Micrometres, as in DOFA's own examples (github.com/zhu-xlab/DOFA, demo.ipynb)."""

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green, blue in DOFA's training on NAIP (same file)."""

FAMILIES = ("resnet", "vit", "swin", "dofa", "scalemae", "earthloc")
"""Prefixes of the names of models that take one image."""

_UNUSED = ("norm.", "fc_norm.", "head.", "fc.", "pos_embed")
"""Tensors that weights may lack: torchgeo keeps their initial values."""


class Model(NamedTuple):
    """One entry of torchgeo's weights, as plain values."""

    name: str
    """The model, e.g. ``resnet18``."""
    weights: str
    """Its weights, e.g. ``ResNet18_Weights.SENTINEL2_RGB_MOCO``."""
    num_bands: int
    size: int | None = None
    """Side in px, if it differs from that of the weights."""
    bands: tuple[str, ...] = ()
    """Bands of the input, for models that take wavelengths."""

    @property
    def family(self) -> str:
        """The kind of network."""
        return next((family for family in FAMILIES if self.name.startswith(family)), "")


def resolve_torchgeo(
    name: str, *, where: str = "", options: BackboneOptions | None = None
) -> Backbone:
    """Return the backbone named ``torchgeo:...``.

    Args:
        name: e.g. ``torchgeo:resnet18/ResNet18_Weights.SENTINEL2_RGB_MOCO`` or ``torchgeo:rcf``.
        where: the place of the name; prefix of error messages.
        options: of this backbone; all but ``trust_remote_code`` apply to networks with weights.

    Raises:
        UsageError: torchgeo has no such model or weights, the weights cannot be fetched, or the
            model does not support an option.
    """
    what = backbone_what(name, where)
    given = name.removeprefix(TORCHGEO_PREFIX)
    check_applicable(name, options, FED if given == RCF else READ, where=where)
    if given == RCF:
        return feed(describe_rcf(name), options, where=where)
    weights = find_weights(given, what)
    file = WeightsFile(what=what, name=str(weights), url=weights.url)
    model_name = given.partition("/")[0]
    entry = describe(name, model_name, str(weights), what)
    file.check()
    if entry.family == "dofa":
        # DOFA computes a filter for each wavelength: it takes any bands without inflation.
        backbone = feed(replace(entry, bands=None, mean=(0.0,), std=(1.0,)), options, where=where)
        backbone = _of_wavelengths(backbone, options_where(name, where))
        if replace(backbone, options=()) == entry:
            backbone = entry
    else:
        backbone = feed(entry, options, where=where)
    bands = backbone.bands or ()
    model = Model(
        model_name,
        str(weights),
        len(entry.bands or ()),
        size=None if backbone.image_size == entry.image_size else backbone.image_size,
        bands=bands,
    )
    with prefixed(options_where(name, where)):
        facts = read_facts(model, backbone.image_size, len(bands))
    backbone = replace(
        backbone,
        build=partial(build, model, file),
        revision=FileRevision(file.files),
        **facts._asdict(),
    )
    return read_layer(backbone, options, partial(build_untrained, model), where=where)


def describe(name: str, model_name: str, weights_name: str, what: str) -> Backbone:
    """Return the entry of a model without its weights.

    Args:
        name: of the backbone.
        model_name: torchgeo's, e.g. ``resnet18``.
        weights_name: torchgeo's, e.g. ``ResNet18_Weights.SENTINEL2_RGB_MOCO``.
        what: prefix of error messages.

    Raises:
        UsageError: its preprocessing or bands are not supported.
    """
    from torchgeo.models import get_weight

    weights = get_weight(weights_name)
    short = weights_name.partition(".")[2]
    feeding = read_feeding(
        short, weights.meta, weights.transforms, what=what, default_size=_default_size(model_name)
    )
    model = Model(model_name, weights_name, len(feeding.bands), bands=feeding.bands)
    is_dofa = model.family == "dofa"
    scale = f"; {feeding.scale}" if feeding.scale else ""
    trained = weights.meta.get("dataset", "pretrained")
    return Backbone(
        name=name,
        description=f"{model_name} of torchgeo, {short} ({trained}), pooled features{scale}",
        family=model.family,
        build=partial(build_untrained, model),
        **read_facts(model, feeding.image_size, len(feeding.bands))._asdict(),
        source=weights.url,
        license=str(weights.meta.get("license", "as the weights say")),
        image_size=feeding.image_size,
        resize_to=feeding.resize_to,
        crops_like_torchvision=True,
        bands=feeding.bands,
        mean=_IMAGENET[0] if is_dofa else feeding.mean,
        std=_IMAGENET[1] if is_dofa else feeding.std,
    )


def describe_rcf(name: str) -> Backbone:
    """Return random convolutional features, which need no weights."""
    return Backbone(
        name=name,
        description=f"random convolutional features, {RCF_FEATURES // 2} Gaussian filters of 3 px",
        family="hand-crafted",
        build=build_rcf,
        dim=RCF_FEATURES,
        num_parameters=0,
        is_trainable=False,
        bands=None,
        source="torchgeo.models.RCF, seeded",
        license="MIT",
    )


def build_rcf(num_bands: int) -> torch.nn.Module:
    """Build random convolutional features: (B, C, H, W) to (B, 1024)."""
    from torchgeo.models import RCF as Features

    network: torch.nn.Module = Features(
        in_channels=num_bands, features=RCF_FEATURES, kernel_size=3, seed=RCF_SEED, mode="gaussian"
    )
    return network.eval()


def build(model: Model, file: WeightsFile, num_bands: int) -> torch.nn.Module:
    """Build a model with its weights: (B, C, H, W) to (B, D).

    Raises:
        UsageError: the weights do not fit the model.
    """
    from torchgeo.models import get_weight

    state = file.load()
    local = Local(dict(get_weight(model.weights).meta), state)
    try:
        network = _network(model, local)
        _check_loaded(model, network, state)
    except (AssertionError, RuntimeError, KeyError, ValueError) as error:
        raise misfit(f"{file.what}: the weights {file.path}", error) from None
    return _adapted(model, network, num_bands)


def build_untrained(model: Model, num_bands: int) -> torch.nn.Module:
    """Build a model with random weights: (B, C, H, W) to (B, D)."""
    return _adapted(model, _network(model, None), num_bands)


@cache
def read_facts(model: Model, size: int | None, num_bands: int) -> Facts:
    """Return dimension and number of parameters of a model.

    Raises:
        UsageError: the model does not support the size (in px) or the number of bands.
    """
    return measure(model.name, partial(build_untrained, model), num_bands, size or 224)


def find_weights(given: str, what: str) -> Any:
    """Return torchgeo's entry for ``MODEL/WEIGHTS``.

    Raises:
        UsageError: there is no such model or weights; suggests the nearest name.
    """
    from torchgeo.models import get_model_weights, list_models

    model, _, name = given.partition("/")
    names = list_models()
    usable = [item for item in names if item.startswith(FAMILIES)]
    if model not in names:
        hint = did_you_mean(model, [*usable, RCF])
        raise UsageError(f"{what}: torchgeo has no model '{model}'.{hint}")
    if model not in usable:
        raise UsageError(
            f"{what}: '{model}' takes several images or returns maps; name a model of one image: "
            f"{', '.join(usable)}"
        )
    try:
        entries = {str(item): item for item in get_model_weights(model)}
    except KeyError:
        raise UsageError(f"{what}: torchgeo has no pretrained weights for '{model}'") from None
    if not name:
        raise UsageError(
            f"{what}: the weights are missing; write torchgeo:{model}/WEIGHTS. Known: "
            f"{', '.join(entries)}"
        )
    full = name if "." in name else f"{next(iter(entries)).partition('.')[0]}.{name}"
    if full not in entries:
        hint = did_you_mean(full, entries)
        raise UsageError(f"{what}: torchgeo has no weights '{name}' for '{model}'.{hint}")
    return entries[full]


def _network(model: Model, weights: Local | None) -> Any:
    """Build torchgeo's network with the number of bands of its weights."""
    import torch
    from torchgeo.models import get_model, get_weight

    meta = get_weight(model.weights).meta
    arguments: dict[str, Any] = {"num_classes": 0}
    if model.family in ("resnet", "vit"):
        arguments["in_chans"] = model.num_bands
        if "img_size" in meta:
            arguments["img_size"] = meta["img_size"]
        if model.family == "vit" and model.size:
            # Positions are resampled in the forward pass.
            arguments["dynamic_img_size"] = True
    elif model.family == "scalemae":
        # Positions are computed from the size.
        arguments["img_size"] = model.size or meta["img_size"]
    elif model.family == "earthloc":
        arguments = {"pretrained": False}
    elif model.family == "swin":
        arguments = {}
    network: Any = get_model(model.name, weights=weights, **arguments)
    if model.family == "swin":
        if weights is None and model.num_bands != 3:
            width = network.features[0][0].out_channels
            network.features[0][0] = torch.nn.Conv2d(model.num_bands, width, 4, 4)
        network.head = torch.nn.Identity()
    return network


def _adapted(model: Model, network: Any, num_bands: int) -> torch.nn.Module:
    """Return the network as a module of one argument that takes ``num_bands`` bands."""
    from benchmark.networks.inflation import inflate_first_convolution
    from benchmark.networks.pooling import SpectralModel

    if model.family == "dofa":
        return SpectralModel(network, [WAVELENGTHS[band] for band in model.bands]).eval()
    if num_bands != model.num_bands:
        inflate_first_convolution(network, num_bands)
    module: torch.nn.Module = network
    return module.eval()


def _check_loaded(model: Model, network: Any, state: Mapping[str, Any]) -> None:
    # torchgeo checks the tensors of all models but this one.
    if model.family != "scalemae":
        return
    absent = {name for name in network.state_dict() if not name.startswith(_UNUSED)} - state.keys()
    if absent:
        raise ValueError(f"it lacks the tensor '{min(absent)}'")


def _of_wavelengths(backbone: Backbone, where: str) -> Backbone:
    """Return a backbone that takes wavelengths, with its bands and their statistics."""
    bands = backbone.bands or RGB
    for band in bands:
        if band not in WAVELENGTHS:
            raise UsageError(
                f"{where}: the wavelength of '{band}' is unknown.{did_you_mean(band, WAVELENGTHS)}"
            )
    # Other bands have no known statistics; they get the mean over red, green and blue.
    mean, std = (
        tuple(dict(zip(RGB, values, strict=True)).get(band, sum(values) / 3) for band in bands)
        for values in _IMAGENET
    )
    return replace(backbone, bands=bands, mean=mean, std=std)


def _default_size(model_name: str) -> int | None:
    return None if model_name.startswith(("resnet", "swin")) else 224
