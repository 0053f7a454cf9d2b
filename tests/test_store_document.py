"""``docs/STORE.md`` is what the code says, and readers of Parquet read the folders as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from benchmark import tables
from benchmark.experiment.context import Context
from benchmark.stages.evaluate import schemas
from benchmark.store.names import HEAD, WEIGHTS, beside
from tests.stages.test_comparison import add_finetuned, add_head, draw, open_grid, run
from tests.store_document import DOCUMENT, TABLES, Table, matching, name_type, render

BLOCKS = re.findall(r"```python\n(.+?)```", render(), re.DOTALL)


def all_tables() -> dict[str, pa.Schema]:
    """Return every schema that the package writes, documented or not."""
    found = {
        f"{module.__name__}.{name}": value
        for module in (tables, schemas)
        for name, value in vars(module).items()
        if isinstance(value, pa.Schema)
    }
    return found | {name: table.schema for name, table in TABLES.items()}


@pytest.fixture(scope="module")
def store(
    open_small_session: Callable[..., Context], tmp_path_factory: pytest.TempPathFactory
) -> Context:
    """Return a store with predictions of two heads and a fine-tuning, and their scores."""

    def open_small(**settings: Any) -> Context:
        return open_small_session(store=tmp_path_factory.mktemp("store") / "runs", **settings)

    context, data = open_grid(open_small)
    for name, accuracy in (("knn", 0.6), ("mlp", 0.8)):
        add_head(context, data, name, accuracy=accuracy, val_score=accuracy)
    add_finetuned(context, data, draw(data, accuracy=0.9))
    for cell, name in zip(context.prediction_cells(), (HEAD, HEAD, WEIGHTS), strict=True):
        if cell.stage == "finetune":
            cell.artefact.begin({"plan": 1})
        cell.artefact.write_bytes(name, b"x")
        cell.artefact.commit(cell.artefact.manifest())
    run(context)
    return context


def test_the_document_is_made_from_the_code() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(), (
        "make it anew: python -m tests.store_document"
    )


@pytest.mark.parametrize("name", all_tables())
def test_every_column_says_what_it_means(name: str) -> None:
    for field in all_tables()[name]:
        meaning = (field.metadata or {}).get(tables.DESCRIPTION.encode(), b"").decode()
        assert len(meaning.split()) >= 2, field.name
        assert "|" not in meaning


def test_every_schema_is_in_the_document() -> None:
    documented = {tuple(table.schema.names) for table in TABLES.values()}
    # Candidates have one more column in the store.
    assert {tuple(item.names) for item in all_tables().values()} - documented == {
        tuple(tables.CANDIDATES.names)
    }


def test_meanings_change_no_schema() -> None:
    for item in all_tables().values():
        bare = pa.schema([field.remove_metadata() for field in item])
        assert item.equals(bare)
        assert hash(tuple(item.names)) == hash(tuple(bare.names))
        # Parts of an earlier version and of this one are one table.
        assert pa.concat_tables([item.empty_table(), bare.empty_table()]).num_rows == 0


READERS: dict[str, Callable[[str], int]] = {
    "pandas": lambda folder: len(pd.read_parquet(folder)),
    "pyarrow": lambda folder: pads.dataset(folder).count_rows(),
    "polars": lambda folder: len(_polars().read_parquet(f"{folder}/*.parquet")),
    "polars-pyarrow": lambda folder: len(_polars().read_parquet(folder, use_pyarrow=True)),
    "polars-scan": lambda folder: len(_polars().scan_parquet(f"{folder}/*.parquet").collect()),
    "duckdb": lambda folder: len(
        pytest.importorskip("duckdb").sql(f"from read_parquet('{folder}/*.parquet')").fetchall()
    ),
}


def _polars() -> Any:
    return pytest.importorskip("polars")


@pytest.mark.parametrize("reader", READERS)
def test_readers_of_parquet_read_every_folder_as_it_is(store: Context, reader: str) -> None:
    count = READERS[reader]
    artefacts = [store.patches, *(cell.artefact for cell in store.prediction_cells())]
    for artefact in artefacts:
        assert count(artefact.path) == artefact.read_table().num_rows > 0, artefact.folder
    scores = store.scores()
    assert count(scores.path) == scores.read_table(names=["scores.parquet"]).num_rows
    assert len(scores.files("_tables/")) == 5


@pytest.mark.parametrize("reader", ["pandas", "pyarrow", "polars", "duckdb"])
def test_all_cells_of_a_stage_are_one_table(store: Context, reader: str) -> None:
    cells = [cell.artefact for cell in store.prediction_cells() if cell.stage == "tune"]
    pattern = "tune/*" if reader in ("polars", "duckdb") else "tune"
    expected = sum(artefact.read_table().num_rows for artefact in cells)
    assert READERS[reader](f"{store.store.root}/{pattern}") == expected


def test_each_score_leads_to_its_cell(store: Context) -> None:
    scores = store.scores().read_table(names=["scores.parquet"]).to_pandas()
    cells = {(cell.method, cell.seed): cell.artefact for cell in store.prediction_cells()}
    assert len(scores) > 0
    for row in scores.itertuples():
        assert row.artefact == cells[row.method, row.seed].folder
    for folder in scores["artefact"].unique():
        assert len(pd.read_parquet(f"{store.store.root}/{folder}"))


def test_confusion_names_its_classes_and_ranking_its_metric(store: Context) -> None:
    confusion = store.scores().read_table(names=[beside("confusion")]).to_pandas()
    for row in confusion.itertuples():
        assert tuple(row.classes) == store.source.classes
        assert len(row.classes) == len(row.counts)
    ranking = store.scores().read_table(names=[beside("ranking")])
    assert ranking.schema.equals(schemas.RANKING)
    assert set(ranking["metric"].to_pylist()) == {"balanced_accuracy"}
    assert set(ranking["split"].to_pylist()) == {"test"}


def test_stored_tables_say_what_their_columns_mean(store: Context) -> None:
    for name in ("scores.parquet", *store.scores().files("_tables/")):
        field = pq.read_schema(store.scores().file(name)).field(0)
        assert field.metadata[tables.DESCRIPTION.encode()]


def test_every_file_of_the_store_is_described(store: Context) -> None:
    cells = [cell.artefact for cell in store.prediction_cells()]
    for artefact in (store.patches, *cells, store.scores()):
        for name in artefact.files():
            item = matching(artefact.stage, name)
            assert item is not None, f"{artefact.folder}/{name}"
            if item.table:
                assert_documented(pq.read_schema(artefact.file(name)), TABLES[item.table])
    for form in ("svg", "webp", "png"):
        assert matching("report", f"figure-03-confusion-a-b.{form}")
    assert matching("patches", "_tables/candidates-000123.parquet")
    assert not matching("patches", "part-x.parquet")


def assert_documented(found: pa.Schema, table: Table) -> None:
    """Compare a stored schema with the documented one, lengths of vectors aside."""
    assert found.names == table.schema.names
    for one, other in zip(found, table.schema, strict=True):
        assert name_type(one.type, table.letter) == name_type(other.type, table.letter), one.name


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_of_the_document_run(
    store: Context, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = BLOCKS[number]
    for library in ("polars", "duckdb"):
        if f"import {library}" in code:
            pytest.importorskip(library)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 5
    monkeypatch.chdir(Path(store.store.root).parent)
    found: dict[str, Any] = {}
    for name, artefact in (("FOLDER", store.scores()), ("PATCHES", store.patches)):
        code = code.replace(name, Path(artefact.path).name)
    exec(code, found)
    assert capsys.readouterr().out
    if "predictions" in found and "import pandas" in code:
        assert len(found["predictions"]) == len(store.prediction_cells()[0].artefact.read_table())
        assert found["best"]["method"].item() == "finetune"
    if "pixels" in found:
        assert found["pixels"].shape == (400, 1, 8, 8)
        assert found["pixels"].dtype == np.uint8
