"""Layers and poolings of one network: one pass, an artefact each, the same as set alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.catalog.names import resolve_backbones
from benchmark.config import build
from benchmark.stages.embed import EmbedStage
from benchmark.tables import vectors_array
from tests.tiny_models import write_tiny

pytestmark = pytest.mark.slow

LAYERS, POOLINGS = [-1, -2], ["mean", "cls", "mean+std"]
AUTO = {"num_actors": "auto", "precision": "float32"}
FLIPS = {"protocol": {"flips": "horizontal"}, "embed": {**AUTO, "batch_size": 16}}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture(scope="module")
def contexts(open_small_session, experiment_content, new_store, vit):
    """Open contexts on one store whose backbones have options."""
    store = new_store()

    def make(options, store=store, made=None, embed=AUTO, **more):
        name, made = f"hf:{vit}", made or {}
        table = {"backbones": [name, *made], "backbone": {name: options, **made}, **more}
        experiment = build({**experiment_content, **table})
        backbones = resolve_backbones(experiment, where="x.toml")
        return open_small_session(store=store, backbones=backbones, embed=embed, **more)

    return make


@pytest.fixture(scope="module")
def embedded(contexts):
    context = contexts({"layers": LAYERS, "pooling": POOLINGS})
    return context, EmbedStage().run(context)


def vectors_of(artefact):
    return vectors_array(artefact.read_table()["embedding"])


def vectors(context, backbone):
    return vectors_of(context.embeddings(backbone))


def written_ns(artefact, name):
    return (Path(artefact.path) / name).stat().st_mtime_ns


def test_each_layer_with_each_pooling_is_a_backbone(embedded, vit):
    context, result = embedded
    names = [f"hf:{vit}@layer={i},pooling={item}" for i in LAYERS for item in POOLINGS]
    assert [item.name for item in context.backbones] == names
    assert {item.status for item in result.cells} == {"complete"}
    manifests = [context.embeddings(item).manifest() for item in context.backbones]
    assert [item["dim"] for item in manifests] == [32, 32, 64] * 2
    assert {item["variants_in_pass"] for item in manifests} == {6}
    assert len({item["seconds"]["device"] for item in manifests}) == 1
    (usage,) = (item for item in context.usages if item.stage == "embed")
    # Patches pass once.
    assert (usage.num_cells, usage.num_items) == (6, 240)


def test_a_variant_has_the_fingerprint_and_values_of_the_option_alone(
    embedded, contexts, new_store
):
    context, _ = embedded
    store = new_store()
    for options in ({"layer": -2}, {"pooling": "cls"}, {"pooling": "mean+std"}):
        alone = contexts(options, store=store)
        (backbone,) = alone.backbones
        (twin,) = (item for item in context.backbones if dict(item.options) == options)
        assert context.embeddings(twin).folder == alone.embeddings(backbone).folder
        assert context.embeddings(twin).fingerprint == alone.embeddings(backbone).fingerprint
    # The last of them in a store of its own.
    assert EmbedStage().run(alone).cells[0].status == "complete"
    np.testing.assert_array_equal(vectors(alone, backbone), vectors(context, twin))


def test_missing_variants_alone_are_computed_with_the_plan_that_was_begun(contexts, new_store):
    store = new_store()
    first = contexts({"layers": LAYERS}, store=store)
    EmbedStage().run(first)
    last, hidden = first.backbones
    before = vectors(first, hidden)
    # As a run that was killed leaves it: a part and the plan, no manifest.
    artefact = first.embeddings(hidden)
    artefact.delete("_manifest.json")
    parts = artefact.files("part-")
    assert len(parts) > 1
    artefact.delete(parts[-1])
    kept = written_ns(first.embeddings(last), parts[0])
    again = contexts({"layers": LAYERS, "pooling": ["mean", "gem"]}, store=store)
    result = EmbedStage().run(again)
    assert {item.status for item in result.cells} == {"complete"}
    by_options = {tuple(sorted(dict(item.options).items())): item for item in again.backbones}
    gem = by_options[(("layer", -2), ("pooling", "gem"))]
    assert again.embeddings(gem).manifest()["variants_in_pass"] == 3
    assert again.embeddings(gem).plan() == artefact.plan()
    np.testing.assert_array_equal(vectors(again, hidden), before)
    assert written_ns(first.embeddings(last), parts[0]) == kept


@pytest.fixture(scope="module")
def alone(contexts, new_store):
    """Flips of one setting in a store of its own: the table of all patches, and of the flip."""
    context = contexts({"layer": -2}, store=new_store(), **FLIPS)
    assert {item.status for item in EmbedStage().run(context).cells} == {"complete"}
    (backbone,) = context.backbones
    return context.embeddings(backbone), *context.flipped(backbone).values()


def test_flips_of_variants_have_the_values_of_the_option_alone(contexts, alone, new_store):
    context = contexts({"layers": LAYERS}, store=new_store(), **FLIPS)
    result = EmbedStage().run(context)
    assert [item.status for item in result.cells] == ["complete"] * 4
    (usage,) = (item for item in context.usages if item.stage == "embed")
    assert usage.num_cells == 4
    assert usage.num_items == sum(item.manifest()["num_patches"] for item in alone)
    for backbone in context.backbones:
        plain = context.embeddings(backbone)
        (flipped,) = context.flipped(backbone).values()
        manifest = flipped.manifest()
        assert manifest["variants_in_pass"] == 2
        assert manifest["inputs"]["embeddings"] == plain.fingerprint
        assert flipped.plan() == plain.plan()
    for mine, own in zip((plain, flipped), alone, strict=True):
        assert mine.fingerprint == own.fingerprint
        assert mine.read_table()["patch_id"].equals(own.read_table()["patch_id"])
        np.testing.assert_array_equal(vectors_of(mine), vectors_of(own))
    rows = np.isin(plain.read_table()["patch_id"], flipped.read_table()["patch_id"])
    assert np.abs(vectors_of(flipped) - vectors_of(plain)[rows]).max() > 1e-3


def test_flips_do_not_go_on_with_the_network_of_other_variants(contexts, alone, new_store):
    store = new_store()
    plain = contexts({"layers": LAYERS}, store=store, embed=FLIPS["embed"])
    EmbedStage().run(plain)
    # The plain patches lack the first variant, the flips lack both.
    artefact = plain.embeddings(plain.backbones[0])
    before = vectors_of(artefact)
    artefact.delete("_manifest.json")
    artefact.delete(artefact.files("part-")[-1])
    context = contexts({"layers": LAYERS}, store=store, **FLIPS)
    assert {item.status for item in EmbedStage().run(context).cells} == {"complete"}
    assert "variants_in_pass" not in artefact.manifest()
    np.testing.assert_array_equal(vectors_of(artefact), before)
    (flipped,) = context.flipped(context.backbones[1]).values()
    assert flipped.manifest()["variants_in_pass"] == 2
    np.testing.assert_array_equal(vectors_of(flipped), vectors_of(alone[1]))


def test_a_backbone_is_made_from_a_variant(contexts, embedded, vit):
    context, _ = embedded
    made = {"short": {"of": f"hf:{vit}@layer=-2,pooling=cls", "truncate": 8}}
    more = contexts({"layers": LAYERS, "pooling": POOLINGS}, made=made)
    result = EmbedStage().run(more)
    assert [item.status for item in result.cells] == ["complete"] * 7
    short = more.backbones[-1]
    assert short.derived.parents == (context.backbones[4].name,)
    np.testing.assert_array_equal(
        vectors(more, short), vectors(context, context.backbones[4])[:, :8]
    )
