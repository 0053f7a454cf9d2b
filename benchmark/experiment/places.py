"""Where the artefacts of a checkpoint's folder lie, whatever the folder's path.

They are identified by the folder's content, and named after the last part of its path. What was
computed under another last part, or by a version that took the whole path for the identity, is
found by its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmark.specs import Backbone, slug_of
from benchmark.store.artefacts import Store
from benchmark.store.digest import fingerprint


class Place(NamedTuple):
    """How the artefacts of a backbone are known in one stage."""

    identity: str
    """The name in the fingerprint."""
    slug: str
    """The part of the folder's name."""


@dataclass
class Places:
    """The places of the backbones of an experiment, each looked up once."""

    store: Store
    dataset: str
    """The data set's name, with which the artefacts' names begin."""
    _found: dict[tuple[str, ...], Place] = field(default_factory=dict)
    _listed: dict[str, dict[str, str]] = field(default_factory=dict)

    def find(
        self,
        stage: str,
        backbone: Backbone,
        inputs: Callable[[str], dict[str, Any]],
        suffix: str = "",
    ) -> Place:
        """Return the place of a backbone's artefact: a new one, unless the store has it already.

        Args:
            stage: of the artefact.
            backbone: of the experiment.
            inputs: of the fingerprint, for a name.
            suffix: end of the artefact's name, after the backbone.

        Raises:
            CellError: the store cannot be read.
        """
        if backbone.folder is None:
            return Place(backbone.model, backbone.slug)
        key = (stage, backbone.name, suffix)
        if key not in self._found:
            self._found[key] = self._look_up(stage, backbone, inputs, suffix)
        return self._found[key]

    def _look_up(
        self,
        stage: str,
        backbone: Backbone,
        inputs: Callable[[str], dict[str, Any]],
        suffix: str,
    ) -> Place:
        if stage not in self._listed:
            self._listed[stage] = self.store.names(stage)
        listed, first = self._listed[stage], f"{self.dataset}-"
        for identity in (backbone.identity, backbone.model, backbone.name):
            name = listed.get(fingerprint(inputs(identity)), "")
            if name.startswith(first) and name.endswith(suffix):
                slug = name[len(first) : len(name) - len(suffix)]
                if identity == backbone.identity or slug == slug_of(identity):
                    return Place(identity, slug)
        return Place(backbone.identity, backbone.slug)
