"""Names of the user's own: the same model more than once, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark import api
from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.names import resolve_backbones
from benchmark.config import BackboneOptions, build
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.identity import backbone_inputs
from tests.tiny_models import write_tiny


def experiment(backbones: list[str], tables: dict[str, Any], **more: Any) -> Any:
    content = {
        "name": "toy",
        "backbones": backbones,
        "dataset": {"name": "folder", "root": "data"},
        "backbone": tables,
        **more,
    }
    return build(content, where="x.toml")


def test_two_layers_of_one_model_are_two_backbones(
    tmp_path: Path, open_small: Callable[..., Context]
) -> None:
    model = f"hf:{write_tiny(tmp_path / 'vit', 'vit')}"
    given = experiment(
        ["early", "late", "mean_color"],
        {"early": {"model": model, "layer": -2}, "late": {"model": model}},
        finetune={"backbones": ["late"]},
    )
    api.check_names(given)
    early, late, _ = resolve_backbones(given, where="x.toml")
    assert [item.name for item in (early, late)] == ["early", "late"]
    assert early.model == late.model == model
    assert (early.family, late.family) == ("vit", "vit")
    assert "hidden state -2" in early.description
    # The same artefact as under the model's own name, and as under any other name.
    own = find_backbone(model)
    deep = find_backbone("deep", options=BackboneOptions(model=model, layer=-2))
    context = open_small()
    assert context.embeddings(late).path == context.embeddings(own).path
    assert context.embeddings(early).path == context.embeddings(deep).path
    assert context.embeddings(early).path != context.embeddings(late).path
    context.backbones = (early, late)
    rows = {(cell.backbone, cell.artefact.path) for cell in context.tune_cells()}
    assert {name for name, _ in rows} == {"early", "late"}
    assert len(rows) == 2 * len(context.heads)


def test_a_finetuned_model_is_the_same_under_every_name(open_small: Callable[..., Context]) -> None:
    context = open_small(finetune={})
    own = find_backbone("efficientnet_lite0")
    mine = find_backbone("mine", options=BackboneOptions(model="efficientnet_lite0"))
    assert (mine.name, mine.slug) == ("mine", "efficientnet_lite0")
    assert context.finetuned(mine, 0).path == context.finetuned(own, 0).path
    assert backbone_inputs(own, 64)["name"] == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("backbones", "tables", "message"),
    [
        (
            ["a", "b"],
            {"a": {"model": "random"}, "b": {"model": "a"}},
            r'^x.toml \[backbone."b"\]: \'model\' = \'a\' is a name of this file; write the model',
        ),
        (["a"], {"a": {"model": "a"}}, r"'model' = 'a' is a name of this file"),
        (
            ["mean_color"],
            {"mean_color": {"model": "random"}},
            r'^x.toml \[backbone."mean_color"\]: .* is a backbone of the catalog; choose another',
        ),
        (
            ["hf:a/b"],
            {"hf:a/b": {"model": "random"}},
            r"'model' = 'random': names with ':' are models themselves; remove 'model', or",
        ),
        (
            ["random", "a"],
            {"a": {"model": "random", "image_size": 224}},
            r"^x.toml: backbones 'random' and 'a' are the same model 'random' with the same opt",
        ),
        (["a"], {"a": {"model": "randm"}}, r"unknown backbone 'randm'. Did you mean 'random'"),
        (
            ["a"],
            {"a": {"model": "random", "layer": -9}},
            r'^x.toml \[backbone."a"\]: .layer. = -9',
        ),
        (
            ["a"],
            {"a": {"model": "mean_color", "layer": -2}},
            r'\[backbone."a"\]: .layer. does no',
        ),
        (["a"], {"a": {"model": 5}}, r"'model' = 5: should be a valid string"),
    ],
)
def test_a_name_that_cannot_be_ones_own_is_one_line(
    backbones: list[str], tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        api.check_names(experiment(backbones, tables))
    assert "\n" not in str(caught.value)
