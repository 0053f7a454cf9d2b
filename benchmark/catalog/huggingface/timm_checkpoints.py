"""Checkpoints of networks of timm, saved by timm or by its wrapper in transformers.

Both have the architecture, its arguments and ``pretrained_cfg`` (the preprocessing) in
``config.json``. transformers adds the prefix ``timm_model.`` to the names of the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.huggingface.documents import explained, field
from benchmark.catalog.huggingface.files import CONFIG, Checkpoint
from benchmark.catalog.huggingface.images import check_normalisation
from benchmark.catalog.huggingface.sizes import MAX_SIDE, bounded, check_totals
from benchmark.catalog.options import READ, check_applicable, feed, options_where, prefixed
from benchmark.catalog.tensors import check_fit
from benchmark.catalog.timm.layers import read_layer
from benchmark.catalog.timm.names import check_architecture, family_of, pretrained_config
from benchmark.catalog.timm.networks import (
    Arguments,
    Preprocessing,
    build_loaded,
    build_untrained,
    publish_network,
    read_facts,
    read_preprocessing,
)
from benchmark.errors import UsageError, tidy
from benchmark.fields import shown
from benchmark.specs import Backbone

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from benchmark.options import BackboneOptions

WRAPPER = "timm_wrapper"
"""Their model type in transformers."""

_PREFIX = "timm_model."
_OF_THE_FACTORY = frozenset({"cache_dir", "checkpoint_path", "features_only"})
"""Arguments of ``timm.create_model``, not of the network; some open other files."""


class Saved(NamedTuple):
    """A network as described by ``config.json``."""

    architecture: str
    model_args: Arguments
    num_classes: int
    """Of the saved classifier."""
    images: Preprocessing
    license: str


def holds_timm(config: Mapping[str, Any]) -> bool:
    """Return whether ``config.json`` describes a network of timm."""
    model_type = config.get("model_type")
    return model_type == WRAPPER or (model_type is None and "architecture" in config)


def describe_network(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    *,
    revision: Callable[[], str],
    options: BackboneOptions | None,
) -> Backbone:
    """Return the entry of a checkpoint of timm.

    Args:
        checkpoint: its files.
        config: the content of ``config.json``.
        revision: returns the identity of its files.
        options: of this backbone; all but ``trust_remote_code`` apply.

    Raises:
        UsageError: timm has no such network, the checkpoint is truncated, or it does not support
            the options.
    """
    name, where = checkpoint.name, checkpoint.where
    check_applicable(name, options, READ, where=where)
    failed = f"{checkpoint.what}: timm cannot use its {CONFIG}"
    with explained(failed):
        saved = read_config(config, checkpoint.what)
    # Read now so that missing or truncated weights fail before any work.
    headers = checkpoint.headers()
    entry = Backbone(
        name=name,
        description=f"{saved.architecture} of timm, pooled features",
        family=family_of(saved.architecture),
        build=partial(build, checkpoint, saved),
        dim=None,
        num_parameters=0,
        source=checkpoint.source,
        license=saved.license,
        hub_id=checkpoint.repo or None,
        revision=revision,
        **saved.images._asdict(),
    )
    backbone = feed(entry, options, where=where)
    size = backbone.image_size or saved.images.image_size
    saved = saved._replace(model_args=_sized(saved, size))
    prefix = checkpoint.what if backbone == entry else options_where(name, where)
    with explained(failed), prefixed(prefix), bounded(headers, saved.architecture):
        facts = read_facts(saved.architecture, size, len(backbone.bands or ()), saved.model_args)
    backbone = replace(
        backbone,
        build=partial(build, checkpoint, saved),
        publish=partial(publish_network, saved.architecture, saved.model_args),
        dim=facts.dim,
        num_parameters=facts.num_parameters,
    )
    network = partial(build_untrained, saved.architecture, **dict(saved.model_args))
    with explained(failed), bounded(headers, saved.architecture):
        return read_layer(backbone, options, network, where=where)


def read_config(config: Mapping[str, Any], what: str) -> Saved:
    """Read ``config.json`` in the present form of timm or its older flat form.

    Raises:
        UsageError: timm has no such network, or the file has a setting that is not supported.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise UsageError(f"{what}: its {CONFIG} names no architecture of timm; add it")
    architecture = architecture.partition(".")[0]
    check_architecture(architecture, what)
    where = f"{what}: its {CONFIG}"
    check_totals([("num_classes", config.get("num_classes"))], where)
    is_nested = "pretrained_cfg" in config or config.get("model_type")
    fed = field(config, "pretrained_cfg", where) if is_nested else config
    if not fed.keys() & {"input_size", "mean", "std"}:
        raise UsageError(
            f"{what}: its {CONFIG} has no pretrained_cfg (how images are resized and normalised); "
            "save the network with it"
        )
    model_args = _read_arguments(field(config, "model_args", where), where)
    size = dict(model_args).get("img_size")
    if size is not None and fed.get("fixed_input_size"):
        # As timm does: model_args has the size of the weights.
        fed = {**fed, "input_size": (3, size, size)}
    num_classes = config.get("num_classes", fed.get("num_classes"))
    return Saved(
        architecture,
        model_args,
        num_classes if isinstance(num_classes, int) else 0,
        _read_images(fed, what),
        tidy(fed.get("license") or "as the checkpoint says", 200),
    )


def build(checkpoint: Checkpoint, saved: Saved, num_bands: int) -> torch.nn.Module:
    """Build the network with its weights: (B, C, H, W) to (B, D).

    Leaves out the checkpoint's classifier, if any.

    Raises:
        UsageError: the weights do not fit the network, or are not finite.
    """
    with explained(f"{checkpoint.what}: timm cannot load it"):
        return _load(checkpoint, saved, num_bands)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file of weights by name; its code is not run."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _load(checkpoint: Checkpoint, saved: Saved, num_bands: int) -> torch.nn.Module:
    stored = {
        name.removeprefix(_PREFIX): tensor
        for path in checkpoint.weights()
        for name, tensor in read_tensors(path).items()
    }
    body, head = _shapes(saved)
    num_classes = 0
    if not stored.keys() & head and not stored.keys() <= body.keys():
        # Maybe names of an older version: timm translates them along with the classifier.
        num_classes = saved.num_classes
    state = {name: tensor for name, tensor in stored.items() if name not in head}
    overlay = {
        "state_dict": state,
        "input_size": (3, saved.images.image_size, saved.images.image_size),
        "num_classes": num_classes,
        "label_offset": None,
    }
    what = checkpoint.what
    try:
        with bounded(checkpoint.headers(), what):
            return build_loaded(
                saved.architecture,
                overlay,
                saved.model_args,
                num_bands,
                what=what,
                num_classes=num_classes,
            )
    except UsageError:
        both = body.keys() & state.keys()
        check_fit(
            what,
            absent={name for name in body.keys() - both if "num_batches_tracked" not in name},
            left_over=state.keys() - both,
            misshapen=[name for name in both if tuple(state[name].shape) != body[name]],
        )
        raise


def _read_images(fed: Mapping[str, Any], what: str) -> Preprocessing:
    """Return the preprocessing of ``pretrained_cfg``, whose sizes and numbers are bounded."""
    images = read_preprocessing(fed, what)
    where = f"{what}: its pretrained_cfg"
    if max(images.image_size, images.resize_to or 0) > MAX_SIDE:
        raise UsageError(
            f"{where} has images of {images.image_size} px, cut out of {images.resize_to} px; set "
            f"input_size and crop_pct for at most {MAX_SIDE:,} px"
        )
    check_normalisation(images.mean, images.std, where, ("mean", "std"))
    return images


def _read_arguments(given: Mapping[str, Any], where: str) -> Arguments:
    """Return the arguments of the network, without bands and number of classes."""
    check_totals(given.items(), f"{where}, in model_args,")
    found = {}
    for key, value in sorted(given.items()):
        if key.startswith("pretrained") or key in _OF_THE_FACTORY:
            raise UsageError(
                f"{where} has '{key}' in model_args, which is not an argument of a pooled network; "
                "remove it"
            )
        if isinstance(value, Mapping):
            raise UsageError(
                f"{where} has {key} = {shown(value)} in model_args; only numbers, texts and lists "
                "are supported"
            )
        is_pair = key == "img_size" and isinstance(value, list)
        is_square = not is_pair or (value and all(side == value[0] for side in value))
        if not is_square or (key == "in_chans" and value != 3):
            raise UsageError(
                f"{where} has {key} = {shown(value)}; only square images of 3 bands are supported"
            )
        if key not in {"in_chans", "num_classes"}:
            found[key] = value[0] if is_pair else _as_tuple(value)
    return tuple(found.items())


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _sized(saved: Saved, size: int) -> Arguments:
    """Return the arguments with the image size, if the network is built for one size."""
    model_args = dict(saved.model_args)
    if "img_size" in model_args or pretrained_config(saved.architecture)["fixed_input_size"]:
        model_args["img_size"] = size
    return tuple(model_args.items())


def _shapes(saved: Saved) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return the shapes of the network's tensors by name, and the names in its classifier."""
    import torch

    model_args = dict(saved.model_args)
    with torch.device("meta"):
        body = build_untrained(saved.architecture, 3, **model_args).state_dict()
        whole = build_untrained(saved.architecture, 3, num_classes=2, **model_args).state_dict()
    return {name: tuple(item.shape) for name, item in body.items()}, whole.keys() - body.keys()
