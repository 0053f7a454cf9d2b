"""Names of timm's networks and weights, and its configuration for them."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmark.errors import UsageError, did_you_mean


@cache
def pretrained_config(model: str) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` of the weights of a network.

    Args:
        model: timm's name, as ``full_name`` returns it.
    """
    import timm

    config: Any = timm.get_pretrained_cfg(model)
    return dict(config.to_dict())


def check_architecture(architecture: str, what: str) -> None:
    """Raise UsageError with the nearest name if timm has no such network."""
    import timm

    if not timm.is_model(architecture):
        hint = did_you_mean(
            architecture, timm.list_models(), otherwise="timm.list_models() lists all."
        )
        raise UsageError(f"{what}: timm has no network '{architecture}'.{hint}")


def full_name(given: str, what: str) -> str:
    """Return timm's name with its tag.

    Raises:
        UsageError: there is no such network, or it has no weights or none of that tag.
    """
    import timm

    architecture, _, tag = given.partition(".")
    check_architecture(architecture, what)
    tagged = [name for name in timm.list_pretrained(f"{architecture}.*") if _is_on_hub(name)]
    if not tagged:
        near = timm.list_pretrained(f"{architecture.split('_')[0]}*")
        hint = did_you_mean(
            architecture,
            {name.partition(".")[0] for name in near if _is_on_hub(name)},
            otherwise="timm.list_pretrained() lists the networks with weights.",
        )
        raise UsageError(f"{what}: timm has no pretrained weights for '{architecture}'.{hint}")
    if not tag:
        default: Any = timm.get_pretrained_cfg(architecture)
        full = f"{architecture}.{default.tag}"
        return full if full in tagged else tagged[0]
    if given not in tagged:
        raise UsageError(
            f"{what}: timm has no pretrained weights '{tag}' for '{architecture}'."
            f"{did_you_mean(given, tagged)}"
        )
    return given


def _is_on_hub(model: str) -> bool:
    return bool(pretrained_config(model).get("hf_hub_id"))


def family_of(architecture: str) -> str:
    """Return the family of a network: the module of timm that defines it."""
    import timm

    return str(timm.model_entrypoint(architecture).__module__).rpartition(".")[2]
