"""A checkpoint's folder is its content: one that moved or is named anew computes nothing again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.names import check_names
from benchmark.config import BackboneOptions, build
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.specs import Backbone, slug_of
from benchmark.store.artefacts import Artefact
from tests.tiny_models import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("nets") / "tiny", "vit")


def folders(context: Context, backbone: Backbone) -> list[str]:
    """Return the artefacts of a backbone that are complete."""
    return [item.folder for item in artefacts(context, backbone) if item.is_complete]


def artefacts(context: Context, backbone: Backbone) -> list[Artefact]:
    (head,) = (item for item in context.heads if item.name == "majority")
    return [
        context.embeddings(backbone),
        context.predictions(backbone, head, 0),
        context.finetuned(backbone, 0),
    ]


def complete(context: Context, backbone: Backbone) -> list[str]:
    for item in artefacts(context, backbone):
        item.commit({})
    return folders(context, backbone)


def open_grid(open_small: Callable[..., Context], backbone: Backbone) -> Context:
    return open_small(finetune={}, backbones=[backbone])


def test_a_folder_that_moved_computes_nothing_again(
    tiny: Path, tmp_path: Path, open_small: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_backbone(f"hf:{tiny}")
    done = complete(open_grid(open_small, first), first)
    assert [item.rpartition("-")[0] for item in done] == [
        "embed/chesapeake-hf-tiny",
        "tune/chesapeake-hf-tiny-majority-seed0",
        "finetune/chesapeake-hf-tiny-finetune-seed0",
    ]
    moved = find_backbone(f"hf:{shutil.copytree(tiny, tmp_path / 'b' / 'tiny')}")
    assert folders(open_grid(open_small, moved), moved) == done
    renamed = find_backbone(f"hf:{shutil.copytree(tiny, tmp_path / 'vit-tiny')}")
    assert folders(open_grid(open_small, renamed), renamed) == done
    monkeypatch.chdir(tmp_path)
    near = find_backbone("hf:vit-tiny")
    assert folders(open_grid(open_small, near), near) == done
    named = find_backbone(f"hf:{tiny}", options=BackboneOptions(model="hf:vit-tiny"))
    assert (named.name, named.model) == (f"hf:{tiny}", "hf:vit-tiny")
    assert folders(open_grid(open_small, named), named) == done


def test_other_content_is_computed(
    tiny: Path, tmp_path: Path, open_small: Callable[..., Context]
) -> None:
    first = find_backbone(f"hf:{tiny}")
    assert len(complete(open_grid(open_small, first), first)) == 3
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    other = find_backbone(f"hf:{folder}")
    assert folders(open_grid(open_small, other), other) == []


def test_what_was_computed_under_the_path_is_found(
    tiny: Path, tmp_path: Path, open_small: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions took the whole name for the identity, and for the folder's name."""
    monkeypatch.chdir(tiny.parent)
    for name in (f"hf:{tiny}", "hf:tiny"):
        backbone = find_backbone(name)
        older = replace(backbone, folder=None)
        assert older.slug == slug_of(name)
        done = complete(open_grid(open_small, older), older)
        assert done[0].startswith(f"embed/chesapeake-{slug_of(name)}-")
        context = open_grid(open_small, backbone)
        assert folders(context, backbone) == done
        assert context.embeddings_inputs(backbone)["backbone"]["name"] == name
        shutil.rmtree(context.store.root)
    # As a kept experiment names it: by its place, under the name that it had.
    done = complete(open_grid(open_small, older), older)
    kept = find_backbone("hf:tiny", options=BackboneOptions(model=f"hf:{tiny}"))
    assert folders(open_grid(open_small, kept), kept) == done


def test_names_of_other_sources_are_what_they_were(open_small: Callable[..., Context]) -> None:
    for name in ("efficientnet_lite0", "torchgeo:rcf", "hf:org/name"):
        backbone = replace(find_backbone("mean_color"), name=name)
        context = open_grid(open_small, backbone)
        assert context.embeddings_inputs(backbone)["backbone"]["name"] == name
        assert context.embeddings(backbone).name == f"chesapeake-{slug_of(name)}"


def test_a_long_or_strange_last_part_is_a_short_name(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / f"a b..c{'x' * 200}")
    slug = find_backbone(f"hf:{folder}").slug
    assert slug.startswith("hf-a-b-cxx")
    assert len(slug) <= 60


def experiment(backbones: list[str], **tables: Any) -> Any:
    content = {"name": "x", "dataset": {"name": "folder", "root": "."}, "heads": ["majority"]}
    return build({**content, "backbones": backbones, **tables}, where="x.toml")


def test_two_folders_of_one_content_are_refused(tiny: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny, tmp_path / "other")
    with pytest.raises(UsageError, match=r"^x.toml: backbones .* are the same checkpoint with"):
        check_names(experiment([f"hf:{tiny}", f"hf:{other}"]))
    check_names(experiment([f"hf:{tiny}", f"hf:{other}"], backbone={f"hf:{other}": {"layer": -2}}))
    config = json.loads((other / "preprocessor_config.json").read_text())
    config["image_mean"] = [0.1, 0.2, 0.3]
    (other / "preprocessor_config.json").write_text(json.dumps(config))
    check_names(experiment([f"hf:{tiny}", f"hf:{other}"]))


def test_each_mode_of_fine_tuning_is_found_where_it_is(
    tiny: Path, tmp_path: Path, open_small: Callable[..., Context]
) -> None:
    first = find_backbone(f"hf:{tiny}")
    modes = {"modes": ["lora", "full"]}
    done, _ = open_small(finetune=modes, backbones=[first]).finetune_cells()
    done.artefact.commit({})
    renamed = find_backbone(f"hf:{shutil.copytree(tiny, tmp_path / 'vit-tiny')}")
    lora, full = open_small(finetune=modes, backbones=[renamed]).finetune_cells()
    assert lora.artefact.folder == done.artefact.folder
    assert full.artefact.folder.startswith("finetune/chesapeake-hf-vit-tiny-finetune-")
