"""Flipped patches: which ones are embedded beside the plain ones, and how they are identified.

Fine-tuned backbones flip patches themselves. Heads need embeddings of the flips, which are
artefacts of their own, so that those of the plain patches do not depend on the setting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmark.flipping import FLIPS
from benchmark.protocol_settings import ProtocolConfig
from benchmark.store.artefacts import Artefact

HELD_OUT = ("val", "test")
"""The splits whose patches a cell predicts, unless a train set gives others these roles."""
VERSION = 1
"""Increase by hand when a change of code changes what flips predict."""


@dataclass(frozen=True)
class FlippedPatches:
    """One flip of the patches of some splits of the data."""

    flip: str
    splits: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its part of a cell's label."""
        return " ".join(("flipped", self.flip, *(() if self.splits == HELD_OUT else self.splits)))

    @property
    def slug(self) -> str:
        """Its part of an artefact's name."""
        return self.name.replace(" ", "-")

    @property
    def identity(self) -> dict[str, Any]:
        """Its part of a fingerprint."""
        return {"flip": self.flip, "splits": list(self.splits), "version": VERSION}


def flipped_patches(protocol: ProtocolConfig) -> tuple[FlippedPatches, ...]:
    """Return the flips to embed: of val and test, and of train where it may be val or test.

    Folds and transfer give patches of train these roles. They are apart, so that neither setting
    embeds flips of val and test again.
    """
    is_redrawn = protocol.cross_validation is not None or protocol.transfer is not None
    groups = [HELD_OUT, ("train",)] if is_redrawn else [HELD_OUT]
    return tuple(FlippedPatches(flip, group) for flip in FLIPS[protocol.flips] for group in groups)


def flips_inputs(flips: Iterable[str]) -> dict[str, Any]:
    """Return the part of a fingerprint for predictions over flips; empty without flips."""
    names = list(flips)
    return {"flips": {"names": names, "version": VERSION}} if names else {}


def embedding_seconds(manifest: dict[str, Any], flipped: Iterable[Artefact]) -> float | None:
    """Return the device-seconds of a backbone's embeddings, those of flips included.

    Args:
        manifest: of the plain embeddings.
        flipped: the artefacts of the flips.

    Returns: None if one is not known, because its embeddings have been deleted.
    """
    total = manifest.get("seconds", {}).get("device")
    for artefact in flipped:
        if total is None or not artefact.is_complete:
            return None
        total += artefact.manifest()["seconds"]["device"]
    return None if total is None else float(total)
