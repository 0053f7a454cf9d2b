"""Under which identity and name the artefacts of a backbone lie in a store.

A checkpoint's folder is identified by its content, and named after the last part of its path. What
was computed under another last part, or by a version that took the whole path for the identity, is
found by its fingerprint. So are results of versions that read large weights at three places only,
if they are complete and younger than the last change of the files: their content was the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmark.specs import Backbone, slug_of
from benchmark.store import provenance
from benchmark.store.artefacts import Store
from benchmark.store.digest import FileRevision, fingerprint


class Place(NamedTuple):
    """How the artefacts of a backbone are known in one stage."""

    identity: str
    """The name in the fingerprint."""
    revision: str
    """The revision in the fingerprint."""
    slug: str
    """The part of the folder's name."""


@dataclass
class Places:
    """The places of the backbones of an experiment, each looked up once."""

    store: Store
    dataset: str
    """The data set's part of names, with which those of artefacts begin."""
    _found: dict[tuple[str, ...], Place] = field(default_factory=dict)
    _listed: dict[str, dict[str, str]] = field(default_factory=dict)

    def find(
        self,
        stage: str,
        backbone: Backbone,
        inputs: Callable[[Place], dict[str, Any]],
        suffix: str = "",
        method: str = "",
    ) -> Place:
        """Return the place of a backbone's artefact: a new one, unless the store has it already.

        Args:
            stage: of the artefact.
            backbone: of the experiment.
            inputs: of the fingerprint, for a place.
            suffix: end of the artefact's name, after the backbone.
            method: of the artefact, where several have the same suffix.

        Raises:
            CellError: the store cannot be read.
        """
        key = (stage, backbone.name, suffix, method)
        if key not in self._found:
            self._found[key] = self._look_up(stage, backbone, inputs, suffix)
        return self._found[key]

    def _look_up(
        self,
        stage: str,
        backbone: Backbone,
        inputs: Callable[[Place], dict[str, Any]],
        suffix: str,
    ) -> Place:
        today, *earlier = _candidates(backbone)
        if not earlier:
            return today[0]
        if stage not in self._listed:
            self._listed[stage] = self.store.names(stage)
        listed, first = self._listed[stage], f"{self.dataset}-"
        for place, changed_s in (today, *earlier):
            digest = fingerprint(inputs(place))
            name = listed.get(digest, "")
            if not (name.startswith(first) and name.endswith(suffix)):
                continue
            slug = name[len(first) : len(name) - len(suffix)]
            # Of today's identity the last part of the path may be another one.
            is_same = place.identity == backbone.identity or slug == slug_of(place.identity)
            if is_same and self._is_younger(stage, name, digest, changed_s):
                return place._replace(slug=slug)
        return today[0]

    def _is_younger(self, stage: str, name: str, digest: str, changed_s: float) -> bool:
        """Return whether a result is complete and was written after a time; 0: any will do."""
        if not changed_s:
            return True
        artefact = self.store.artefact(stage, name, digest)
        return artefact.is_complete and provenance.written_s(artefact.manifest()) > changed_s


def _candidates(backbone: Backbone) -> Iterator[tuple[Place, float]]:
    """Yield the places where results may lie, today's first.

    Each has the time (s since the epoch) after which they must have been written; 0: at any time.
    """
    identities = [backbone.identity]
    if backbone.folder is not None:
        identities = list(dict.fromkeys((backbone.identity, backbone.model, backbone.name)))
    revisions = [(backbone.revision(), 0.0)]
    if isinstance(backbone.revision, FileRevision):
        former = backbone.revision.former()
        if former.revision != revisions[0][0]:
            revisions.append((former.revision, former.changed_s))
    for revision, changed_s in revisions:
        for identity in identities:
            yield Place(identity, revision, backbone.slug), changed_s
