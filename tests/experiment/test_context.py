"""A fingerprint covers everything that changes a result, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pyarrow as pa
import pytest
import torch
from pydantic import BaseModel

from benchmark.catalog.handcrafted import FitPca
from benchmark.cluster.connection import Cluster
from benchmark.config import BackboneOptions, DatasetConfig, Experiment, build
from benchmark.derived import Derivation
from benchmark.errors import CellError, UsageError
from benchmark.experiment.context import CODE_VERSIONS, Context
from benchmark.experiment.identity import backbone_inputs
from benchmark.progress import LoggedProgress
from benchmark.raster_settings import RastersConfig
from benchmark.specs import (
    Backbone,
    Dataset,
    Found,
    Head,
    HeadMemory,
    Images,
    Metric,
    Processor,
    Source,
)
from benchmark.stages import STAGES
from benchmark.store.artefacts import Store
from benchmark.variants import Shared


@dataclasses.dataclass(frozen=True)
class ToySource:
    content: str = "the files"
    classes: tuple[str, ...] = ("water", "trees")
    bands: tuple[str, ...] = ("red", "green", "blue")
    is_synthetic: bool = True
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        return self.content

    def units(self) -> Sequence[str]:
        return ["unit"]

    def find(self, unit: str) -> Found:
        raise UsageError("nothing is looked for here")

    def read(self, candidates: pa.Table) -> Images:
        raise UsageError("nothing is read here")


def open_toy(config: DatasetConfig) -> Source:
    del config
    return ToySource()


def open_changed_toy(config: DatasetConfig) -> Source:
    del config
    return ToySource(content="other files")


def build_toy_network(num_bands: int) -> torch.nn.Module:
    return torch.nn.Conv2d(num_bands, 4, 1)


def suggest_nothing(trial: Any) -> dict[str, Any]:
    del trial
    return {}


def build_nothing(params: Any, seed: int) -> None:
    del params, seed


def first_revision() -> str:
    return "1" * 8


def second_revision() -> str:
    return "2" * 8


DIGESTED = {"labels", "class_level", "rasters"}
ALL_SETTINGS = frozenset(DatasetConfig.model_fields) - {"name", "root", *DIGESTED}

TOY = Dataset(name="toy", description="a toy", open=open_toy, settings=ALL_SETTINGS)

BACKBONE = Backbone(
    name="net",
    description="a toy",
    family="toy",
    build=build_toy_network,
    dim=4,
    num_parameters=16,
    source="nowhere",
    license="none",
    image_size=32,
    revision=first_revision,
)

HEAD = Head(
    name="epochs",
    description="a toy",
    suggest=suggest_nothing,
    build=build_nothing,
    num_epochs=20,
    patience=5,
)

CONTENT: dict[str, Any] = {
    "name": "experiment",
    "backbones": ["net"],
    "heads": ["epochs"],
    "seeds": [0, 1],
    "store": "runs",
    "dataset": {"name": "toy", "root": "here"},
    "finetune": {},
}


class Prints(NamedTuple):
    """The fingerprints of every stage."""

    patches: str
    embed: str
    tune: tuple[str, ...]
    finetune: tuple[str, ...]
    evaluate: str
    report: str

    def changed(self, other: Prints) -> set[str]:
        return {
            name for name, one, two in zip(self._fields, self, other, strict=True) if one != two
        }


def context(
    tmp_path: Path,
    changes: dict[str, Any] | None = None,
    *,
    dataset: Dataset = TOY,
    backbone: Backbone = BACKBONE,
    head: Head = HEAD,
    metrics: Sequence[Metric] = (),
) -> Context:
    content = {**CONTENT}
    for key, value in (changes or {}).items():
        section, *names = key.split(".")
        if names:
            # A table in a table: {"resources": {"embed": {"num_cpus": 1}}}.
            for name in reversed(names[1:]):
                value = {name: value}
            value = {**content.get(section, {}), names[0]: value}
        content[section] = value
    experiment = build(content)
    return Context(
        experiment=experiment,
        dataset=dataset,
        backbones=tuple(dataclasses.replace(backbone, name=name) for name in experiment.backbones),
        heads=tuple(dataclasses.replace(head, name=name) for name in experiment.heads),
        metrics=tuple(metrics),
        store=Store(str(tmp_path / experiment.store)),
        cluster=Cluster(),
        progress=LoggedProgress(),
    )


def prints(given: Context) -> Prints:
    """Return the fingerprints as they are once every cell of the grid is complete."""
    for cell in given.prediction_cells():
        if not cell.artefact.is_complete:
            cell.artefact.commit({})
    return Prints(
        patches=given.patches.fingerprint,
        embed=given.embeddings(given.backbones[0]).fingerprint,
        tune=tuple(cell.artefact.fingerprint for cell in given.tune_cells()),
        finetune=tuple(cell.artefact.fingerprint for cell in given.finetune_cells()),
        evaluate=given.scores().fingerprint,
        report=given.report().fingerprint,
    )


FROM_EVALUATE = {"evaluate", "report"}
FROM_TUNE = {"tune", *FROM_EVALUATE}
FROM_EMBED = {"embed", *FROM_TUNE}
FROM_FINETUNE = {"finetune", *FROM_EVALUATE}
OF_BACKBONE = FROM_EMBED | FROM_FINETUNE
OF_GRID = FROM_TUNE | FROM_FINETUNE
ALL = {"patches", *OF_BACKBONE}

# Every setting of an experiment file: another value, and the stages whose results it changes.
SETTINGS: dict[str, tuple[Any, set[str]]] = {
    "name": ("other", set()),
    "store": ("elsewhere", set()),
    "heads": (["epochs", "more"], FROM_TUNE),
    "seeds": ([0, 1, 2], OF_GRID),
    "backbones": (["net", "more"], OF_GRID),
    "dataset.root": ("there", set()),
    # The digest of the source covers the content of the table.
    "dataset.labels": ("labels.csv", set()),
    "dataset.class_level": (2, set()),
    "dataset.patch_size": (64, ALL),
    "dataset.purity": (0.9, ALL),
    "dataset.per_region": (100, ALL),
    "dataset.per_class": (100, ALL),
    "dataset.sampling": ("balanced", ALL),
    "dataset.rare_class_boost": (4, ALL),
    "dataset.seed": (1, ALL),
    "dataset.on_error": ("skip", ALL),
    "dataset.val_regions": (["virginia"], ALL),
    "dataset.test_regions": (["virginia"], ALL),
    "dataset.val_fraction": (0.3, ALL),
    "dataset.test_fraction": (0.3, ALL),
    "dataset.bands": (["red", "green", "nir"], ALL),
    "dataset.value_range": ([0.0, 10000.0], ALL),
    "embed.batch_size": (64, set()),
    "embed.num_actors": (3, set()),
    "embed.num_gpus": (0.5, set()),
    "embed.num_threads": (2, set()),
    "embed.channels_last": (False, set()),
    "embed.compile": (True, set()),
    "embed.precision": ("bfloat16", FROM_EMBED),
    "tune.num_trials": (11, FROM_TUNE),
    "tune.pruning": (False, FROM_TUNE),
    "tune.refit": ("train+val", OF_GRID),
    "tune.max_concurrent": (1, set()),
    **{
        f"resources.{stage}.{name}": (1, set())
        for stage in ("embed", "tune", "finetune")
        for name in ("num_cpus", "num_gpus")
    },
    # Which cells there are, and where and how they run, is no part of a cell.
    "finetune.backbones": (["net"], set()),
    "finetune.num_workers": (2, set()),
    "finetune.micro_batch": (3, set()),
    "finetune.max_failures": (0, set()),
    "finetune.checkpoint_every_s": (1.0, set()),
    # Only the mode last_blocks, the mode lora, and a search, use these.
    "finetune.num_blocks": (2, set()),
    "finetune.lora_rank": (4, set()),
    "finetune.pruning": (False, set()),
    "finetune.num_trials": (2, FROM_FINETUNE),
    "finetune.num_epochs": (6, FROM_FINETUNE),
    "finetune.mode": ("lora", FROM_FINETUNE),
    # Other cells, whose scores have other names; those of the mode ``full`` are the same.
    "finetune.modes": (["full"], FROM_EVALUATE),
    "finetune.batch_size": (16, FROM_FINETUNE),
    "finetune.learning_rate": (0.01, FROM_FINETUNE),
    "finetune.backbone_ratio": (0.2, FROM_FINETUNE),
    "finetune.weight_decay": (0.0, FROM_FINETUNE),
    "finetune.warmup": (0.0, FROM_FINETUNE),
    "finetune.label_smoothing": (0.0, FROM_FINETUNE),
    "finetune.class_weight": ("none", FROM_FINETUNE),
    "finetune.augmentation": ("none", FROM_FINETUNE),
    "finetune.clip_norm": (2.0, FROM_FINETUNE),
    "finetune.patience": (1, FROM_FINETUNE),
    "finetune.precision": ("bfloat16", FROM_FINETUNE),
    "finetune.ingest": ("stream", FROM_FINETUNE),
    # Another train set is another cell, and no part of those of ``all``.
    "protocol.label_fractions": ([1.0, 0.5], OF_GRID),
    "protocol.shots": ([5], OF_GRID),
    "protocol.cross_validation": (3, OF_GRID),
    "protocol.flips": ("all", OF_GRID),
    "protocol.transfer.train": ([["east"], ["west"]], OF_GRID),
    "protocol.transfer.test": (["east"], OF_GRID),
    "evaluate.num_resamples": (10, FROM_EVALUATE),
    "evaluate.confidence": (0.9, FROM_EVALUATE),
    "evaluate.seed": (1, FROM_EVALUATE),
    "report.num_examples": (1, {"report"}),
    "report.title": ("other", {"report"}),
    "report.tsne": (True, {"report"}),
    "report.umap": (True, {"report"}),
    "tracking.mlflow": ("sqlite:///other.db", set()),
    "tracking.exports": ("exports", set()),
    "tracking.tensorboard": (True, set()),
    "report.reference": ("chesapeake_study", {"report"}),
    "report.counterparts": ({"a": "net / epochs"}, {"report"}),
    # The prices in the file are: a test of tests/experiment/test_costs.py.
    "report.prices": ("prices.toml", set()),
}

# They name another entry of a catalog, whose own fields are changed below.
NOT_SETTINGS = {"dataset.name", "evaluate.metrics", "path"}
# They change the backbone that the context is given, whose fields are changed below.
NOT_SETTINGS |= {f"backbone.{name}" for name in BackboneOptions.model_fields}
# They are part of ``own`` of the entry that they make.
NOT_SETTINGS |= {"dataset.settings", "head.settings", "head.search", "metric.settings"}
# The digest of the source covers them (tests/catalog/rasters).
NOT_SETTINGS |= {f"dataset.rasters.{name}" for name in RastersConfig.model_fields}


def settings_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        # An optional table is a union of its model and None.
        models = [
            kind
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if models:
            found |= settings_of(models[0], f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_train_set_of_all_is_what_it_was_before_there_were_others(tmp_path: Path) -> None:
    given = context(tmp_path, {"protocol": {"label_fractions": [1.0, 0.5]}})
    assert given.predictions_inputs(BACKBONE, HEAD, 0)["train_set"] == "all"
    assert given.finetuned_inputs(BACKBONE, 0)["train_set"] == "all"
    plain = [cell.artefact.path for cell in context(tmp_path).prediction_cells()]
    found = [cell for cell in given.prediction_cells() if cell.train_set == "all"]
    assert [cell.artefact.path for cell in found] == plain
    half = given.train_sets[1]
    inputs = given.predictions_inputs(BACKBONE, HEAD, 0, half)
    assert inputs["train_set"] == {"rule": "Fraction", "share": 0.5, "version": 1}


def test_every_setting_of_an_experiment_is_classified_here() -> None:
    assert settings_of(Experiment) == set(SETTINGS) | NOT_SETTINGS


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_changes_the_fingerprints_of_what_it_changes(tmp_path: Path, key: str) -> None:
    value, expected = SETTINGS[key]
    before = prints(context(tmp_path))
    after = prints(context(tmp_path, {key: value}))
    assert before.changed(after) == expected


def test_the_sampling_of_train_is_no_part_of_fingerprints_without_it(tmp_path: Path) -> None:
    dataset = dataclasses.replace(TOY, settings=frozenset({"purity"}))

    def settings(changes: dict[str, Any] | None = None) -> Any:
        return context(tmp_path, changes, dataset=dataset).patches_inputs["settings"]

    common = {"patch_size", "purity", "per_region", "per_class", "seed", "on_error"}
    assert settings().keys() == common
    assert settings({"dataset.sampling": "natural"}) == settings()
    assert settings({"dataset.sampling": "balanced"}) == settings() | {"sampling": "balanced"}
    assert settings({"dataset.per_class": {"trees": 5}})["per_class"] == {"trees": 5}


def test_the_same_experiment_has_the_same_fingerprints(tmp_path: Path) -> None:
    assert prints(context(tmp_path)) == prints(context(tmp_path))


def test_another_data_set_changes_every_stage(tmp_path: Path) -> None:
    before = prints(context(tmp_path))
    for dataset in (
        dataclasses.replace(TOY, name="other"),
        dataclasses.replace(TOY, open=open_changed_toy),
        dataclasses.replace(TOY, own={"code": "1"}),
    ):
        assert before.changed(prints(context(tmp_path, dataset=dataset))) == ALL


def test_the_description_of_a_data_set_changes_nothing(tmp_path: Path) -> None:
    dataset = dataclasses.replace(TOY, description="other", license="other")
    assert prints(context(tmp_path)) == prints(context(tmp_path, dataset=dataset))


def test_a_setting_that_does_not_apply_to_the_data_set_changes_nothing(tmp_path: Path) -> None:
    dataset = dataclasses.replace(TOY, settings=frozenset({"val_fraction"}))
    before = prints(context(tmp_path, dataset=dataset))
    for key in ("purity", "val_regions", "test_regions", "test_fraction", "bands"):
        value = SETTINGS[f"dataset.{key}"][0]
        after = prints(context(tmp_path, {f"dataset.{key}": value}, dataset=dataset))
        assert before.changed(after) == set()
    for key in ("val_fraction", "patch_size", "seed", "per_region", "per_class", "on_error"):
        value = SETTINGS[f"dataset.{key}"][0]
        after = prints(context(tmp_path, {f"dataset.{key}": value}, dataset=dataset))
        assert before.changed(after) == ALL


BACKBONE_CHANGES: dict[str, tuple[Any, set[str]]] = {
    "name": ("other", OF_BACKBONE),
    "description": ("other", set()),
    "family": ("other", set()),
    "build": (torch.nn.Conv2d, set()),
    "dim": (5, set()),
    "num_parameters": (5, set()),
    "source": ("other", set()),
    "license": ("other", set()),
    "image_size": (64, OF_BACKBONE),
    "resize_to": (64, OF_BACKBONE),
    "interpolation": ("bicubic", OF_BACKBONE),
    "is_rounded": (True, OF_BACKBONE),
    "crops_like_torchvision": (True, OF_BACKBONE),
    "bands": (("blue", "green", "red"), OF_BACKBONE),
    "mean": ((0.5,), OF_BACKBONE),
    "std": ((0.5,), OF_BACKBONE),
    "flips_bands": (True, OF_BACKBONE),
    "processor": (Processor("P", "{}", abs, 1.0), OF_BACKBONE),
    "hub_id": ("other", set()),
    "revision": (second_revision, OF_BACKBONE),
    # Whether it is fine-tuned changes the grid.
    "is_floor": (True, FROM_FINETUNE),
    "is_trainable": (False, FROM_FINETUNE),
    "fit": (FitPca(num_components=5), OF_BACKBONE),
    "depict": (print, set()),
    "build_classifier": (torch.nn.Conv2d, set()),
    "build_foldable": (torch.nn.Conv2d, set()),
    "publish": (print, set()),
    "options": ((("pooling", "cls"),), OF_BACKBONE),
    # What was fine-tuned under the whole name is in the store, and found.
    "folder": ("other", FROM_EMBED),
    "alias_of": ("other", OF_BACKBONE),
    "product": (object(), OF_BACKBONE),
    "shared": (Shared(torch.nn.Conv2d, None, group="other"), set()),
    "derived": (Derivation(parents=()), OF_BACKBONE),
    "version": (2, OF_BACKBONE),
    "own": ({"code": "1"}, OF_BACKBONE),
}


def test_every_field_of_a_backbone_is_classified_here() -> None:
    assert {field.name for field in dataclasses.fields(Backbone)} == set(BACKBONE_CHANGES)


@pytest.mark.parametrize("name", BACKBONE_CHANGES)
def test_a_field_of_a_backbone_changes_what_it_computes_or_nothing(
    tmp_path: Path, name: str
) -> None:
    value, expected = BACKBONE_CHANGES[name]
    before = context(tmp_path)
    after = context(tmp_path)
    after.backbones = (dataclasses.replace(BACKBONE, **{name: value}),)
    assert prints(before).changed(prints(after)) == expected


@pytest.mark.parametrize(
    ("image_size", "resize_to", "is_rounded", "expected"),
    [
        (64, None, True, "bytes"),
        (64, 128, True, None),  # patches have 128 px
        (None, None, True, None),
        (64, None, False, None),
    ],
)
def test_only_what_is_resized_as_bytes_is_computed_again(
    image_size: int | None, resize_to: int | None, is_rounded: bool, expected: str | None
) -> None:
    backbone = dataclasses.replace(
        BACKBONE, image_size=image_size, resize_to=resize_to, is_rounded=is_rounded
    )
    assert backbone_inputs(backbone, 128).get("resizes") == expected


HEAD_CHANGES: dict[str, tuple[Any, bool]] = {
    "name": ("other", True),
    "description": ("other", False),
    "suggest": (print, False),
    "build": (print, False),
    "adapt": (print, False),
    "fit_unscaled": (print, False),
    "is_searched": (False, True),
    "is_floor": (True, False),
    "reads_embeddings": (False, False),
    "num_epochs": (21, True),
    "memory": (HeadMemory(copies=9.0), False),
    "patience": (6, True),
    "version": (2, True),
    "own": ({"code": "1"}, True),
}


def test_every_field_of_a_head_is_classified_here() -> None:
    assert {field.name for field in dataclasses.fields(Head)} == set(HEAD_CHANGES)


@pytest.mark.parametrize("name", HEAD_CHANGES)
def test_a_field_of_a_head_changes_tune_and_what_follows_or_nothing(
    tmp_path: Path, name: str
) -> None:
    value, changes = HEAD_CHANGES[name]
    before = context(tmp_path)
    after = context(tmp_path)
    after.heads = (dataclasses.replace(HEAD, **{name: value}),)
    assert prints(before).changed(prints(after)) == (FROM_TUNE if changes else set())


def test_settings_of_the_search_do_not_touch_a_head_without_one(tmp_path: Path) -> None:
    head = dataclasses.replace(HEAD, num_epochs=None, is_searched=False)
    before = prints(context(tmp_path, head=head))
    for key in ("tune.num_trials", "tune.pruning"):
        after = prints(context(tmp_path, {key: SETTINGS[key][0]}, head=head))
        assert before.changed(after) == set()


FROM_STAGE = {
    "patches": ALL,
    "embed": FROM_EMBED,
    "tune": FROM_TUNE,
    "finetune": FROM_FINETUNE,
    "evaluate": FROM_EVALUATE,
    "report": {"report"},
}


@pytest.mark.parametrize("stage", CODE_VERSIONS)
def test_the_code_version_of_a_stage_changes_it_and_what_follows(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prints(context(tmp_path))
    monkeypatch.setitem(CODE_VERSIONS, stage, CODE_VERSIONS[stage] + 1)
    assert before.changed(prints(context(tmp_path))) == FROM_STAGE[stage]


def test_a_new_metric_or_another_version_of_it_changes_the_scores_alone(tmp_path: Path) -> None:
    metric = Metric(name="toy", description="", compute=str)
    before = prints(context(tmp_path))
    one = prints(context(tmp_path, metrics=[metric]))
    two = prints(context(tmp_path, metrics=[dataclasses.replace(metric, version=2)]))
    assert before.changed(one) == one.changed(two) == {"evaluate", "report"}


def test_every_stage_has_a_code_version() -> None:
    assert list(CODE_VERSIONS) == STAGES.names()


def test_a_seed_changes_the_predictions_of_that_seed_only(tmp_path: Path) -> None:
    one = context(tmp_path, {"seeds": [0, 1]}).prediction_cells()
    other = context(tmp_path, {"seeds": [1, 2]}).prediction_cells()
    paths = {(cell.method, cell.seed): cell.artefact.path for cell in one}
    assert len(set(paths.values())) == 4
    others = {(cell.method, cell.seed): cell.artefact.path for cell in other}
    for method in ("epochs", "finetune"):
        assert others[method, 1] == paths[method, 1]
    assert {cell.artefact.fingerprint for cell in one + other if cell.seed != 1}.isdisjoint(
        {cell.artefact.fingerprint for cell in one + other if cell.seed == 1}
    )


def test_a_neighbour_in_the_grid_changes_no_cell(tmp_path: Path) -> None:
    small = context(tmp_path).prediction_cells()
    changes = {"backbones": ["more", "net"], "heads": ["other", "epochs"], "seeds": [2, 1, 0]}
    large = context(tmp_path, changes).prediction_cells()
    assert len(large) == 2 * (2 + 1) * 3
    assert {cell.artefact.path for cell in small} < {cell.artefact.path for cell in large}


def test_every_cell_of_the_grid_has_a_folder_of_its_own(tmp_path: Path) -> None:
    changes = {"backbones": ["net", "more"], "heads": ["epochs", "other"], "seeds": [0, 1, 2]}
    given = context(tmp_path, changes)
    cells = given.prediction_cells()
    assert len({cell.artefact.path for cell in cells}) == 18
    assert len({cell.label for cell in cells}) == 18
    assert {(cell.backbone, cell.method, cell.seed) for cell in cells} == {
        (backbone, head, seed)
        for backbone in ("net", "more")
        for head in ("epochs", "other", "finetune")
        for seed in (0, 1, 2)
    }
    assert {cell.train_set for cell in cells} == {"all"}


def test_the_scores_change_with_what_is_complete_and_the_report_with_the_gaps(
    tmp_path: Path,
) -> None:
    given = context(tmp_path)
    nothing, no_report = given.scores().fingerprint, given.report().fingerprint
    first, second, *others = given.prediction_cells()
    for cell in others:
        cell.artefact.commit({})
    first.artefact.commit({})
    half, half_report = given.scores().fingerprint, given.report().fingerprint
    given.fail(second.artefact, "out of memory")
    assert given.scores().fingerprint == half
    assert given.report().fingerprint != half_report
    second.artefact.commit({})
    assert len({nothing, half, given.scores().fingerprint}) == 3
    assert len({no_report, half_report, given.report().fingerprint}) == 3


def test_what_failed_in_this_run_is_why_its_dependants_are_missing(tmp_path: Path) -> None:
    given = context(tmp_path)
    assert given.why_missing(given.patches) == ("patches is missing: run `benchmark patches` first")
    given.fail(given.patches, "a scene is damaged")
    assert given.status(given.patches) == ("failed", "a scene is damaged")
    assert given.why_missing(given.patches) == "patches failed: a scene is damaged"
    again = context(tmp_path)
    assert again.status(again.patches) == ("failed", "a scene is damaged")
    again.patches.commit({})
    assert given.status(given.patches) == ("complete", "")


def test_a_cell_that_failed_is_kept_in_this_run_where_the_store_is_gone(tmp_path: Path) -> None:
    given = context(tmp_path)
    given.failures[given.patches.path] = "the store is gone"
    assert given.status(given.patches) == ("failed", "the store is gone")


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        ({"finetune.mode": "last_blocks"}, "finetune.num_blocks", 2),
        ({"finetune.mode": "lora"}, "finetune.lora_rank", 4),
        ({"finetune.num_trials": 2}, "finetune.pruning", False),
    ],
)
def test_what_a_mode_or_a_search_uses_is_part_of_its_result(
    tmp_path: Path, base: dict[str, Any], key: str, value: Any
) -> None:
    before = prints(context(tmp_path, base))
    assert before.changed(prints(context(tmp_path, {**base, key: value}))) == FROM_FINETUNE


def test_without_the_table_nothing_is_fine_tuned(tmp_path: Path) -> None:
    given = context(tmp_path, {"finetune": None})
    assert given.finetuned_backbones == ()
    assert given.finetune_cells() == []
    assert given.prediction_cells() == given.tune_cells()
    with pytest.raises(ValueError, match="does not fine-tune"):
        given.finetuned_inputs(BACKBONE, 0)


def test_the_table_changes_no_cell_of_a_head(tmp_path: Path) -> None:
    before = prints(context(tmp_path, {"finetune": None}))
    assert before.changed(prints(context(tmp_path))) == FROM_FINETUNE


def some_backbones() -> tuple[Backbone, ...]:
    return (
        BACKBONE,
        dataclasses.replace(BACKBONE, name="floor", is_floor=True),
        dataclasses.replace(BACKBONE, name="moments", is_trainable=False),
        dataclasses.replace(BACKBONE, name="more"),
    )


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, ["net", "more"]),
        (["floor"], ["floor"]),
        # In the order of the experiment, as all of its cells.
        (["more", "floor", "net"], ["net", "floor", "more"]),
    ],
)
def test_floors_and_what_has_no_weights_are_fine_tuned_only_where_they_are_named(
    tmp_path: Path, named: list[str] | None, expected: list[str]
) -> None:
    given = context(tmp_path, {"finetune": {} if named is None else {"backbones": named}})
    given.backbones = some_backbones()
    assert [item.name for item in given.finetuned_backbones] == expected
    cells = given.finetune_cells()
    assert [(cell.backbone, cell.seed) for cell in cells] == [
        (name, seed) for name in expected for seed in (0, 1)
    ]
    assert {(cell.stage, cell.method) for cell in cells} == {("finetune", "finetune")}
    assert len({cell.artefact.path for cell in cells}) == len(cells)


def test_naming_what_is_fine_tuned_anyway_changes_no_cell(tmp_path: Path) -> None:
    paths = []
    for table in ({}, {"backbones": ["net", "more"]}, {"backbones": ["net"]}):
        given = context(tmp_path, {"finetune": table})
        given.backbones = some_backbones()
        paths.append([cell.artefact.path for cell in given.finetune_cells()])
    assert paths[0] == paths[1]
    assert paths[0][:2] == paths[2]


def test_the_inputs_of_a_fine_tuning_hold_what_it_depends_on(tmp_path: Path) -> None:
    given = context(tmp_path, {"tune.refit": "train+val"})
    inputs = given.finetuned_inputs(BACKBONE, 1)
    assert inputs["seed"] == 1
    assert inputs["refit"] == "train+val"
    assert inputs["patches"] == given.patches.fingerprint
    assert inputs["backbone"]["revision"] == "1" * 8


def test_the_record_of_a_cell_has_the_keys_of_design(tmp_path: Path) -> None:
    from benchmark.experiment.cells import CellResult

    cell = context(tmp_path).prediction_cells()[0]
    record = CellResult(cell=cell, status="missing").to_json()
    assert {"dataset", "backbone", "method", "seed", "status", "reason", "artefact"} <= set(record)
    assert record["dataset"] == "toy"
    assert record["artefact"] == cell.artefact.uri


def test_a_backbone_without_weights_is_the_users_mistake(tmp_path: Path) -> None:
    def no_weights() -> str:
        raise UsageError("its weights are not installed")

    given = context(tmp_path, backbone=dataclasses.replace(BACKBONE, revision=no_weights))
    with pytest.raises(UsageError, match="weights are not installed"):
        given.prediction_cells()


def worst(statistics: Any) -> Any:
    del statistics


def test_the_code_of_an_own_metric_changes_the_scores(tmp_path: Path) -> None:
    plain = Metric(name="worst", description="a toy", compute=worst)
    before = prints(context(tmp_path, metrics=[plain]))
    own = dataclasses.replace(plain, own={"code": "1"})
    after = prints(context(tmp_path, metrics=[own]))
    assert before.changed(after) == FROM_EVALUATE
    changed = dataclasses.replace(plain, own={"code": "2"})
    assert after.changed(prints(context(tmp_path, metrics=[changed]))) == FROM_EVALUATE


def test_what_an_own_reader_raises_on_opening_is_the_users_mistake(tmp_path: Path) -> None:
    def fail(config: DatasetConfig) -> Source:
        raise CellError("mine.py, line 3: KeyError: 'x'")

    given = context(tmp_path, dataset=dataclasses.replace(TOY, open=fail))
    with pytest.raises(UsageError, match=r"\[dataset\]: data set 'toy': mine\.py, line 3: KeyErr"):
        _ = given.source


RECIPE_BEFORE_MODES = {
    "num_trials": 1,
    "num_epochs": 5,
    "mode": "full",
    "batch_size": 32,
    "learning_rate": 0.001,
    "backbone_ratio": 0.1,
    "weight_decay": 0.01,
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "class_weight": "balanced",
    "augmentation": "flips+color",
    "clip_norm": 1.0,
    "patience": 5,
    "precision": "auto",
    "ingest": "auto",
}
"""The settings in the fingerprints of version 1: another key would compute every cell again."""


@pytest.mark.parametrize(
    ("table", "more"),
    [
        ({}, {}),
        ({"mode": "full"}, {}),
        ({"mode": "lora"}, {"mode": "lora", "lora_rank": 8}),
        ({"mode": "last_blocks"}, {"mode": "last_blocks", "num_blocks": 1}),
        ({"num_trials": 2}, {"num_trials": 2, "pruning": True}),
    ],
)
def test_modes_are_no_part_of_fingerprints_without_them(
    tmp_path: Path, table: dict[str, Any], more: dict[str, Any]
) -> None:
    given = context(tmp_path, {"finetune": table})
    assert given.finetuned_inputs(BACKBONE, 0)["settings"] == RECIPE_BEFORE_MODES | more


def test_each_mode_is_a_method_and_the_cell_of_an_experiment_with_that_mode(
    tmp_path: Path,
) -> None:
    several = context(tmp_path, {"finetune": {"modes": ["lora", "full"]}}).finetune_cells()
    assert [(cell.method, cell.seed) for cell in several] == [
        ("finetune-lora", 0),
        ("finetune-lora", 1),
        ("finetune-full", 0),
        ("finetune-full", 1),
    ]
    assert len({cell.label for cell in several}) == 4
    for place, mode in enumerate(("lora", "full")):
        alone = context(tmp_path, {"finetune": {"mode": mode}}).finetune_cells()
        paths = [cell.artefact.path for cell in several[2 * place :][:2]]
        assert [cell.artefact.path for cell in alone] == paths
        assert [cell.method for cell in alone] == ["finetune"] * 2


def test_settings_of_one_mode_change_its_cells_alone(tmp_path: Path) -> None:
    base = {"finetune.modes": ["full", "last_blocks", "lora"]}
    before = prints(context(tmp_path, base)).finetune
    for key, changed in (("num_blocks", {2, 3}), ("lora_rank", {4, 5})):
        after = prints(context(tmp_path, {**base, f"finetune.{key}": 3})).finetune
        assert {i for i in range(6) if before[i] != after[i]} == changed


def test_a_method_that_is_not_asked_for_has_no_artefact(tmp_path: Path) -> None:
    given = context(tmp_path, {"finetune.modes": ["lora"]})
    with pytest.raises(ValueError, match=r"does not fine-tune by 'finetune'"):
        given.finetuned(BACKBONE, 0)


def test_a_page_without_published_results_keeps_the_identity_that_it_had(tmp_path: Path) -> None:
    inputs = context(tmp_path).report_inputs()
    assert inputs["settings"] == {"num_examples": 6, "title": None}
    assert set(inputs) == {"scores", "gaps", "settings", "version"}
    other = context(tmp_path, {"report.reference": "chesapeake_study"}).report_inputs()
    assert set(other) - set(inputs) == {"beside"}
