"""The context that every stage receives, and the identity of every artefact.

All fingerprints are computed here, so that one place lists the inputs that change a result: the
data set's digest and sampling, weights, preprocessing, the settings of the stage, the seed and the
stage's code version. Batch sizes, numbers of actors and paths do not change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from benchmark.cluster.connection import Cluster, Resources
from benchmark.cluster.scheduling import Ledger, lanes_of, within
from benchmark.config import Experiment
from benchmark.errors import CellError, UsageError
from benchmark.experiment.cells import Cell
from benchmark.experiment.flipped import FlippedPatches, flipped_patches, flips_inputs
from benchmark.experiment.fold_sets import fold_sets
from benchmark.experiment.identity import (
    backbone_inputs,
    derived_inputs,
    own_inputs,
    recipe_inputs,
    report_inputs,
)
from benchmark.experiment.label_sets import label_sets
from benchmark.experiment.outcomes import Outcomes
from benchmark.experiment.places import Place, Places
from benchmark.experiment.region_sets import PENDING, find_regions, region_sets
from benchmark.experiment.train_sets import ALL, ChosenPatches, TrainSet
from benchmark.experiment.usage import StageUsage
from benchmark.flipping import FLIPS
from benchmark.methods import FINETUNE, finetunings
from benchmark.prices import Prices
from benchmark.references import Reference
from benchmark.specs import Backbone, Dataset, Head, Metric, Source
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.digest import fingerprint
from benchmark.store.leases import Leases
from benchmark.variants import choose, leaders

CODE_VERSIONS = {
    "patches": 1,
    "embed": 1,
    "tune": 1,
    "finetune": 1,
    "evaluate": 5,
    "report": 8,
}
"""Increase by hand when a change of a stage's code changes its results."""


@dataclass(kw_only=True)
class Context(Outcomes):
    """An experiment with resolved names, its store, and the cluster that it runs on."""

    experiment: Experiment
    dataset: Dataset
    backbones: tuple[Backbone, ...]
    heads: tuple[Head, ...]
    metrics: tuple[Metric, ...]
    store: Store
    cluster: Cluster
    reference: Reference | None = None
    """Published results that the page shows beside the run."""
    prices: Prices | None = None
    usages: list[StageUsage] = field(default_factory=list)
    """Duration and utilisation of the stages of this run."""
    _rows: dict[tuple[TrainSet, int], ChosenPatches] = field(default_factory=dict)
    _train_sets: tuple[TrainSet, ...] = ()

    @cached_property
    def source(self) -> Source:
        """The opened data set; raises UsageError if it is missing or has the wrong layout."""
        try:
            return self.dataset.open(self.experiment.dataset)
        except CellError as error:
            # Own code that cannot open its data is its user's to mend.
            name = f"{self.experiment.path} [dataset]: data set '{self.dataset.name}'"
            raise UsageError(f"{name}: {error}") from None

    @cached_property
    def dataset_digest(self) -> str:
        """The digest of the source files."""
        return self.source.digest()

    @cached_property
    def leases(self) -> Leases:
        """The leases of this run; other runs do not compute these cells."""
        return Leases(self.store, group=self.experiment.name)

    @cached_property
    def ledger(self) -> Ledger:
        """The stages with work, and the resources that each may book."""
        return Ledger(lanes_of(self.experiment))

    def resources(self, stage: str) -> Resources:
        """Connect to the cluster and return the resources that a stage may book now."""
        whole = self.cluster.connect()
        return within(whole, self.ledger.budget(stage, whole))

    def first_resources(self, stage: str) -> Resources:
        """Return the resources that a stage may book at its start, whatever has ended already."""
        whole = self.cluster.connect()
        return within(whole, self.ledger.first_budget(stage, whole))

    @cached_property
    def patches_inputs(self) -> dict[str, Any]:
        """The identity of the patches."""
        config = self.experiment.dataset
        applied = {"patch_size", "seed", "per_region", "per_class", "on_error"}
        applied |= self.dataset.settings
        # Absent if unused: fingerprints from before these settings remain valid.
        given = config.model_dump(exclude_defaults=True).keys()
        applied |= {"sampling", "rare_class_boost"} & given
        return {
            "dataset": self.dataset.name,
            "digest": self.dataset_digest,
            "settings": {
                key: value
                for key, value in config.model_dump(mode="json").items()
                if key in applied
            },
            "version": CODE_VERSIONS["patches"],
            **own_inputs(self.dataset),
        }

    @cached_property
    def patches(self) -> Artefact:
        """The table ``patches``."""
        return self.store.artefact("patches", self.dataset.slug, fingerprint(self.patches_inputs))

    @property
    def num_train(self) -> int:
        """The number of train patches, from the manifest of the complete patches."""
        return ChosenPatches(self.patches, ALL, 0).num_train

    @cached_property
    def places(self) -> Places:
        """Where the artefacts of checkpoints' folders lie in the store."""
        return Places(self.store, self.dataset.slug)

    def _backbone_inputs(self, backbone: Backbone, place: Place) -> dict[str, Any]:
        return backbone_inputs(backbone, self.experiment.dataset.patch_size, place)

    def embeddings_inputs(self, backbone: Backbone) -> dict[str, Any]:
        """The identity of the embeddings of a backbone."""
        return self._embeddings_inputs(backbone, self._embeddings_place(backbone))

    def parents_of(self, backbone: Backbone) -> tuple[Backbone, ...]:
        """Return the backbones whose stored embeddings a backbone is made from."""
        if backbone.derived is None:
            return ()
        by_name = {item.name: item for item in self.backbones}
        return tuple(by_name[name] for name in backbone.derived.parents)

    def _embeddings_inputs(self, backbone: Backbone, place: Place) -> dict[str, Any]:
        if backbone.derived is not None:
            parents = [self.embeddings(item).fingerprint for item in self.parents_of(backbone)]
            return {
                "patches": self.patches.fingerprint,
                "derived": derived_inputs(backbone.derived, parents, self.experiment.seeds[0]),
                "version": CODE_VERSIONS["embed"],
            }
        return {
            "patches": self.patches.fingerprint,
            "backbone": self._backbone_inputs(backbone, place),
            "precision": self.experiment.embed.precision,
            "version": CODE_VERSIONS["embed"],
        }

    def _embeddings_place(self, backbone: Backbone) -> Place:
        return self.places.find("embed", backbone, partial(self._embeddings_inputs, backbone))

    def embeddings(self, backbone: Backbone) -> Artefact:
        """The table ``embeddings`` of a backbone."""
        return self.store.artefact(
            "embed",
            f"{self.dataset.slug}-{self._embeddings_place(backbone).slug}",
            fingerprint(self.embeddings_inputs(backbone)),
        )

    def flips_of(self, backbone: Backbone) -> tuple[str, ...]:
        """Return the flips over which predictions are averaged; none of stored embeddings."""
        is_stored = backbone.product is not None or backbone.derived is not None
        return () if is_stored else FLIPS[self.experiment.protocol.flips]

    def flipped_inputs(self, backbone: Backbone, flipped: FlippedPatches) -> dict[str, Any]:
        """The identity of the embeddings of flipped patches."""
        return {"embeddings": self.embeddings(backbone).fingerprint, **flipped.identity}

    def flipped(self, backbone: Backbone) -> dict[FlippedPatches, Artefact]:
        """The tables ``embeddings`` of the flips of a backbone's patches."""
        chosen = flipped_patches(self.experiment.protocol) if self.flips_of(backbone) else ()
        name = f"{self.dataset.slug}-{self._embeddings_place(backbone).slug}"
        return {
            item: self.store.artefact(
                "embed", f"{name}-{item.slug}", fingerprint(self.flipped_inputs(backbone, item))
            )
            for item in chosen
        }

    def predictions_inputs(
        self, backbone: Backbone, head: Head, seed: int, train_set: TrainSet = ALL
    ) -> dict[str, Any]:
        """The identity of the predictions of a tuned head."""
        tune = self.experiment.tune
        return {
            "embeddings": self.embeddings(backbone).fingerprint,
            "head": {
                "name": head.name,
                "version": head.version,
                "num_epochs": head.num_epochs,
                "patience": head.patience,
                **own_inputs(head),
            },
            "num_trials": tune.num_trials if head.is_searched else 1,
            "pruning": tune.pruning if head.num_epochs else None,
            "refit": tune.refit,
            "train_set": train_set.identity,
            "seed": seed,
            "version": CODE_VERSIONS["tune"],
            **flips_inputs(self.flips_of(backbone)),
        }

    def predictions(
        self, backbone: Backbone, head: Head, seed: int, train_set: TrainSet = ALL
    ) -> Artefact:
        """The table ``predictions`` of a tuned head."""
        place = self._embeddings_place(backbone)
        return self.store.artefact(
            "tune",
            f"{self.dataset.slug}-{place.slug}-{head.slug}-{train_set.slug}seed{seed}",
            fingerprint(self.predictions_inputs(backbone, head, seed, train_set)),
        )

    @cached_property
    def finetuned_backbones(self) -> tuple[Backbone, ...]:
        """The backbones to fine-tune: those named, or all trainable ones that are no floor.

        Variants of one network are fine-tuned once, as its first one reads it.
        """
        config = self.experiment.finetune
        if config is None:
            return ()
        if config.backbones is not None:
            return choose(self.backbones, config.backbones)
        firsts = leaders(self.backbones)
        return tuple(item for item in firsts if item.is_trainable and not item.is_floor)

    def finetuned_inputs(
        self, backbone: Backbone, seed: int, train_set: TrainSet = ALL, method: str = FINETUNE
    ) -> dict[str, Any]:
        """The identity of a fine-tuned backbone and its predictions.

        Its mode alone tells methods apart: one that ``mode`` or ``modes`` name is computed once.
        """
        place = self._finetuned_place(backbone, seed, train_set, method)
        return self._finetuned_inputs(backbone, seed, train_set, method, place)

    def _finetuned_place(
        self, backbone: Backbone, seed: int, train_set: TrainSet, method: str
    ) -> Place:
        inputs = partial(self._finetuned_inputs, backbone, seed, train_set, method)
        suffix = f"-{FINETUNE}-{train_set.slug}seed{seed}"
        return self.places.find(FINETUNE, backbone, inputs, suffix, method)

    def _finetuned_inputs(
        self, backbone: Backbone, seed: int, train_set: TrainSet, method: str, place: Place
    ) -> dict[str, Any]:
        config = finetunings(self.experiment.finetune).get(method)
        if config is None:
            raise ValueError(f"the experiment does not fine-tune by '{method}'")
        return {
            "patches": self.patches.fingerprint,
            "backbone": self._backbone_inputs(backbone, place),
            "settings": recipe_inputs(config),
            "refit": self.experiment.tune.refit,
            "train_set": train_set.identity,
            "seed": seed,
            "version": CODE_VERSIONS[FINETUNE],
            **flips_inputs(self.flips_of(backbone)),
        }

    def finetuned(
        self, backbone: Backbone, seed: int, train_set: TrainSet = ALL, method: str = FINETUNE
    ) -> Artefact:
        """A fine-tuned backbone: weights, learning curve and the table ``predictions``."""
        place = self._finetuned_place(backbone, seed, train_set, method)
        return self.store.artefact(
            FINETUNE,
            f"{self.dataset.slug}-{place.slug}-{FINETUNE}-{train_set.slug}seed{seed}",
            fingerprint(self._finetuned_inputs(backbone, seed, train_set, method, place)),
        )

    @property
    def train_sets(self) -> tuple[TrainSet, ...]:
        """The train sets of the grid, the fullest first: the headline is made within it."""
        if not self._train_sets or self._train_sets[-1].name == PENDING:
            protocol = self.experiment.protocol
            regions = find_regions(self.patches) if protocol.transfer else None
            sets = (*label_sets(protocol), *region_sets(protocol.transfer, regions))
            self._train_sets = fold_sets(protocol) or sets
        return self._train_sets

    def rows_of(self, cell: Cell) -> ChosenPatches:
        """The patches as a cell of the grid sees them: roles in place of splits."""
        (train_set,) = (item for item in self.train_sets if item.name == cell.train_set)
        key = (train_set, cell.seed or 0 if train_set.is_drawn else 0)
        return self._rows.setdefault(key, ChosenPatches(self.patches, *key))

    def prediction_cells(self) -> list[Cell]:
        """Return the grid: dataset x backbone x method x train_set x seed."""
        return [*self.tune_cells(), *self.finetune_cells()]

    def finetune_cells(self) -> list[Cell]:
        """Return the cells of fine-tuned backbones."""
        return [
            Cell(
                stage=FINETUNE,
                artefact=self.finetuned(backbone, seed, train_set, method),
                dataset=self.dataset.name,
                backbone=backbone.name,
                method=method,
                train_set=train_set.name,
                seed=seed,
            )
            for backbone in self.finetuned_backbones
            for method in finetunings(self.experiment.finetune)
            for train_set in self.train_sets
            for seed in self.experiment.seeds
        ]

    def tune_cells(self) -> list[Cell]:
        """Return the cells of tuned heads."""
        return [
            Cell(
                stage="tune",
                artefact=self.predictions(backbone, head, seed, train_set),
                dataset=self.dataset.name,
                backbone=backbone.name,
                method=head.name,
                train_set=train_set.name,
                seed=seed,
            )
            for backbone in self.backbones
            for head in self.heads
            for train_set in self.train_sets
            for seed in self.experiment.seeds
        ]

    def scores_inputs(self) -> dict[str, Any]:
        """The identity of the scores: the complete predictions and the settings."""
        complete = [
            [cell.label, cell.artefact.fingerprint]
            for cell in self.prediction_cells()
            if cell.artefact.is_complete
        ]
        return {
            "patches": self.patches.fingerprint,
            "predictions": complete,
            "metrics": [
                [metric.name, metric.version, *own_inputs(metric).values()]
                for metric in self.metrics
            ],
            "settings": self.experiment.evaluate.model_dump(mode="json", exclude={"metrics"}),
            "version": CODE_VERSIONS["evaluate"],
            # Products, which have none, may be all: the notes still say so.
            **flips_inputs(FLIPS[self.experiment.protocol.flips]),
        }

    def scores(self) -> Artefact:
        """The tables ``confusion`` and ``scores`` of the predictions that are complete."""
        return self.store.artefact(
            "evaluate", self.experiment.name, fingerprint(self.scores_inputs())
        )

    def report_inputs(self) -> dict[str, Any]:
        """The identity of the report: the scores, the grid's gaps and the settings."""
        gaps = [
            [cell.label, *self.status(cell.artefact)]
            for cell in self.prediction_cells()
            if not cell.artefact.is_complete
        ]
        names = {key: item.name for key, item in self.experiment.backbone.items() if item.name}
        return {
            "scores": self.scores().fingerprint,
            "gaps": gaps,
            **report_inputs(self.experiment.report, self.reference, self.prices),
            "version": CODE_VERSIONS["report"],
            **({"names": names} if names else {}),
        }

    def report(self) -> Artefact:
        """The page of the current scores."""
        return self.store.artefact(
            "report", self.experiment.name, fingerprint(self.report_inputs())
        )
