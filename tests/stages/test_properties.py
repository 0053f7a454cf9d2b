"""The table ``properties`` of the scores, and its place on the page."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.stages.evaluate import EvaluateStage, properties
from benchmark.stages.evaluate.schemas import PROPERTIES
from benchmark.stages.report.properties import property_tables
from benchmark.stages.report.results import Results
from benchmark.store.names import beside
from benchmark.tables import check_table, embeddings_column, embeddings_schema
from tests.stages.test_evaluate import CLASSES, write_patches, write_predictions


def write_embeddings(context, ids, vectors):
    """Write the embeddings of the small experiment's backbone in two parts, in mixed order."""
    artefact = context.embeddings(BACKBONES.get("mean_color"))
    order = np.random.default_rng(1).permutation(len(ids))
    for number, rows in enumerate(np.array_split(order, 2)):
        table = pa.table(
            [pa.array(ids[rows]), embeddings_column(vectors[rows])],
            schema=embeddings_schema(vectors.shape[1]),
        )
        artefact.write_table(f"part-{number:06d}.parquet", table)
    artefact.commit(
        {"seconds": {"device": 1.0}, "device": {"device": "cpu"}, "dim": vectors.shape[1]}
    )
    return artefact


@pytest.fixture
def toy(open_small):
    """A context whose embeddings are three equal axes, and tell the first class apart."""
    context = open_small(backbones=[BACKBONES.get("mean_color")], heads=[HEADS.get("knn")])
    ids, split, labels = write_patches(context)
    manifest = context.patches.manifest()
    context.patches.delete("_manifest.json")
    context.patches.commit({**manifest, "classes": [f"c{k}" for k in range(CLASSES)]})
    vectors = np.random.default_rng(0).normal(size=(len(ids), 3)).astype(np.float32)
    vectors[labels == 0] += 50
    vectors[labels != 0] -= 50
    vectors[1] = vectors[0]
    write_predictions(context, ids, split, labels, head="knn", accuracy=0.9)
    return context, ids, split, labels, vectors


def read(context):
    artefact = context.scores()
    table = check_table(artefact.read_table(names=[beside("properties")]), PROPERTIES, what="toy")
    return table.to_pandas().set_index("property")


def test_evaluate_describes_the_embeddings(toy):
    from sklearn.neighbors import NearestNeighbors

    context, ids, split, labels, vectors = toy
    artefact = write_embeddings(context, ids, vectors)
    assert EvaluateStage().run(context).cells[0].status == "complete"
    found = read(context)
    assert set(found["artefact"]) == {artefact.folder}
    assert found.loc["dimension", "value"] == 3
    assert found.loc["duplicate_share", "value"] == pytest.approx(1 / len(ids))
    norms = np.linalg.norm(vectors, axis=1)
    assert found.loc["norm_spread", "value"] == pytest.approx(norms.std() / norms.mean(), rel=1e-5)
    assert found.loc["dimension_twonn", "value"] == pytest.approx(3, rel=0.2)
    train, test = split == "train", split == "test"
    search = NearestNeighbors(n_neighbors=10, metric="cosine").fit(vectors[train])
    near = labels[train][search.kneighbors(vectors[test])[1]]
    shares = (near == labels[test][:, None]).mean(axis=1)
    means = [shares[labels[test] == k].mean() for k in range(CLASSES)]
    for k, mean in enumerate(means):
        assert found.loc[f"neighbour_precision/c{k}", "value"] == pytest.approx(mean)
    assert found.loc["neighbour_precision/c0", "value"] == 1.0
    assert found.loc["neighbour_precision", "value"] == pytest.approx(np.mean(means))
    assert found.loc["neighbour_precision", "num_patches"] == test.sum()


def test_a_draw_bounds_the_patches_and_does_not_depend_on_parts(toy, monkeypatch):
    context, ids, _, _, vectors = toy
    write_embeddings(context, ids, vectors)
    monkeypatch.setattr(properties, "MAX_ROWS", 60)
    found, _ = properties.describe_embeddings(context)
    counts = {row["property"]: row["num_patches"] for row in found.to_pylist()}
    assert counts["effective_rank"] == counts["neighbour_precision"] == 60
    assert counts["duplicate_share"] == len(ids)


def test_what_earlier_scores_hold_is_not_computed_again(toy):
    context, ids, split, labels, vectors = toy
    artefact = write_embeddings(context, ids, vectors)
    EvaluateStage().run(context)
    first = read(context)
    write_predictions(context, ids, split, labels, head="knn", accuracy=0.5, seed=1)
    wider = context.experiment.model_copy(update={"seeds": (0, 1)})
    again = type(context)(**{**vars_of(context), "experiment": wider})
    # Without it, nothing could be computed.
    artefact.delete("part-000001.parquet")
    assert EvaluateStage().run(again).cells[0].status == "complete"
    assert again.scores().fingerprint != context.scores().fingerprint
    assert read(again).equals(first)


def vars_of(context):
    names = ("dataset", "backbones", "heads", "metrics", "store", "cluster", "progress")
    return {name: getattr(context, name) for name in names}


def test_embeddings_that_cannot_be_read_are_noted_and_cost_no_score(toy):
    context, ids, _, _, vectors = toy
    artefact = write_embeddings(context, ids, vectors)
    artefact.delete("part-000001.parquet")
    assert EvaluateStage().run(context).cells[0].status == "complete"
    (note,) = (item for item in context.scores().manifest()["notes"] if "mean_color" in item)
    assert "no properties of its embeddings" in note
    assert read(context).empty


def test_the_page_has_two_tables_and_scores_of_older_versions_none(toy):
    context, ids, _, _, vectors = toy
    write_embeddings(context, ids, vectors)
    EvaluateStage().run(context)
    manifest = context.patches.manifest()
    context.patches.delete("_manifest.json")
    context.patches.commit({**manifest, "is_synthetic": True})
    results = Results(context)
    first, per_class = property_tables(results)
    (row,) = first.rows
    assert row[:2] == ("mean_color", 3)
    assert per_class.columns == ("backbone", *(f"c{k}" for k in range(CLASSES)))
    assert per_class.rows[0][1] == 1.0
    results.evaluated["files"].remove(beside("properties"))
    assert property_tables(results) == ()
