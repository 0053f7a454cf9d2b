"""Results of earlier versions that are kept, although weights have another identity now."""

from __future__ import annotations

from typing import Any

from benchmark.specs import Backbone
from benchmark.store import provenance
from benchmark.store.artefacts import Store
from benchmark.store.digest import FileRevision, fingerprint


class FormerResults:
    """Chooses between the identity of a result and the one that earlier versions gave it.

    Those read large weights at three places only. A result of theirs is kept if it is complete and
    younger than the last change of the files: their content was the same.
    """

    def __init__(self, store: Store) -> None:
        """Choose among the results in a store; each choice is made once."""
        self._store = store
        self._is_kept: dict[str, bool] = {}

    def choose(
        self, inputs: dict[str, Any], backbone: Backbone, *, stage: str, name: str
    ) -> dict[str, Any]:
        """Return the identity of a result on a backbone.

        Args:
            inputs: the identity; that of the backbone has the key ``backbone``.
            backbone: whose weights it depends on.
            stage: of the result.
            name: of the result, without its fingerprint.

        Raises:
            CellError: the store cannot be read.
        """
        if not isinstance(backbone.revision, FileRevision):
            return inputs
        former = backbone.revision.former()
        earlier = {**inputs, "backbone": {**inputs["backbone"], "revision": former.revision}}
        if earlier == inputs:
            return inputs
        ours, theirs = (
            self._store.artefact(stage, name, fingerprint(item)) for item in (inputs, earlier)
        )
        if ours.path not in self._is_kept:
            self._is_kept[ours.path] = (
                not ours.is_complete
                and theirs.is_complete
                and provenance.written_s(theirs.manifest()) > former.changed_s
            )
        return earlier if self._is_kept[ours.path] else inputs
