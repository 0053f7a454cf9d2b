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


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture(scope="module")
def contexts(open_small_session, experiment_content, new_store, vit):
    """Open contexts on one store whose backbones have options."""
    store = new_store()

    def make(options, store=store, **more):
        name = f"hf:{vit}"
        table = {"backbones": [name], "backbone": {name: options}, **more}
        experiment = build({**experiment_content, **table})
        backbones = resolve_backbones(experiment, where="x.toml")
        return open_small_session(store=store, backbones=backbones, embed=AUTO, **more)

    return make


@pytest.fixture(scope="module")
def embedded(contexts):
    context = contexts({"layers": LAYERS, "pooling": POOLINGS})
    return context, EmbedStage().run(context)


def vectors(context, backbone):
    return vectors_array(context.embeddings(backbone).read_table()["embedding"])


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
