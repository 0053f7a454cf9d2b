"""Tables of older versions become today's when they are read; those of newer ones are refused."""

from __future__ import annotations

import json
import zipfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.comparing import views
from benchmark.errors import CellError
from benchmark.stages.evaluate.schemas import RANKING
from benchmark.store.artefacts import Artefact, Store
from benchmark.store.migrations import MIGRATIONS, VERSIONS, kind_of
from benchmark.store.names import beside
from tests.runs.test_old_store import ARCHIVE
from tests.store_document import KINDS, TABLES


@pytest.fixture
def scores(tmp_path: Path) -> Artefact:
    return Store(str(tmp_path)).artefact("evaluate", "toy", "0123456789abcdef")


def complete(artefact: Artefact, **tables: pa.Table) -> None:
    for name, table in tables.items():
        artefact.write_table(beside(name), table)
    artefact.commit({})


def change_versions(artefact: Artefact, versions: object) -> None:
    path = Path(artefact.file("_manifest.json"))
    manifest = {key: item for key, item in json.loads(path.read_text()).items() if key != "seal"}
    if versions is None:
        del manifest["schemas"]
    path.write_text(json.dumps(manifest if versions is None else manifest | {"schemas": versions}))


def test_tables_of_version_0_1_0_get_the_columns_of_today(tmp_path: Path) -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    (found,) = Store(str(tmp_path / "store")).artefacts("evaluate")
    files = {path.name: path for path in Path(found.path).iterdir()}
    before = {name: path.read_bytes() for name, path in files.items()}
    for name, column in (("ranking", "train_set"), ("comparison", "train_set")):
        assert column not in pq.read_schema(files[f"{name}.parquet"]).names
        table = found.read_table(names=[beside(name)])
        assert set(table[column].to_pylist()) == {"all"}
        assert found.read_table(names=[beside(name)], columns=[column]).column_names == [column]
    comparison = found.read_table(names=[beside("comparison")])
    assert comparison["method"].to_pylist() == ["finetune"]
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_a_manifest_says_the_versions_of_its_tables(scores: Artefact) -> None:
    complete(scores, ranking=RANKING.empty_table(), confusion=pa.table({"a": [1]}))
    assert scores.manifest()["schemas"] == {"confusion": 1, "ranking": 2}
    scores.write_table(beside("ranking"), RANKING.empty_table().drop_columns(["train_set"]))
    # Of today's version: nothing is added.
    assert "train_set" not in scores.read_table(names=[beside("ranking")]).column_names


@pytest.mark.parametrize("versions", [None, {"ranking": 1, "comparison": 1}])
def test_version_1_may_have_the_columns_already(scores: Artefact, versions: object) -> None:
    rows = {"train_set": "10%", "method": "finetune-lora", "backbone": "a"}
    complete(scores, comparison=pa.Table.from_pylist([rows]), ranking=pa.table({"rank": [1]}))
    change_versions(scores, versions)
    assert scores.read_table(names=[beside("comparison")]).to_pylist() == [rows]
    ranking = scores.read_table(names=[beside("ranking")])
    assert ranking.to_pylist() == [{"rank": 1, "train_set": "all"}]


def test_a_newer_version_is_refused_and_not_computed_again(scores: Artefact) -> None:
    complete(scores, ranking=RANKING.empty_table())
    change_versions(scores, {"ranking": 3, "table of later": 9})
    message = r"toy-0123456789abcdef: its table 'ranking' has schema version 3, and this program"
    read = partial(scores.read_table, names=[beside("ranking")])
    for use in (scores.manifest, scores.status, read):
        with pytest.raises(CellError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert scores.has("_manifest.json")


@pytest.mark.parametrize("versions", [[], {"ranking": "2"}, {"ranking": 0}])
def test_versions_that_are_none_are_refused(scores: Artefact, versions: object) -> None:
    complete(scores, ranking=RANKING.empty_table())
    change_versions(scores, versions)
    with pytest.raises(CellError, match="its manifest's 'schemas' holds no versions"):
        scores.manifest()


def test_every_table_of_the_store_has_a_version() -> None:
    assert TABLES.keys() == VERSIONS.keys()
    for kind in KINDS:
        for item in kind.items:
            file = item.pattern.replace("N.", "000001.")
            assert (kind_of(kind.stage, file) or "") == item.table


def test_tables_that_sql_reads_from_their_files_have_no_older_version() -> None:
    lazily = VERSIONS.keys() - {"scores", *views.BESIDE}
    assert not lazily & MIGRATIONS.keys()
