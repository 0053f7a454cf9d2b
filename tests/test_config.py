"""An experiment file means what DESIGN says, and every mistake in it is named in one line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from benchmark import api
from benchmark.catalog.huggingface.resolve import PREFIX
from benchmark.catalog.timm.models import TIMM_PREFIX
from benchmark.catalog.torchgeo.models import TORCHGEO_PREFIX
from benchmark.config import (
    BackboneOptions,
    DatasetConfig,
    EmbedConfig,
    EvaluateConfig,
    Experiment,
    FinetuneConfig,
    HeadOptions,
    OwnOptions,
    ProtocolConfig,
    ReportConfig,
    ResourcesConfig,
    TuneConfig,
    build,
    load,
)
from benchmark.errors import UsageError
from benchmark.tracking_settings import TrackingConfig

EXPERIMENTS = sorted((Path(__file__).resolve().parents[1] / "experiments").glob("*.toml"))

SECTIONS: dict[str, type[BaseModel]] = {
    "dataset": DatasetConfig,
    "embed": EmbedConfig,
    "tune": TuneConfig,
    "finetune": FinetuneConfig,
    "protocol": ProtocolConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "resources": ResourcesConfig,
    "tracking": TrackingConfig,
}

MINIMAL = """
name      = "toy"
backbones = ["random"]

[dataset]
name = "folder"
root = "data/images"
"""

DESIGN = """
name      = "quickstart"
backbones = ["efficientnet_lite0", "random", "mean_color"]
heads     = ["logistic_regression", "mlp", "knn", "majority"]
seeds     = [0]
store     = "runs"

[dataset]
name = "synthetic"
root = "data/synthetic"
patch_size = 128
purity = 0.85

[embed]
batch_size = "auto"

[tune]
num_trials = 10

[evaluate]
num_resamples = 1000
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(MINIMAL)
    return path


def content(**changes: Any) -> dict[str, Any]:
    """Return the minimal file as a mapping; a change of a section is merged into it."""
    base: dict[str, Any] = {
        "name": "toy",
        "backbones": ["random"],
        "dataset": {"name": "folder", "root": "data/images"},
    }
    for key, value in changes.items():
        merges = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = {**base[key], **value} if merges else value
    return base


def test_every_key_but_name_backbones_and_dataset_has_the_default_of_design(minimal: Path) -> None:
    experiment = load(minimal)
    assert experiment.heads == ("logistic_regression", "mlp", "knn", "majority")
    assert experiment.seeds == (0,)
    assert experiment.store == "runs"
    assert experiment.dataset.patch_size == 128
    assert experiment.dataset.purity == 0.85
    assert experiment.dataset.on_error == "fail"
    assert experiment.embed.batch_size == "auto"
    assert experiment.tune.num_trials == 10
    assert experiment.evaluate.num_resamples == 1000


def test_nothing_is_fine_tuned_without_the_table_and_an_empty_one_has_the_defaults(
    minimal: Path,
) -> None:
    assert load(minimal).finetune is None
    found = load(minimal, ["finetune={}"]).finetune
    assert found == FinetuneConfig()
    assert found.backbones is None
    assert (found.mode, found.modes, found.num_trials, found.num_workers) == (None, None, 1, "auto")


def test_the_file_of_design_equals_its_own_defaults(tmp_path: Path) -> None:
    path = tmp_path / "quickstart.toml"
    path.write_text(DESIGN)
    written = load(path)
    short = build(
        {
            "name": "quickstart",
            "backbones": ["efficientnet_lite0", "random", "mean_color"],
            "dataset": {"name": "synthetic", "root": "data/synthetic"},
        },
        where=str(path),
    )
    assert written == short


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_of_the_repository_loads(path: Path) -> None:
    experiment = load(path)
    assert experiment.path == str(path)
    fetched = (PREFIX, TIMM_PREFIX, TORCHGEO_PREFIX)
    here = tuple(name for name in experiment.backbones if not name.startswith(fetched))
    if here == experiment.backbones:
        assert api.load(path) == experiment
    else:
        # Weights that are fetched are not on every machine: all other names are checked.
        api.check_names(experiment.model_copy(update={"backbones": here, "finetune": None}))


def test_there_are_the_two_experiments_of_the_issue() -> None:
    assert {"quickstart.toml", "folder.toml"} <= {path.name for path in EXPERIMENTS}


def test_an_experiment_is_frozen_and_pickles(minimal: Path) -> None:
    experiment = load(minimal)
    with pytest.raises(UsageError, match=r"'name' = 'other': an experiment does not change; load"):
        experiment.name = "other"
    with pytest.raises(UsageError, match=r"'root' = 'elsewhere': an experiment does not change"):
        experiment.dataset.root = "elsewhere"
    assert pickle.loads(pickle.dumps(experiment)) == experiment


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": ["random"]}, r"x\.toml: unknown setting 'backbone'\. Did you mean 'backb"),
        ({"seed": 1}, r"x\.toml: unknown setting 'seed'\. Did you mean 'seeds'\?"),
        ({"embedd": {}}, r"x\.toml: unknown setting 'embedd'\. Did you mean 'embed'\?"),
        ({"zzz": 1}, r"x\.toml: unknown setting 'zzz'\. Known: backbone, backbones, data"),
        ({"path": "x"}, r"x\.toml: unknown setting 'path'\."),
        (
            {"dataset": {"patchsize": 1}},
            r"\[dataset\]: unknown setting 'patchsize'\. Did you mean 'patch_size'\?",
        ),
        (
            {"embed": {"batchsize": 1}},
            r"x\.toml \[embed\]: unknown setting 'batchsize'\. Did you mean 'batch_size'\?",
        ),
        (
            {"tune": {"trials": 1}},
            r"\[tune\]: unknown setting 'trials'\. Did you mean 'num_trials'\?",
        ),
        ({"finetunes": {}}, r"x\.toml: unknown setting 'finetunes'\. Did you mean 'finetune'\?"),
        (
            {"finetune": {"lerning_rate": 0.1}},
            r"x\.toml \[finetune\]: unknown setting 'lerning_rate'\. Did you mean 'learning_rate'",
        ),
        (
            {"finetune": {"epochs": 3}},
            r"x\.toml \[finetune\]: unknown setting 'epochs'\. Did you mean 'num_epochs'\?",
        ),
        (
            {"evaluate": {"num_resample": 1}},
            r"\[evaluate\]: unknown setting 'num_resample'\. Did you mean 'num_resamples'\?",
        ),
        ({"report": {"titel": "x"}}, r"\[report\]: unknown setting 'titel'\. Did you mean 'title'"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(content(**changes), where="x.toml")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_refuses_unknown_keys(section: str) -> None:
    with pytest.raises(UsageError, match=rf"x\.toml \[{section}\]: unknown setting 'qqqqqq'"):
        build(content(**{section: {"qqqqqq": 1}}), where="x.toml")


def test_a_key_of_a_table_in_a_section_is_named_with_its_place() -> None:
    for limit, message in (
        ({"num_cpu": 1}, r"unknown setting 'num_cpu'\. Did you mean 'num_cpus'"),
        ({"num_cpus": 0}, r"'num_cpus' = 0: should be greater than 0"),
    ):
        with pytest.raises(UsageError, match=rf"\[resources\.embed\]: {message}"):
            build(content(resources={"embed": limit}))
    with pytest.raises(UsageError, match=r"\[resources\]: unknown setting 'patches'"):
        build(content(resources={"patches": {}}))


def test_an_unknown_key_is_named_before_a_missing_one() -> None:
    with pytest.raises(UsageError, match=r"unknown setting 'backbone'\. Did you mean 'backbones'"):
        build({"name": "x", "backbone": ["a"], "dataset": {"name": "folder", "root": "r"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 5}, r"x\.toml: 'name' = 5: should be a valid string"),
        ({"backbones": "random"}, r"x\.toml: 'backbones' = 'random': "),
        ({"backbones": [1]}, r"x\.toml: 'backbones' = 1: should be a valid string"),
        ({"heads": {"a": 1}}, r"x\.toml: 'heads' = "),
        ({"seeds": [1.0]}, r"x\.toml: 'seeds' = 1\.0: should be a valid integer"),
        ({"seeds": [True]}, r"x\.toml: 'seeds' = True: should be a valid integer"),
        ({"seeds": 0}, r"x\.toml: 'seeds' = 0: "),
        ({"store": 1}, r"x\.toml: 'store' = 1: should be a valid string"),
        ({"dataset": 5}, r"x\.toml \[dataset\]: 'dataset' = 5"),
        ({"embed": "x"}, r"x\.toml \[embed\]: 'embed' = 'x'"),
        ({"dataset": {"root": 1}}, r"\[dataset\]: 'root' = 1: should be a valid string"),
        ({"dataset": {"patch_size": "128"}}, r"'patch_size' = '128': should be a valid integer"),
        ({"dataset": {"patch_size": 128.0}}, r"'patch_size' = 128\.0: should be a valid integer"),
        ({"dataset": {"patch_size": True}}, r"'patch_size' = True: should be a valid integer"),
        ({"dataset": {"purity": "0.85"}}, r"\[dataset\]: 'purity' = '0\.85': should be a valid n"),
        ({"dataset": {"val_regions": "delaware"}}, r"'val_regions' = 'delaware'"),
        ({"dataset": {"val_regions": [1]}}, r"'val_regions' = 1: should be a valid string"),
        ({"dataset": {"value_range": "0-255"}}, r"'value_range' = '0-255'"),
        ({"embed": {"batch_size": 1.5}}, r"\[embed\]: 'batch_size' = 1\.5"),
        ({"tune": {"pruning": 1}}, r"\[tune\]: 'pruning' = 1: should be a valid boolean"),
        ({"tune": {"num_trials": "10"}}, r"\[tune\]: 'num_trials' = '10': should be a valid int"),
        ({"finetune": "x"}, r"x\.toml \[finetune\]: 'finetune' = 'x'"),
        ({"finetune": True}, r"x\.toml \[finetune\]: 'finetune' = True"),
        (
            {"finetune": {"num_epochs": 2.0}},
            r"\[finetune\]: 'num_epochs' = 2\.0: should be a valid",
        ),
        (
            {"finetune": {"learning_rate": "1e-3"}},
            r"\[finetune\]: 'learning_rate' = '1e-3': should",
        ),
        ({"finetune": {"backbones": "random"}}, r"\[finetune\]: 'backbones' = 'random'"),
        ({"finetune": {"backbones": [1]}}, r"\[finetune\]: 'backbones' = 1: should be a valid str"),
        (
            {"finetune": {"pruning": "yes"}},
            r"\[finetune\]: 'pruning' = 'yes': should be a valid boo",
        ),
        ({"finetune": {"micro_batch": 1.5}}, r"\[finetune\]: 'micro_batch' = 1\.5"),
        ({"evaluate": {"confidence": "0.95"}}, r"\[evaluate\]: 'confidence' = '0\.95'"),
        ({"report": {"title": 1}}, r"\[report\]: 'title' = 1: should be a valid string"),
    ],
)
def test_a_wrong_type_is_an_error_that_shows_the_value(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(content(**changes), where="x.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [-1]}, r"'seeds' = \[-1\]: -1 is not between 0 and 4294967295"),
        ({"seeds": [2**32]}, r"4294967296 is not between 0 and 4294967295"),
        ({"dataset": {"patch_size": 7}}, r"'patch_size' = 7: should be greater than or equal"),
        ({"dataset": {"patch_size": 4097}}, r"'patch_size' = 4097: should be less than or equal"),
        ({"dataset": {"purity": 0.0}}, r"'purity' = 0\.0: should be greater than 0"),
        ({"dataset": {"purity": 1.01}}, r"'purity' = 1\.01: should be less than or equal to 1"),
        ({"dataset": {"purity": float("nan")}}, r"'purity' = nan: should be"),
        ({"dataset": {"val_fraction": 1.0}}, r"'val_fraction' = 1\.0: should be less than 1"),
        ({"dataset": {"test_fraction": 0.0}}, r"'test_fraction' = 0\.0: should be greater"),
        ({"dataset": {"per_class": 0}}, r"'per_class' = 0: should be greater than 0"),
        ({"dataset": {"per_class": {"water": 0}}}, r"'per_class.water' = 0: should be greater"),
        ({"dataset": {"per_class": "all"}}, r"'per_class' = 'all': .* integer or .* a table"),
        ({"dataset": {"sampling": "even"}}, r"'sampling' = 'even': should be 'natural' or 'bal"),
        ({"dataset": {"rare_class_boost": 1}}, r"'rare_class_boost' = 1: should be greater than 1"),
        (
            {"dataset": {"rare_class_boost": 2, "sampling": "balanced"}},
            r"'rare_class_boost' = 2.0 and 'sampling' = 'balanced' contradict",
        ),
        ({"dataset": {"per_region": -1}}, r"'per_region' = -1: should be greater than 0"),
        ({"dataset": {"on_error": "skp"}}, r"'on_error' = 'skp': should be 'fail' or 'skip'"),
        ({"embed": {"batch_size": 0}}, r"'batch_size' = 0: should be greater than 0"),
        ({"embed": {"batch_size": "autto"}}, r"'batch_size' = 'autto': .*should be 'auto'"),
        (
            {"embed": {"precision": "float16"}},
            r"'precision' = 'float16': should be 'auto', 'float32'",
        ),
        ({"tune": {"num_trials": 0}}, r"'num_trials' = 0: should be greater than 0"),
        ({"tune": {"refit": "all"}}, r"'refit' = 'all': should be 'train' or 'train\+val'"),
        ({"finetune": {"backbones": []}}, r"'backbones' = .*at least 1 item"),
        ({"finetune": {"mode": "ful"}}, r"'mode' = 'ful': should be 'full', 'linear_then_full', "),
        ({"finetune": {"modes": []}}, r"\[finetune\]: 'modes' = .*at least 1 item"),
        ({"finetune": {"modes": "lora"}}, r"\[finetune\]: 'modes' = 'lora': should be"),
        ({"finetune": {"modes": ["lora", "ful"]}}, r"\[finetune\]: 'modes' = .*'full', 'linear_"),
        ({"finetune": {"modes": ["lora", "lora"]}}, r"\[finetune\]: 'modes' = .*'lora' .*twice"),
        (
            {"finetune": {"mode": "full", "modes": ["full", "lora"]}},
            r"\[finetune\]: 'mode' = 'full' and 'modes' = \['full', 'lora'\] contradict each other",
        ),
        (
            {"finetune": {"num_epochs": 0}},
            r"\[finetune\]: 'num_epochs' = 0: should be greater than",
        ),
        (
            {"finetune": {"num_trials": 0}},
            r"\[finetune\]: 'num_trials' = 0: should be greater than",
        ),
        (
            {"finetune": {"batch_size": 0}},
            r"\[finetune\]: 'batch_size' = 0: should be greater than",
        ),
        ({"finetune": {"learning_rate": 0.0}}, r"'learning_rate' = 0\.0: should be greater than 0"),
        ({"finetune": {"learning_rate": 1.0}}, r"'learning_rate' = 1\.0: should be less than 1"),
        ({"finetune": {"backbone_ratio": 0.0}}, r"'backbone_ratio' = 0\.0: should be greater"),
        ({"finetune": {"backbone_ratio": 1.1}}, r"'backbone_ratio' = 1\.1: should be less than or"),
        (
            {"finetune": {"weight_decay": -0.1}},
            r"'weight_decay' = -0\.1: should be greater than or",
        ),
        ({"finetune": {"warmup": 1.0}}, r"'warmup' = 1\.0: should be less than 1"),
        (
            {"finetune": {"label_smoothing": 1.0}},
            r"'label_smoothing' = 1\.0: should be less than 1",
        ),
        ({"finetune": {"clip_norm": 0.0}}, r"'clip_norm' = 0\.0: should be greater than 0"),
        ({"finetune": {"clip_norm": float("nan")}}, r"'clip_norm' = nan: should be"),
        ({"finetune": {"patience": 0}}, r"'patience' = 0: should be greater than 0"),
        (
            {"finetune": {"augmentation": "all"}},
            r"'augmentation' = 'all': should be 'none', 'flips'",
        ),
        (
            {"finetune": {"class_weight": "auto"}},
            r"'class_weight' = 'auto': should be 'none' or 'bal",
        ),
        ({"finetune": {"num_workers": 0}}, r"'num_workers' = 0: should be greater than 0"),
        ({"finetune": {"num_workers": "all"}}, r"'num_workers' = 'all': .*should be 'auto'"),
        (
            {"finetune": {"max_failures": -1}},
            r"'max_failures' = -1: should be greater than or equal",
        ),
        (
            {"finetune": {"checkpoint_every_s": 0.0}},
            r"'checkpoint_every_s' = 0\.0: should be greater",
        ),
        ({"evaluate": {"num_resamples": 0}}, r"'num_resamples' = 0: should be greater"),
        ({"evaluate": {"confidence": 1.0}}, r"'confidence' = 1\.0: should be less than 1"),
        ({"report": {"num_examples": 0}}, r"'num_examples' = 0: should be greater than 0"),
    ],
)
def test_a_value_out_of_bounds_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(content(**changes), where="x.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": {"seed": -1}}, r"\[evaluate\]: 'seed' = -1"),
        ({"dataset": {"value_range": [0]}}, r"\[dataset\]: 'value_range' = "),
        ({"store": ""}, r"'store' = ''"),
    ],
)
def test_a_value_that_fails_only_later_is_refused_when_it_is_loaded(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(content(**changes), where="x.toml")


@pytest.mark.parametrize("key", ["backbones", "heads", "seeds"])
def test_an_empty_list_is_an_error(key: str) -> None:
    with pytest.raises(UsageError, match=rf"'{key}' = .*at least 1 item"):
        build(content(**{key: []}), where="x.toml")


@pytest.mark.parametrize(
    ("key", "value", "shown"), [("backbones", ["a", "b", "a"], "'a'"), ("seeds", [3, 3], "3")]
)
def test_a_duplicate_is_an_error(key: str, value: list[Any], shown: str) -> None:
    with pytest.raises(UsageError, match=rf"'{key}' = .*: {shown} is listed twice"):
        build(content(**{key: value}), where="x.toml")


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "-a", "a b", "a\n", "é", "x" * 65])
def test_a_name_that_is_no_file_name_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"'name' = .*use 1 to 64 letters, digits"):
        build(content(name=name), where="x.toml")


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 64])
def test_a_file_name_is_a_name(name: str) -> None:
    assert build(content(name=name)).name == name


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("name", r"x\.toml: the setting 'name' is missing"),
        ("backbones", r"x\.toml: the setting 'backbones' is missing"),
        ("dataset", r"the section \[dataset\] is missing"),
    ],
)
def test_a_missing_top_level_key_is_named(key: str, message: str) -> None:
    given = content()
    del given[key]
    with pytest.raises(UsageError, match=message):
        build(given, where="x.toml")


@pytest.mark.parametrize("key", ["name", "root"])
def test_a_missing_key_of_the_dataset_is_named(key: str) -> None:
    given = content()
    del given["dataset"][key]
    with pytest.raises(UsageError, match=rf"x\.toml \[dataset\]: the setting '{key}' is missing"):
        build(given, where="x.toml")


def test_numbers_of_a_range_may_be_written_as_integers() -> None:
    whole = build(content(dataset={"value_range": [0, 10000]}))
    mixed = build(content(dataset={"value_range": [0, 10000.0]}))
    assert whole.dataset.value_range == mixed.dataset.value_range == (0.0, 10000.0)
    assert whole.dataset.model_dump_json() == mixed.dataset.model_dump_json()


def test_a_text_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "a"\nbackbones = [\n')
    with pytest.raises(UsageError, match=r"x\.toml: not valid TOML: .*"):
        load(path)


def test_a_key_written_twice_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "a"\nname = "b"\n')
    with pytest.raises(UsageError, match="not valid TOML: Cannot overwrite a value"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: no such experiment file"):
        load(tmp_path / "none.toml")


def test_a_directory_is_no_experiment_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: it is a directory; give the path"):
        load(tmp_path)


def test_a_path_below_a_file_cannot_be_read(minimal: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: .*Not a directory"):
        load(minimal / "x.toml")


def test_a_binary_file_is_no_experiment_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xd0\xff")
    with pytest.raises(UsageError, match="cannot be read: not UTF-8: byte 0x89 in line 1; save"):
        load(path)


def test_an_empty_file_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("")
    with pytest.raises(UsageError, match=r"x\.toml: the setting 'name' is missing"):
        load(path)


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("embed.batch_size=64", lambda item: item.embed.batch_size, 64),
        ("embed.batch_size=auto", lambda item: item.embed.batch_size, "auto"),
        ('embed.batch_size="auto"', lambda item: item.embed.batch_size, "auto"),
        ("tune.pruning=false", lambda item: item.tune.pruning, False),
        ("evaluate.confidence=9e-1", lambda item: item.evaluate.confidence, 0.9),
        ("seeds=[0, 1, 2]", lambda item: item.seeds, (0, 1, 2)),
        ('heads=["knn"]', lambda item: item.heads, ("knn",)),
        ("dataset.root=/data/with space", lambda item: item.dataset.root, "/data/with space"),
        ("dataset.root=a=b", lambda item: item.dataset.root, "a=b"),
        ("store=s3://bucket/prefix", lambda item: item.store, "s3://bucket/prefix"),
        ("name=2024-runs", lambda item: item.name, "2024-runs"),
        (" tune.num_trials =3", lambda item: item.tune.num_trials, 3),
        ("dataset.bands=['red', 'nir']", lambda item: item.dataset.bands, ("red", "nir")),
        ("tune={num_trials = 2}", lambda item: item.tune.num_trials, 2),
        ("finetune.num_epochs=3", lambda item: item.finetune.num_epochs, 3),
        ("finetune.mode=lora", lambda item: item.finetune.mode, "lora"),
        ("finetune.backbones=['random']", lambda item: item.finetune.backbones, ("random",)),
        ('backbone."random".image_size=64', lambda item: item.backbone["random"].image_size, 64),
        ("backbone.random={image_size = 64}", lambda item: item.backbone["random"].image_size, 64),
    ],
)
def test_a_setting_is_overridden(minimal: Path, override: str, read: Any, expected: Any) -> None:
    assert read(load(minimal, [override])) == expected


def test_later_overrides_win(minimal: Path) -> None:
    experiment = load(minimal, ["tune.num_trials=1", "tune.num_trials=2", "tune.refit=train+val"])
    assert experiment.tune.num_trials == 2
    assert experiment.tune.refit == "train+val"


@pytest.mark.parametrize("override", ["", "x", "=1", ".a=1", "embed.=1", "a..b=1"])
def test_a_malformed_override_says_how_to_write_it(minimal: Path, override: str) -> None:
    with pytest.raises(UsageError, match=r"--set .*: write it as --set section\.setting=value"):
        load(minimal, [override])


def test_an_override_that_takes_a_setting_for_a_section_is_an_error(minimal: Path) -> None:
    with pytest.raises(UsageError, match=r"--set name\.x=1: 'name' is a setting, not a section"):
        load(minimal, ["name.x=1"])


def test_an_override_that_takes_a_section_for_a_setting_is_an_error(minimal: Path) -> None:
    with pytest.raises(UsageError, match=r"\[dataset\]: 'dataset' = 5"):
        load(minimal, ["dataset=5"])


def test_an_override_that_is_unknown_is_an_error_with_a_suggestion(minimal: Path) -> None:
    with pytest.raises(UsageError, match=r"\[embed\]: unknown setting 'batchsize'\. Did you mean"):
        load(minimal, ["embed.batchsize=3"])


def test_an_override_of_several_lines_stays_one_value(minimal: Path) -> None:
    experiment = load(minimal, ['report.title=a\nname = "injected"'])
    assert experiment.name == "toy"
    assert experiment.report.title == 'a\nname = "injected"'


def test_the_sections_of_the_experiment_are_the_ones_tested_here() -> None:
    sections = {
        name: kind
        for name, field in Experiment.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }
    # One table for each backbone, tested in test_options.
    assert sections.pop("backbone") is BackboneOptions
    assert sections.pop("head") is HeadOptions
    assert sections.pop("metric") is OwnOptions
    assert sections == SECTIONS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbones=['randm']", r"toy\.toml: unknown backbone 'randm'\. Did you mean 'random'\?"),
        ("heads=['nkn']", r"toy\.toml: unknown head 'nkn'\. Did you mean 'knn'\?"),
        ("dataset.name=foldr", r"\[dataset\]: unknown dataset 'foldr'\. Did you mean 'folder'\?"),
        ("dataset.purity=0.5", r"\[dataset\]: 'purity' does not apply to the data set 'folder'"),
        ("dataset.val_regions=['delaware']", r"'val_regions' does not apply to the data set"),
        (
            "finetune.backbones=['randm']",
            r"backbone 'randm' is not among the experiment's backbones\. Did you mean 'random'\?",
        ),
    ],
)
def test_a_name_that_no_catalog_holds_is_an_error(
    minimal: Path, override: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        api.load(minimal, [override])
