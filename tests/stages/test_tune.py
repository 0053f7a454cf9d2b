import json
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmark.catalog.backbones import BACKBONES
from benchmark.catalog.heads import HEADS
from benchmark.experiment.rates import Rates
from benchmark.exporting.saved import load_head
from benchmark.search.bookkeeping import Search
from benchmark.stages.embed import EmbedStage
from benchmark.stages.tune import TuneStage
from benchmark.store.names import beside
from benchmark.tables import TRIALS, check_table, predictions_schema, vectors_array
from tests.toys import failing_head

MEAN_COLOR = BACKBONES.get("mean_color")


@pytest.fixture(scope="module")
def embedded_store(open_small_session, new_store):
    store = new_store()
    assert EmbedStage().run(open_small_session(store=store)).cells[0].status == "complete"
    return store


@pytest.fixture
def opened(open_small, embedded_store):
    """Open contexts on one store that holds the embeddings."""
    return partial(open_small, store=embedded_store)


@pytest.fixture(scope="module")
def handler_before():
    """What Ctrl-C does before a search; it is ignored where tests run in the background."""
    return signal.getsignal(signal.SIGINT)


@pytest.fixture(scope="module")
def tuned(open_small_session, embedded_store, handler_before):
    """One run with every head, and one that never fits; most tests look at it."""
    context = open_small_session(
        store=embedded_store,
        heads=[failing_head(), *map(HEADS.get, HEADS.names())],
        seeds=[0, 1],
        tune={"num_trials": 4, "max_concurrent": "auto"},
    )
    return context, TuneStage().run(context)


def _predictions(context, head, seed=0):
    return context.predictions(MEAN_COLOR, HEADS.get(head), seed)


def test_every_cell_writes_predictions_trials_and_a_head(tuned):
    context, result = tuned
    cells = [cell for cell in context.prediction_cells() if cell.method != "failing"]
    assert len(cells) == 2 * len(HEADS)
    statuses = [item.status for item in result.cells if item.cell.method != "failing"]
    assert statuses == ["complete"] * 2 * len(HEADS)
    rate = Rates(context.cluster.place).find("tune", "majority")
    assert (rate.num_items, rate.num_patches) == (context.num_train, context.num_train)
    assert rate.num_bytes > 0
    splits = context.patches.read_table(columns=["patch_id", "split"]).to_pandas()
    wanted = splits.loc[splits["split"] != "train", "patch_id"].tolist()
    for cell in cells:
        table = check_table(cell.artefact.read_table(), predictions_schema(5), what="predictions")
        assert table["patch_id"].to_pylist() == wanted
        np.testing.assert_allclose(vectors_array(table["y_score"]).sum(axis=1), 1, atol=1e-4)
        trials = check_table(
            cell.artefact.read_table(names=[beside("trials")]), TRIALS, what="trials"
        ).to_pandas()
        assert len(trials) == (4 if HEADS.get(cell.method).is_searched else 1)
        best = trials[trials["state"] == "complete"]["val_score"].max()
        manifest = cell.artefact.manifest()
        assert manifest["val_score"] == pytest.approx(best)
        assert manifest["seconds"]["trials"] > 0
        assert manifest["peak_memory_bytes"] > 50e6
        assert manifest["energy"].keys() in ({"joules", "reason"}, {"joules", "told_by"})
        assert "label" not in table.column_names


def test_ctrl_c_is_not_swallowed_after_a_search(handler_before, tuned):
    assert signal.getsignal(signal.SIGINT) is handler_before


def test_the_predictions_are_those_of_the_saved_head(tuned):
    context, _ = tuned
    artefact = _predictions(context, "logistic_regression")
    head = load_head(artefact.path)
    table = artefact.read_table()
    embeddings = context.embeddings(MEAN_COLOR).read_table()
    rows = np.isin(embeddings["patch_id"].to_numpy(), table["patch_id"].to_numpy())
    scores = head.predict_proba(vectors_array(embeddings["embedding"])[rows])
    np.testing.assert_allclose(vectors_array(table["y_score"]), scores, rtol=1e-4, atol=1e-6)


def test_the_best_val_score_is_that_of_the_predictions(tuned):
    from sklearn.metrics import balanced_accuracy_score

    context, _ = tuned
    labels = context.patches.read_table(
        columns=["patch_id", "split", "label"], splits=("val",)
    ).to_pandas()
    for head in ("mlp", "knn"):
        artefact = _predictions(context, head)
        frame = artefact.read_table(columns=["patch_id", "y_pred"]).to_pandas()
        joined = labels.merge(frame, on="patch_id")
        score = balanced_accuracy_score(joined["label"], joined["y_pred"])
        assert artefact.manifest()["val_score"] == pytest.approx(score, abs=1e-6)


def test_test_labels_change_nothing(tuned, open_small, tmp_path):
    context, _ = tuned
    leaky = open_small(store=tmp_path / "leaky", tune={"num_trials": 4})
    for stage in ("patches", "embed"):
        shutil.copytree(Path(context.store.root) / stage, tmp_path / "leaky" / stage)
    for part in leaky.patches.files("part-"):
        table = leaky.patches.read_table(names=[part])
        frame = table.select(["split", "label"]).to_pandas()
        wrong = np.where(frame["split"] == "test", 4 - frame["label"], frame["label"])
        table = table.set_column(2, table.schema.field("label"), pa.array(wrong, pa.int32()))
        leaky.patches.write_table(part, table)
    TuneStage().run(leaky)
    for head in ("logistic_regression", "majority"):
        honest = _predictions(context, head).read_table()
        assert _predictions(leaky, head).read_table().equals(honest)


@pytest.mark.slow
def test_the_predictions_do_not_depend_on_how_many_trials_run_at_once(opened, open_small, tmp_path):
    heads = [HEADS.get("mlp"), HEADS.get("logistic_regression")]
    settings = {"num_trials": 12}
    one = opened(heads=heads, tune={**settings, "max_concurrent": 1})
    TuneStage().run(one)
    two = open_small(store=tmp_path / "two", heads=heads, tune={**settings, "max_concurrent": 2})
    for stage in ("patches", "embed"):
        shutil.copytree(Path(one.store.root) / stage, tmp_path / "two" / stage)
    TuneStage().run(two)
    for head in ("mlp", "logistic_regression"):
        a, b = _predictions(one, head), _predictions(two, head)
        assert a.path != b.path and a.fingerprint == b.fingerprint
        assert a.read_table().equals(b.read_table())
        trials = [x.read_table(names=[beside("trials")]).drop(["seconds"]) for x in (a, b)]
        assert trials[0].equals(trials[1])


def test_a_head_that_fails_leaves_its_neighbours_alone(tuned):
    _, result = tuned
    wanted = dict.fromkeys(HEADS.names(), "complete") | {"failing": "failed"}
    assert {item.cell.method: item.status for item in result.cells} == wanted
    reasons = {item.reason for item in result.cells if item.cell.method == "failing"}
    (reason,) = reasons
    assert reason.startswith("all trials failed: ")
    assert "tests/toys.py, line " in reason
    assert reason.endswith(": ValueError: this head never fits")


@pytest.mark.slow
def test_pruning_stops_hopeless_trials(opened, monkeypatch):
    from benchmark.stages.tune import searcher

    monkeypatch.setattr(searcher, "plan_rungs", lambda num_train: (3, 9))
    context = opened(heads=[HEADS.get("mlp")], tune={"num_trials": 10})
    TuneStage().run(context)
    trials = _predictions(context, "mlp").read_table(names=[beside("trials")]).to_pandas()
    assert set(trials["state"]) == {"pruned", "complete"}
    pruned = trials[trials["state"] == "pruned"]["val_score"].max()
    assert pruned <= trials[trials["state"] == "complete"]["val_score"].max()


def test_seeds_give_other_trials_and_the_same_seed_the_same(opened):
    head = HEADS.get("logistic_regression")

    def drawn(seed):
        search = Search(head, num_trials=3, seed=seed)
        return json.dumps([search.next().params for _ in range(3)])

    assert drawn(0) == drawn(0) != drawn(1)


def test_missing_embeddings_block_the_cells_and_say_what_to_run(ray_session, open_small):
    context = open_small(backbones=[replace(MEAN_COLOR, version=99)])
    (first, *_) = TuneStage().run(context).cells
    assert (first.status, first.reason) == (
        "failed",
        "embed is missing: run `benchmark embed` first",
    )


def test_a_patch_without_an_embedding_is_refused(tmp_path):
    """Its labels would get the embedding of another patch."""
    from benchmark.errors import CellError
    from benchmark.stages.tune.shelf import load_rows
    from benchmark.store.artefacts import Store
    from benchmark.tables import embeddings_column

    store = Store(str(tmp_path))
    patches = store.artefact("patches", "toy", "0")
    ids = [f"p{number}" for number in range(6)]
    splits = ["train", "train", "train", "val", "val", "test"]
    patches.write_table(
        "part-000000.parquet", pa.table({"patch_id": ids, "split": splits, "label": [0] * 6})
    )
    for kept in (ids, ids[:2] + ids[3:], ids[:-1], ids[1:]):
        embeddings = store.artefact("embed", "toy", str(len(kept)) + kept[0])
        column = embeddings_column(np.zeros((len(kept), 2), np.float32))
        embeddings.write_table(
            "part-000000.parquet", pa.table({"patch_id": kept, "embedding": column})
        )
        if kept == ids:
            assert len(load_rows(patches, embeddings).x_train) == 3
            continue
        (gone,) = set(ids) - set(kept)
        with pytest.raises(CellError, match=f"lacks 1 of . patches, first '{gone}'"):
            load_rows(patches, embeddings)
