"""Columns are what the schemas say, without copies, in every reader that people use."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.store.artefacts import Artefact, Store
from benchmark.tables import (
    CANDIDATES,
    SCORES,
    TRIALS,
    check_table,
    embeddings_column,
    images_array,
    images_column,
    patches_schema,
    predictions_schema,
    vectors_array,
)

GENERATOR = np.random.default_rng(0)
N, D, K = 7, 12, 3


def candidates(n: int = N) -> pa.Table:
    return pa.table(
        {
            "patch_id": [f"patch-{i}" for i in range(n)],
            "split": ["train"] * n,
            "label": [i % K for i in range(n)],
            "scene": [None] * n,
            "region": [None] * n,
            "row": [None] * n,
            "col": [None] * n,
            "lon": [None] * n,
            "lat": [None] * n,
            "purity": [1.0] * n,
        },
        schema=CANDIDATES,
    )


SHAPE = (4, 5, 6)


def pixels(n: int = N) -> np.ndarray:
    return GENERATOR.integers(0, 256, (n, 4, 5, 6), np.uint8)


@pytest.fixture
def artefact(tmp_path: Path) -> Artefact:
    return Store(str(tmp_path)).artefact("embed", "toy", "0" * 16)


@pytest.fixture
def vectors() -> np.ndarray:
    return GENERATOR.normal(size=(N, D)).astype(np.float32)


@pytest.fixture
def path(artefact: Artefact, vectors: np.ndarray) -> str:
    table = pa.table(
        {
            "patch_id": [f"patch-{i}" for i in range(N)],
            "embedding": embeddings_column(vectors),
        }
    )
    artefact.write_table("part-000000.parquet", table)
    return artefact.file("part-000000.parquet")


def test_a_table_is_returned_in_the_order_and_types_of_the_schema() -> None:
    table = candidates().cast(
        pa.schema([CANDIDATES.field(i).with_nullable(True) for i in range(len(CANDIDATES))])
    )
    shuffled = table.select(table.column_names[::-1]).set_column(
        table.column_names[::-1].index("label"), "label", table["label"].cast(pa.int64())
    )
    checked = check_table(shuffled.append_column("more", table["label"]), CANDIDATES, what="x")
    assert checked.schema.equals(CANDIDATES)
    assert checked["label"].to_pylist() == table["label"].to_pylist()


def test_missing_columns_are_named() -> None:
    table = candidates().drop_columns(["label", "lat"])
    with pytest.raises(ValueError, match=r"^candidates of x: missing column label, lat$"):
        check_table(table, CANDIDATES, what="candidates of x")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("label", pa.array(["a"] * N)),
        ("label", pa.array([0.5] * N)),
        ("label", pa.array([2**40] * N)),
        ("purity", pa.array([{"a": 1}] * N)),
    ],
)
def test_a_column_of_another_type_is_an_error(name: str, values: pa.Array) -> None:
    table = candidates()
    table = table.set_column(table.column_names.index(name), name, values)
    with pytest.raises(ValueError, match=r"^x: "):
        check_table(table, CANDIDATES, what="x")


@pytest.mark.parametrize("name", ["patch_id", "split", "label"])
def test_nulls_are_an_error_where_there_must_be_none(name: str) -> None:
    table = candidates()
    field = CANDIDATES.field(name).with_nullable(True)
    values = pa.array([None, *table[name].to_pylist()[1:]], field.type)
    table = table.set_column(table.column_names.index(name), field, values)
    with pytest.raises(ValueError, match=f"^x: .*'{name}'.* null"):
        check_table(table, CANDIDATES, what="x")


def test_nulls_are_allowed_where_a_data_set_may_not_know() -> None:
    assert check_table(candidates(), CANDIDATES, what="x")["scene"].null_count == N


def test_a_duplicate_patch_id_is_an_error() -> None:
    table = pa.concat_tables([candidates(4), candidates(2)])
    with pytest.raises(ValueError, match=r"^x: 2 patch_id are duplicates$"):
        check_table(table, CANDIDATES, what="x")


def test_a_table_without_patch_id_needs_no_unique_rows() -> None:
    row = {"trial": 0, "params": "{}", "seconds": 1.0, "state": "complete"}
    table = pa.Table.from_pylist([row, row], schema=TRIALS)
    assert check_table(table, TRIALS, what="x").num_rows == 2


def test_an_empty_table_is_a_table() -> None:
    assert check_table(SCORES.empty_table(), SCORES, what="x").num_rows == 0
    assert check_table(CANDIDATES.empty_table(), CANDIDATES, what="x").num_rows == 0


def test_embeddings_of_another_width_do_not_fit_the_predictions(vectors: np.ndarray) -> None:
    table = pa.table(
        {
            "patch_id": [str(i) for i in range(N)],
            "y_pred": np.zeros(N, np.int32),
            "y_score": embeddings_column(vectors),
        }
    )
    with pytest.raises(ValueError, match=r"^predictions: "):
        check_table(table, predictions_schema(K), what="predictions")


def test_images_become_a_column_and_back_without_a_copy() -> None:
    images = pixels()
    column = images_column(images)
    back = images_array(pa.chunked_array([column]), SHAPE)
    assert np.shares_memory(images, back)
    np.testing.assert_array_equal(back, images)
    assert back.dtype == np.uint8
    assert not back.flags.writeable


def test_images_that_are_not_contiguous_are_kept_as_they_look() -> None:
    images = pixels()[:, :, ::-1]
    np.testing.assert_array_equal(
        images_array(pa.chunked_array([images_column(images)]), SHAPE), images
    )


def test_images_of_several_chunks_are_joined_in_order() -> None:
    one, other = pixels(3), pixels(2)
    column = pa.chunked_array([images_column(one), images_column(other)])
    np.testing.assert_array_equal(images_array(column, SHAPE), np.concatenate([one, other]))


@pytest.mark.parametrize("start", [0, 2, 6])
def test_a_slice_of_images_is_read_from_where_it_begins(start: int) -> None:
    images = pixels()
    column = pa.chunked_array([images_column(images)]).slice(start)
    np.testing.assert_array_equal(images_array(column, SHAPE), images[start:])


def test_no_images_are_an_empty_array_of_the_shape() -> None:
    column = pa.chunked_array([images_column(pixels(0))])
    assert images_array(column, SHAPE).shape == (0, 4, 5, 6)


def test_the_image_column_of_patches_has_a_shape_that_survives_parquet(artefact: Artefact) -> None:
    images = GENERATOR.integers(0, 256, (N, 4, 8, 8), np.uint8)
    schema = patches_schema(4, 8)
    table = candidates().append_column(schema.field("image"), images_column(images))
    artefact.write_table("part-000000.parquet", check_table(table, schema, what="patches"))
    read = artefact.read_table()
    assert read.schema.equals(schema)
    shape = tuple(json.loads(read.schema.field("image").metadata[b"shape"]))
    assert shape == (4, 8, 8)
    np.testing.assert_array_equal(images_array(read["image"], shape), images)
    stored = sum(path.stat().st_size for path in Path(artefact.path).iterdir())
    assert stored < 1.2 * images.nbytes + 10_000


def test_images_of_another_shape_are_refused() -> None:
    column = pa.chunked_array([images_column(pixels())])
    with pytest.raises(ValueError, match=r"images of 120 bytes do not have shape"):
        images_array(column, (4, 8, 8))


def test_a_patch_of_another_size_does_not_fit_the_schema() -> None:
    table = candidates().append_column("image", images_column(pixels()))
    with pytest.raises(ValueError, match=r"^patches: "):
        check_table(table, patches_schema(4, 8), what="patches")


def test_embeddings_are_one_array_without_a_copy(vectors: np.ndarray) -> None:
    column = embeddings_column(vectors)
    assert column.type == pa.list_(pa.float32(), D)
    assert np.shares_memory(column.flatten().to_numpy(zero_copy_only=True), vectors)


def test_embeddings_of_another_dtype_become_float32(vectors: np.ndarray) -> None:
    column = embeddings_column(vectors.astype(np.float64))
    assert column.type == pa.list_(pa.float32(), D)
    np.testing.assert_array_equal(vectors_array(pa.chunked_array([column])), vectors)


@pytest.mark.parametrize("start", [0, 3])
def test_vectors_of_chunks_and_slices_are_one_array(vectors: np.ndarray, start: int) -> None:
    column = pa.chunked_array([embeddings_column(vectors[:4]), embeddings_column(vectors[4:])])
    np.testing.assert_array_equal(vectors_array(column.slice(start)), vectors[start:])


def test_no_vectors_are_an_empty_array() -> None:
    column = pa.chunked_array([], type=pa.list_(pa.float32(), D))
    assert vectors_array(column).shape == (0, D)


def test_plain_pyarrow_reads_embeddings_as_a_fixed_size_list(
    path: str, vectors: np.ndarray
) -> None:
    table = pq.read_table(path, partitioning=None)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), D)
    np.testing.assert_array_equal(vectors_array(table["embedding"]), vectors)


def test_pandas_reads_embeddings_as_rows_of_float32(path: str, vectors: np.ndarray) -> None:
    frame = pd.read_parquet(path, partitioning=None)
    assert frame["embedding"].iloc[0].dtype == np.float32
    np.testing.assert_array_equal(np.stack(frame["embedding"].to_list()), vectors)


def test_polars_reads_embeddings_as_one_array(path: str, vectors: np.ndarray) -> None:
    frame = pl.read_parquet(path, hive_partitioning=False)
    assert frame.schema["embedding"] == pl.Array(pl.Float32, D)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), vectors)


def test_duckdb_reads_embeddings_as_lists_of_float(path: str, vectors: np.ndarray) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT embedding FROM '{path}' ORDER BY patch_id")
        assert str(found.description[0][1]) in {"list", f"FLOAT[{D}]", "FLOAT[]"}
        rows = [row[0] for row in found.fetchall()]
        np.testing.assert_array_equal(np.array(rows, np.float32), vectors)
        (norm,) = connection.execute(
            f"SELECT list_sum(list_transform(embedding, lambda x: x * x)) FROM '{path}' LIMIT 1"
        ).fetchone()
    assert norm == pytest.approx(float((vectors[0] ** 2).sum()), rel=1e-5)


def test_the_artefact_reads_embeddings_as_one_array(
    artefact: Artefact, path: str, vectors: np.ndarray
) -> None:
    assert path == artefact.file("part-000000.parquet")
    read = vectors_array(artefact.read_table()["embedding"])
    assert read.shape == (N, D)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, vectors)


def test_predictions_hold_no_labels() -> None:
    assert predictions_schema(K).names == ["patch_id", "y_pred", "y_score"]


def test_scores_have_the_columns_of_design() -> None:
    assert SCORES.names == [
        "dataset",
        "backbone",
        "method",
        "train_set",
        "seed",
        "split",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "num_patches",
        "fingerprint",
        "artefact",
    ]
