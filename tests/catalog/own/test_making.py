"""Entries are made of functions and classes; what does not fit is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from benchmark import config
from benchmark.catalog.contracts.heads import CHECKS, Case, quietly
from benchmark.catalog.names import (
    check_names,
    resolve_backbones,
    resolve_dataset,
    resolve_heads,
    resolve_metrics,
)
from benchmark.config import Experiment
from benchmark.errors import CellError, UsageError
from benchmark.statistics.counts import summarise
from benchmark.store.digest import fingerprint
from tests.strangers import FILES, write, write_arrays

ENTRIES = """
import torch

import benchmark as bm
from stranger.heads import Forest


def build(num_bands):
    return torch.nn.Flatten()


def revision():
    return "r1"


NET = bm.Backbone(
    name="net", description="", family="own", build=build, dim=None, num_parameters=0,
    source="me", license="own", revision=revision, is_trainable=False,
)
HEAD = bm.Head(
    name="head", description="", suggest=lambda trial: {}, build=lambda params, seed: Forest(),
    is_searched=False,
)
"""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    write(own_folder, {**FILES, "stranger/entries.py": ENTRIES})
    write_arrays(own_folder / "images")
    return own_folder


def experiment(**tables: Any) -> Experiment:
    content = {
        "name": "x",
        "backbones": ["mean_color"],
        "heads": ["majority"],
        "dataset": {"name": "folder", "root": "images"},
    }
    return config.build({**content, **tables}, where="x.toml")


def backbone(name: str = "stranger.nets:build", **options: Any) -> Any:
    table = {name: options} if options else {}
    return resolve_backbones(experiment(backbones=[name], backbone=table), where="x.toml")[0]


def head(name: str = "stranger.heads:Forest", **settings: Any) -> Any:
    table = {name: {"settings": settings}} if settings else {}
    return resolve_heads(experiment(heads=[name], head=table), where="x.toml")[0]


def searched(name: str = "sklearn.svm:SVC", settings: Any = None, **search: Any) -> Any:
    table = {name: {"settings": settings or {}, "search": search}}
    return resolve_heads(experiment(heads=[name], head=table), where="x.toml")[0]


def metric(name: str, **settings: Any) -> Any:
    table = {name: {"settings": settings}} if settings else {}
    given = experiment(evaluate={"metrics": [name]}, metric=table)
    return resolve_metrics(given, where="x.toml")[-1]


def dataset(**settings: Any) -> Any:
    table = {"name": "stranger.data:open_arrays", "root": "images", "patch_size": 32}
    given = experiment(dataset={**table, "settings": settings})
    return resolve_dataset(given, where="x.toml [dataset]"), given.dataset


def test_a_function_becomes_a_backbone(folder: Path) -> None:
    found = backbone(settings={"width": 12})
    assert found.name == "stranger.nets:build"
    assert (found.image_size, found.bands, found.is_trainable) == (32, None, True)
    assert found.num_parameters == 12 * (27 + 1)
    assert found.build(3)(torch.zeros(2, 3, 32, 32)).shape == (2, 12)
    assert found.own.keys() == {"code", "settings"}
    # Weights that are drawn are the same in every process, and the generator is left alone.
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, other = (found.build(3).state_dict()["0.weight"] for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(torch.rand(1), expected)


def test_the_input_of_a_backbone_may_stand_beside_its_function(folder: Path) -> None:
    text = FILES["stranger/nets.py"].replace(
        "IMAGE_SIZE = 32", 'BANDS = ("nir", "red")\n        MEAN, STD = (0.1, 0.2), 0.5'
    )
    write(folder, {"stranger/nets.py": text + "\n\n        build.image_size = 64\n"})
    found = backbone()
    assert (found.image_size, found.bands) == (64, ("nir", "red"))
    assert (found.mean, found.std) == ((0.1, 0.2), (0.5,))
    fed = backbone(image_size=48, bands=["red", "nir"])
    assert (fed.image_size, fed.bands) == (48, ("red", "nir"))


def test_its_settings_and_its_code_are_in_the_fingerprint(folder: Path) -> None:
    plain, wide = backbone(), backbone(settings={"width": 12})
    assert fingerprint(plain.own) != fingerprint(wide.own)
    assert fingerprint(plain.own) == fingerprint(backbone().own)
    text = (folder / "stranger/layers.py").read_text().replace("mean(", "amax(")
    write(folder, {"stranger/layers.py": text})
    assert fingerprint(plain.own) != fingerprint(backbone().own)


def test_a_file_that_a_setting_names_is_in_the_fingerprint(folder: Path) -> None:
    text = FILES["stranger/nets.py"].replace("width=8", "width=8, weights=''")
    write(folder, {"stranger/nets.py": text})
    weights = folder / "net.pt"
    found = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        found.append(fingerprint(backbone(settings={"weights": str(weights)}).own))
    assert found[0] != found[1]


def test_an_entry_of_a_module_keeps_its_fields_and_takes_its_path_as_name(folder: Path) -> None:
    found = backbone("stranger.entries:NET")
    assert (found.name, found.source, found.revision()) == ("stranger.entries:NET", "me", "r1")
    assert found.build(3)(torch.zeros(1, 3, 2, 2)).shape == (1, 12)
    assert "code" in found.own
    with pytest.raises(UsageError, match=r"NET' is an entry, which takes no settings"):
        backbone("stranger.entries:NET", settings={"x": 1})
    with pytest.raises(UsageError, match=r"'stranger\.entries:NET' is a Backbone, not a Head"):
        head("stranger.entries:NET")
    assert head("stranger.entries:HEAD").build({}, 0).fit([[0.0], [1.0]], [0, 1])


def test_a_class_becomes_a_head_with_the_search_space_beside_it(folder: Path) -> None:
    found = head(n_estimators=5)
    assert found.is_searched
    model = found.build({"max_depth": 2}, 7)
    assert type(model).__name__ == "Forest"
    assert (model.n_estimators, model.max_depth, model.random_state) == (5, 2, 7)
    plain = head("sklearn.naive_bayes:GaussianNB")
    assert not plain.is_searched
    assert plain.own["distribution"].startswith("scikit-learn ")


@pytest.mark.parametrize("name", ["sklearn.metrics:cohen_kappa_score", "stranger.metrics:kappa"])
def test_a_metric_takes_labels_or_counts(folder: Path, name: str) -> None:
    from sklearn.metrics import cohen_kappa_score

    text = """
        def kappa(counts):
            n = counts.sum()
            expected = (counts.sum(axis=0) * counts.sum(axis=1)).sum() / n**2
            return (counts.trace() / n - expected) / (1 - expected)
        """
    write(folder, {"stranger/metrics.py": text})
    rng = np.random.default_rng(0)
    y_true, y_pred, scene = rng.integers(0, 3, (3, 200))
    statistics = summarise(y_true, y_pred, np.eye(3)[y_pred], num_classes=3, groups=scene)
    expected = [cohen_kappa_score(y_true[scene == s], y_pred[scene == s]) for s in range(3)]
    np.testing.assert_allclose(metric(name).compute(statistics), expected)


def test_a_metric_takes_settings(folder: Path) -> None:
    found = metric("sklearn.metrics:fbeta_score", beta=2.0, average="macro")
    y_true, y_pred = [0, 0, 1, 1, 2], [0, 1, 1, 1, 0]
    from sklearn.metrics import fbeta_score

    statistics = summarise(y_true, y_pred, np.eye(3)[y_pred], num_classes=3)
    expected = fbeta_score(y_true, y_pred, beta=2.0, average="macro", zero_division=0)
    assert float(found.compute(statistics)) == pytest.approx(expected)


def test_a_function_becomes_a_data_set(folder: Path) -> None:
    entry, settings = dataset(suffix=".npy")
    source = entry.open(settings)
    assert (source.classes, source.bands) == (("dark", "light"), ("red", "green", "blue"))
    (unit,) = source.units()
    candidates = source.find(unit).candidates
    images = source.read(candidates.slice(0, 2))
    expected = np.load(folder / "images" / candidates["patch_id"][0].as_py())
    np.testing.assert_array_equal(images.pixels[0], expected)
    assert entry.own["settings"] == {"suffix": ".npy"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: backbone(settings={"widht": 1}),
            r"^x\.toml: backbone 'stranger\.nets:build': .*: unknown setting 'widht'\. Did you mea",
        ),
        (lambda: backbone(settings={"num_bands": 1}), r"unknown setting 'num_bands'\."),
        (lambda: backbone(settings={"width": 0.5}), r"TypeError: .* built-in|built for 3 bands: "),
        (lambda: backbone(pooling="cls"), r"'pooling' does not apply to this backbone"),
        (lambda: backbone("stranger.nets:Pool"), r"Pool\.__init__|takes 0 positional arguments"),
        (lambda: backbone("stranger.nets:torch"), r"is <module .*; name a function, a class or"),
        (lambda: backbone("stranger.nets:built"), r"has no 'built'\. Did you mean 'build'\?"),
        (lambda: backbone("stranger.nets.build"), r"unknown backbone .*Own code: package\.module:"),
        (lambda: backbone("stranger nets:build"), r"an import path is written package\.module:att"),
        (lambda: backbone("stranger.metrics:worst_recall"), r"line \d+: AttributeError: 'int' obj"),
        (
            lambda: head(n_estimator=5),
            r"unknown setting 'n_estimator'\. Did you mean 'n_estimators",
        ),
        (lambda: head(max_depth=5), r"'max_depth' is a setting and is searched: remove one"),
        (
            lambda: head("sklearn.linear_model:LinearRegression"),
            r"LinearRegression' needs predict_proba \(or decision_function of a classifier\), and",
        ),
        (
            lambda: head("sklearn.svm:OneClassSVM"),
            r"OneClassSVM' needs predict_proba \(or decision_function of a classifier\), and its",
        ),
        (lambda: searched(CC=[1.0]), r"SVC: unknown setting 'CC'\. Did you mean 'C'\?"),
        (lambda: searched(C=[1.0, -1.0]), r"The 'C' parameter of SVC must be a float in the ra"),
        (lambda: searched(kernel=["rbf", "rgb"]), r"The 'kernel' parameter of SVC must be"),
        (lambda: searched(settings={"C": 2.0}, C=[1.0]), r"'C' is a setting and is searched: re"),
        (lambda: searched(scaler=["standard", "max"]), r"the scalers are none, standard, l2"),
        (lambda: searched(settings={"scaler": "max"}, C=[1.0]), r"the scalers are none, standa"),
        (lambda: searched(scaler={"low": 0, "high": 1}), r"the scalers are none, standard, l2"),
        (lambda: searched("knn", C=[1]), r"head 'knn' takes no search; it is for own code and i"),
        (
            lambda: searched("stranger.entries:HEAD", C=[1]),
            r"is an entry, which takes no settings and no search: name a function",
        ),
        (
            lambda: head("stranger.heads:suggest_Forest"),
            r"the setting 'trial' is missing; add sett",
        ),
        (lambda: head("knn", k=3), r"head 'knn' takes no settings; they are for own code"),
        (lambda: metric("accuracy"), r"metric 'accuracy' is always computed; list your own alone"),
        (lambda: metric("stranger.metrics:worst_recal"), r"has no .* Did you mean 'worst_recall'"),
        (
            lambda: metric("sklearn.metrics:fbeta_score"),
            r"the setting 'beta' is missing; add setti",
        ),
        (lambda: dataset(sufix=".npy"), r"unknown setting 'sufix'\. Did you mean 'suffix'\?"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"head": {"knn": {"settings": {}}}}, r"^x\.toml \[head\.\"knn\"\]: 'knn' is not among th"),
        ({"head": {"majority": {"x": 1}}}, r"^x\.toml \[head\.\"majority\"\]: unknown setting 'x'"),
        ({"metric": {"m": {"settings": {}}}}, r"'m' is not among the experiment's metrics"),
        ({"evaluate": {"metrics": ["a:b", "a:b"]}}, r"\[evaluate\]: 'metrics' = .* listed twice"),
        (
            {"dataset": {"name": "a:b", "root": "x", "settings": {"x": float("inf")}}},
            r"\[dataset\]: 'settings' = .*inf is no text, number",
        ),
        (
            {"head": {"majority": {"settings": {"x": [{"y": 10**400}]}}}},
            r"an integer of about 401 digits is no text, number",
        ),
        ({"dataset": {"name": "folder", "root": "x", "settings": {"x": 1}}}, "takes no settings"),
    ],
)
def test_a_wrong_table_is_one_line(own_folder: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_names(experiment(**table))


def test_a_network_that_returns_something_else_is_named(folder: Path) -> None:
    write(folder, {"stranger/nets.py": "def build(num_bands):\n    return [num_bands]"})
    with pytest.raises(
        UsageError, match=r"^x\.toml: backbone .* returned a 'list'; return a torch"
    ):
        backbone()


def test_a_metric_that_returns_no_number_is_named(folder: Path) -> None:
    write(folder, {"stranger/metrics.py": "def worst_recall(counts):\n    return counts"})
    statistics = summarise([0, 1], [0, 1], np.eye(2), num_classes=2)
    message = r"metric 'stranger\.metrics:worst_recall' returned an array of shape \(2, 2\); return"
    with pytest.raises(CellError, match=message):
        metric("stranger.metrics:worst_recall").compute(statistics)


def test_pixels_of_another_type_or_shape_are_named(folder: Path) -> None:
    entry, settings = dataset()
    source = entry.open(settings)
    np.save(folder / "images/dark/a0.npy", np.zeros((3, 32, 32), np.float32))
    images = source.read(source.find(source.units()[0]).candidates)
    (problem,) = images.problems
    assert problem.path == "dark/a0.npy"
    assert problem.reason == "read type float32, shape (3, 32, 32); return uint8 (3, 32, 32)"


def test_settings_are_json(folder: Path) -> None:
    found = backbone(settings={"width": 12})
    assert json.loads(json.dumps(found.own)) == found.own


def test_a_search_space_of_the_file_is_that_of_the_head() -> None:
    space = {
        "C": {"low": 1e-3, "high": 1e3, "log": True},
        "kernel": ["linear", "rbf"],
        "scaler": ["none", "standard", "l2"],
    }
    entry = searched(settings={"gamma": "auto"}, **space)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert entry.is_searched
    assert entry.suggest(trial).keys() == space.keys()
    assert trial.distributions["C"] == optuna.distributions.FloatDistribution(1e-3, 1e3, log=True)
    assert entry.own["search"] == space
    assert entry.own["settings"] == {"gamma": "auto"}
    other = searched(settings={"gamma": "auto"}, **{**space, "kernel": ["rbf"]})
    assert other.own != entry.own
    model = entry.build({"C": 2.0, "kernel": "rbf", "scaler": "l2"}, 3)
    assert [type(step).__name__ for _, step in model.steps] == ["Normalizer", "DecisionSoftmax"]
    found = model[-1].estimator.get_params()
    assert (found["C"], found["kernel"], found["gamma"]) == (2.0, "rbf", "auto")
    assert found["random_state"] == 3


def test_a_search_space_of_the_file_replaces_that_of_the_code(folder: Path) -> None:
    entry = searched("stranger.heads:Forest", max_depth=[3])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert entry.suggest(trial) == {"max_depth": 3}
    assert entry.build({"max_depth": 3}, 0).max_depth == 3
    assert head().own != entry.own


@pytest.mark.parametrize("name", ["sklearn.svm:SVC", "sklearn.linear_model:RidgeClassifier"])
def test_a_classifier_with_decision_values_alone_keeps_the_contract(name: str) -> None:
    with quietly():
        for check in CHECKS:
            check(Case(head(name)))


def test_a_scaler_alone_may_be_a_setting() -> None:
    entry = head("sklearn.svm:SVC", scaler="standard", C=2.0)
    assert not entry.is_searched
    assert [type(step).__name__ for _, step in entry.build({}, 0).steps] == [
        *("StandardScaler", "DecisionSoftmax"),
    ]
