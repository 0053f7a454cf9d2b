"""Lists of layers and poolings of a backbone, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.names import check_names, resolve_backbones
from benchmark.config import BackboneOptions, Experiment, build
from benchmark.derived import sources_of
from benchmark.errors import UsageError
from benchmark.options import short_names
from benchmark.variants import choose, leaders, name_options
from tests.tiny_models import write_tiny

DATASET = {"name": "synthetic", "root": "data"}


def experiment(name: str, options: dict[str, Any], **more: Any) -> Experiment:
    table = {"backbones": [name], "backbone": {name: options}, "dataset": DATASET}
    return build({"name": "x", **table, **more}, where="x.toml")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in ("vit", "convnext"):
        write_tiny(root / family, family)
    np.savez(root / "product.npz", ids=np.array(["a"]), vectors=np.zeros((1, 3)))
    return root


def test_names_tell_what_was_listed() -> None:
    lists = {"layers": [-1, -2], "pooling": ["mean", "gem"]}
    found = resolve_backbones(experiment("random", lists))
    assert [item.name for item in found] == [
        "random@layer=-1,pooling=mean",
        "random@layer=-1,pooling=gem",
        "random@layer=-2,pooling=mean",
        "random@layer=-2,pooling=gem",
    ]
    assert {(item.group, item.model) for item in found} == {("random", "random")}
    named = resolve_backbones(experiment("net", {"model": "random", "layers": [-1, -2]}))
    assert [(item.name, item.model) for item in named] == [
        ("net@layer=-1", "random"),
        ("net@layer=-2", "random"),
    ]


@pytest.mark.parametrize("lists", [{"layers": [-3]}, {"pooling": ["gem"]}])
def test_a_variant_is_the_backbone_of_the_option_alone(lists: dict[str, Any]) -> None:
    (found,) = resolve_backbones(experiment("random", lists))
    key, (value,) = next(iter(lists.items()))
    option = {"layer" if key == "layers" else key: value}
    alone = find_backbone("random", options=BackboneOptions(**option))
    assert (found.options, found.identity) == (alone.options, alone.identity)
    assert (found.dim, found.description) == (alone.dim, alone.description)


def test_variants_of_a_network_are_fine_tuned_once() -> None:
    both = resolve_backbones(experiment("random", {"layers": [-2, -1]}))
    assert leaders(both) == [both[0]]
    assert choose(both, ["random"]) == (both[0],)
    assert choose(both, ["random@layer=-1"]) == (both[1],)
    check_names(experiment("random", {"layers": [-2, -1]}, finetune={"backbones": ["random"]}))
    wrong = experiment("random", {"layers": [-2, -1]}, finetune={"backbones": ["rando"]})
    with pytest.raises(UsageError, match=r"'rando' is not among .* Did you mean 'random'"):
        check_names(wrong)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("hf:vit", {"layers": [-1, -9]}, r"'layer' = -9: the model has 3 layers; set -1 to -3"),
    ("random", {"layers": [-1, -9]}, r"'layer' = -9: this network has 5 layers"),
    ("random", {"layers": [-1, -1]}, r"-1 is listed twice"),
    ("random", {"layers": []}, r"at least 1 item"),
    ("random", {"layers": [0]}, r"less than 0"),
    ("random", {"layers": list(range(-1000, 0))}, r"at most 100 items"),
    ("random", {"layers": [-1], "layer": -1}, r"'layer' and 'layers' contradict"),
    ("random", {"pooling": ["mean", "mean"]}, r"'mean' is listed twice"),
    ("random", {"pooling": ["mean", "max"]}, r"'pooling' = 'max': should be 'mean', 'patches'"),
    ("random", {"pooling": ["mean", "cls"]}, r"no class token"),
    ("hf:convnext", {"pooling": ["mean", "cls"]}, r"no class token"),
    ("hf:vit", {"pooling": ["mean", "pooler"], "layers": [-1, -2]}, r"last hidden state: remove"),
    ("mean_color", {"layers": [-1]}, r"'layers' does not apply .* no network"),
    ("pca", {"pooling": ["gem"]}, r"'pooling' does not apply .* no network"),
    ("embeddings:product.npz", {"layers": [-1]}, r"'layers' .* are read from files; remove"),
]


@pytest.mark.parametrize(("name", "options", "problem"), BAD)
def test_what_does_not_fit_is_one_line(
    models: Path, name: str, options: dict[str, Any], problem: str
) -> None:
    source, colon, rest = name.rpartition(":")
    given = f"{source}:{models / rest}" if colon else name
    with pytest.raises(UsageError, match=problem) as caught:
        check_names(experiment(given, options))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_variants_have_the_short_name_of_their_network() -> None:
    given = experiment("random", {"layers": [-1, -2], "name": "Floor"})
    found = resolve_backbones(given)
    options = name_options(found, given.backbone)
    assert list(short_names([item.name for item in found], options).values()) == [
        "Floor@layer=-1",
        "Floor@layer=-2",
    ]


def test_lists_belong_into_an_experiment() -> None:
    with pytest.raises(UsageError, match="make several backbones, of an experiment"):
        find_backbone("random", options=BackboneOptions(pooling=("mean", "gem")))


def test_variants_count_as_cells() -> None:
    lists = {"layers": list(range(-100, 0)), "pooling": ["mean", "gem"]}
    shares = [i / 20 for i in range(1, 21)]
    with pytest.raises(UsageError, match=r"are 4,000,000 cells"):
        experiment(
            "random",
            lists,
            seeds=list(range(1000)),
            heads=["knn"],
            protocol={"label_fractions": shares},
        )


def made(of: str | list[str], *names: str, **tables: dict[str, Any]) -> Experiment:
    """Return an experiment with two variants of a network, and a backbone made from others."""
    own = {"of": of, "truncate": 4} if isinstance(of, str) else {"concat": of}
    options = {"random": {"layers": [-1, -2]}, "made": own, **tables}
    # What others are made from may come later.
    more = {"backbones": ["made", "random", *names], "backbone": options}
    return build({"name": "x", "dataset": DATASET, **more}, where="x.toml")


def test_backbones_are_made_from_variants_by_their_whole_names() -> None:
    short, last, hidden = resolve_backbones(made("random@layer=-2"))
    assert short.derived is not None and short.dim == 4
    assert short.derived.parents == ("random@layer=-2",) == (hidden.name,)
    joined, *_ = resolve_backbones(made(["random@layer=-1", "random@layer=-2"]))
    assert joined.derived is not None and joined.dim == (last.dim or 0) + (hidden.dim or 0)
    assert list(sources_of(made("random@layer=-2"), "made")) == ["random"]


@pytest.mark.parametrize(
    ("of", "problem"),
    [
        ("random", r"'of' names 'random', which lists layers .* one of .*'random@layer=-1'$"),
        (["random@layer=-1", "random"], r"'concat' names 'random', which lists layers"),
        ("random@layer=-3", r"'random@layer=-3', which is not among .* mean 'random@layer=-"),
    ],
)
def test_a_parent_with_variants_is_never_one_of_them_by_chance(
    of: str | list[str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        check_names(made(of))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lists", [{"layers": [-1, -2]}, {"pooling": ["mean", "gem"]}])
def test_what_is_made_from_stored_embeddings_has_no_variants(lists: dict[str, Any]) -> None:
    own = {"of": "random@layer=-1", "truncate": 4, **lists}
    with pytest.raises(UsageError, match=rf"'{next(iter(lists))}' does not apply beside 'of'"):
        made("random@layer=-1", "other", other=own)


def test_a_name_of_the_list_is_no_variant() -> None:
    name = "random@layer=-2"
    twice = made(name, name, **{name: {"model": "mean_color"}})
    with pytest.raises(UsageError, match=r"'random@layer=-2' is both a name in 'backbones' and"):
        check_names(twice)
