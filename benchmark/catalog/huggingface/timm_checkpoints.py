"""Checkpoints of networks of timm: as transformers wraps them, or as timm itself saves them.

Both name the architecture and its arguments in ``config.json``, and say in its ``pretrained_cfg``
what the network is fed. transformers puts ``timm_model.`` before the names of the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmark.catalog.huggingface.files import CONFIG, Checkpoint
from benchmark.catalog.options import FED, check_applicable, feed, options_where
from benchmark.catalog.tensors import check_fit
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
from benchmark.errors import UsageError
from benchmark.specs import Backbone

if TYPE_CHECKING:
    import torch

    from benchmark.config import BackboneOptions

WRAPPER = "timm_wrapper"
"""The type of model that transformers calls them."""

_PREFIX = "timm_model."
_OF_THE_FACTORY = frozenset({"cache_dir", "checkpoint_path", "features_only"})
"""Arguments of ``timm.create_model`` that are not of the network; some open other files."""


class Saved(NamedTuple):
    """What ``config.json`` says of a network."""

    architecture: str
    model_args: Arguments
    num_classes: int
    """Of the classifier that was saved with it."""
    images: Preprocessing
    license: str


def holds_timm(config: Mapping[str, Any]) -> bool:
    """Return whether ``config.json`` is that of a network of timm."""
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
        revision: what identifies its files.
        options: of this backbone; ``image_size`` and ``bands`` apply.

    Raises:
        UsageError: timm has no such network, the checkpoint is not whole, or it cannot be used
            as the options say.
    """
    name, where = checkpoint.name, checkpoint.where
    check_applicable(name, options, FED, where=where)
    saved = read_config(config, checkpoint.what)
    # They are read here so that what is absent or torn fails before any work.
    checkpoint.headers()
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
    begin = checkpoint.what if backbone == entry else options_where(name, where)
    try:
        facts = read_facts(saved.architecture, size, len(backbone.bands or ()), saved.model_args)
    except UsageError as error:
        raise UsageError(f"{begin}: {error}") from None
    return replace(
        backbone,
        build=partial(build, checkpoint, saved),
        publish=partial(publish_network, saved.architecture, saved.model_args),
        dim=facts.dim,
        num_parameters=facts.num_parameters,
    )


def read_config(config: Mapping[str, Any], what: str) -> Saved:
    """Read ``config.json``, in the form that timm writes today, and in its older flat one.

    Raises:
        UsageError: timm has no such network, or the file holds what cannot be used; says what.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise UsageError(f"{what}: its {CONFIG} names no architecture of timm")
    architecture = architecture.partition(".")[0]
    check_architecture(architecture, what)
    fed = config.get("pretrained_cfg", {} if config.get("model_type") else config)
    if not isinstance(fed, Mapping) or not fed.keys() & {"input_size", "mean", "std"}:
        raise UsageError(
            f"{what}: its {CONFIG} has no pretrained_cfg, which says how images are resized and "
            "normalised; save the network with it"
        )
    model_args = _read_arguments(config.get("model_args") or {}, what)
    size = dict(model_args).get("img_size")
    if size is not None and fed.get("fixed_input_size"):
        # timm reads its own files so: the arguments are those of the weights.
        fed = {**fed, "input_size": (3, size, size)}
    num_classes = config.get("num_classes", fed.get("num_classes"))
    return Saved(
        architecture,
        model_args,
        num_classes if isinstance(num_classes, int) else 0,
        read_preprocessing(fed, what),
        str(fed.get("license") or "as the checkpoint says"),
    )


def build(checkpoint: Checkpoint, saved: Saved, num_bands: int) -> torch.nn.Module:
    """Build the network with its weights: (B, C, H, W) to (B, D).

    The classifier of the checkpoint, where it has one, is left out.

    Raises:
        UsageError: the weights do not fit the network, or are not finite.
    """
    from safetensors.torch import load_file

    stored = {
        name.removeprefix(_PREFIX): tensor
        for path in checkpoint.weights()
        for name, tensor in load_file(path).items()
    }
    body, head = _shapes(saved)
    num_classes = 0
    if not stored.keys() & head and not stored.keys() <= body.keys():
        # Perhaps names of an older version: timm translates them, with those of the classifier.
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


def _read_arguments(given: Any, what: str) -> Arguments:
    """Return what the network is built with, without what is chosen here."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{what}: its {CONFIG} has model_args = {given}; give a JSON object")
    found = {}
    for key, value in sorted(given.items()):
        if key.startswith("pretrained") or key in _OF_THE_FACTORY:
            raise UsageError(
                f"{what}: its {CONFIG} has '{key}' in model_args, which is no argument of a "
                "pooled network; leave it out"
            )
        is_pair = key == "img_size" and isinstance(value, list)
        if (is_pair and len(set(value)) != 1) or (key == "in_chans" and value != 3):
            raise UsageError(
                f"{what}: its {CONFIG} has {key} = {value}; only square images of 3 bands can be "
                "had here"
            )
        if key not in {"in_chans", "num_classes"}:
            found[key] = value[0] if is_pair else _as_tuple(value)
    return tuple(found.items())


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _sized(saved: Saved, size: int) -> Arguments:
    """Return the arguments of a network with positions for each patch of an image of this size."""
    model_args = dict(saved.model_args)
    if "img_size" in model_args or pretrained_config(saved.architecture)["fixed_input_size"]:
        model_args["img_size"] = size
    return tuple(model_args.items())


def _shapes(saved: Saved) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return the shapes of the network's tensors by name, and the names of its classifier's."""
    import torch

    model_args = dict(saved.model_args)
    with torch.device("meta"):
        body = build_untrained(saved.architecture, 3, **model_args).state_dict()
        whole = build_untrained(saved.architecture, 3, num_classes=2, **model_args).state_dict()
    return {name: tuple(item.shape) for name, item in body.items()}, whole.keys() - body.keys()
