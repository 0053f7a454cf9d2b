"""Tables of embeddings: columns are found, rows matched, and what is wrong is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from benchmark.catalog.backbones import find_backbone
from benchmark.catalog.contracts.checking import check_entry
from benchmark.catalog.names import resolve_backbones
from benchmark.catalog.own.public import CATALOGS
from benchmark.catalog.products.matching import Matched, Wanted
from benchmark.catalog.products.tables import TableProduct
from benchmark.config import build
from benchmark.errors import CellError, UsageError
from benchmark.experiment.file import _options
from benchmark.options import BackboneOptions
from benchmark.specs import Backbone
from tests.object_store import BUCKET, KEYS, serve_objects
from tests.ranges import first_times, serve

IDS = [f"scene-{number:03d}" for number in range(50)]
VECTORS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=20)
    return path


def write_csv(path: Path, ids: Sequence[Any] = IDS, vectors: Any = VECTORS) -> Path:
    """Write NeuCo-Bench's layout."""
    lines = [
        ",".join(map(str, [name, *row])) for name, row in zip(ids, vectors.tolist(), strict=True)
    ]
    path.write_text("\n".join(["id," + ",".join(map(str, range(vectors.shape[1]))), *lines]) + "\n")
    return path


def open_product(path: Path | str, **options: Any) -> TableProduct:
    given = BackboneOptions(**options) if options else None
    product = find_backbone(f"embeddings:{path}", where="x.toml", options=given).product
    assert isinstance(product, TableProduct)
    return product


def match(product: TableProduct, patch_ids: Sequence[str]) -> Matched:
    wanted = pickle.loads(pickle.dumps(Wanted(patch_ids)))
    found = [np.empty((0, 4), np.int64)]
    for number, piece in enumerate(product.pieces()):
        rows = wanted.find(product.identifiers(piece))
        found.append(np.column_stack([rows, np.full(len(rows), number)]))
    return wanted.choose(np.concatenate(found), "x.toml", lambda: "an-identifier")


def take(product: TableProduct, patch_ids: Sequence[str]) -> tuple[str, np.ndarray[Any, Any]]:
    """Return the rule, and the vector of each patch."""
    matched, pieces = match(product, patch_ids), product.pieces()
    found = [
        np.concatenate(list(product.vectors(pieces[piece], np.array([row]))))
        for piece, row in zip(matched.pieces, matched.rows, strict=True)
    ]
    return matched.rule, np.concatenate(found)


def all_vectors(product: TableProduct) -> np.ndarray[Any, Any]:
    rows = np.arange(50)
    return np.concatenate([v for it in product.pieces() for v in product.vectors(it, rows)])


def _lists(path: Path) -> Path:
    return write_parquet(path / "a.parquet", label=[1] * 50, id=IDS, e=list(VECTORS))


def _fixed(path: Path) -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.astype(np.float64).ravel()), 6)
    names = pa.array(IDS).dictionary_encode()
    return write_parquet(path / "a.geoparquet", patch_id=names, geometry=[b"x"] * 50, e=vectors)


def _numbered(path: Path) -> Path:
    numbers = {f"A{number:02d}": VECTORS[:, number] for number in range(6)}
    return write_parquet(path / "a.parquet", name=IDS, lon=VECTORS[:, 0], **numbers)


def _npz(path: Path) -> Path:
    np.savez(path / "a.npz", id=np.array(IDS), vectors=VECTORS)
    return path / "a.npz"


def _compressed(path: Path) -> Path:
    np.savez_compressed(path / "a.npz", names=np.array(IDS), x=VECTORS.astype(">f8"))
    return path / "a.npz"


def _csv(path: Path) -> Path:
    return write_csv(path / "A.CSV")


def _folder(path: Path) -> Path:
    folder = path / "product"
    (folder / "year=2024").mkdir(parents=True)
    write_parquet(folder / "year=2024" / "b.parquet", id=IDS[:30], e=list(VECTORS[:30]))
    write_parquet(folder / "c.parquet", id=IDS[30:], e=list(VECTORS[30:]))
    (folder / "_SUCCESS.parquet").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "write",
    [_lists, _fixed, _numbered, _npz, _compressed, _csv, _folder],
    ids=lambda it: it.__name__,
)
def test_every_form_gives_the_vectors_of_its_rows(
    tmp_path: Path, write: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.catalog.products.tables.BATCH_BYTES", 7 * 4 * 6)
    product = pickle.loads(pickle.dumps(open_product(write(tmp_path))))
    order = [49, 3, 0, 31, 7]
    rule, found = take(product, [IDS[number] for number in order])
    assert rule == "the whole patch_id"
    assert product.dim == 6
    np.testing.assert_allclose(found, VECTORS[order], rtol=1e-6)
    assert found.dtype == np.float32
    (piece, *_) = product.pieces()
    count = sum(map(len, product.identifiers(piece)))
    whole = np.concatenate(list(product.vectors(piece, np.arange(count))))
    assert whole.shape == (count, 6)


def test_the_backbone_has_no_network_and_is_known_by_its_content(tmp_path: Path) -> None:
    path = _lists(tmp_path)
    backbone = find_backbone(f"embeddings:{path}")
    assert (backbone.dim, backbone.num_parameters, backbone.is_trainable) == (6, 0, False)
    with pytest.raises(UsageError, match="no network"):
        backbone.build(3)
    revision = backbone.revision()
    other = path.rename(tmp_path / "other.parquet")
    moved = find_backbone("mine", options=BackboneOptions(model=f"embeddings:{other}"))
    assert (moved.name, moved.identity, moved.slug) == ("mine", "embeddings:", "embeddings")
    assert moved.revision() == revision
    # Other columns of the same file are another product.
    write_parquet(other, id=IDS, e=list(VECTORS), f=list(VECTORS))
    first, second = (open_product(other, vector_columns=[name]).revision() for name in "ef")
    assert len({first, second, revision}) == 3


def test_columns_may_be_named_by_patterns(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet",
        **{"key": IDS, "id": IDS[::-1], "x_b": VECTORS[:, 0], "x_a": VECTORS[:, 1]},
    )
    product = open_product(path, id_column="key", vector_columns=["x_*"])
    assert product.columns.vectors == ("x_b", "x_a")
    np.testing.assert_array_equal(take(product, IDS[:2])[1], VECTORS[:2, :2])


@pytest.mark.parametrize(
    ("ids", "patch_ids", "rule"),
    [
        (["a", "b"], ["b", "a"], "the whole patch_id"),
        (["x/a.tif", "b.tif"], ["y/b.tif", "z/a.tif"], "the file name"),
        (["C:\\x\\a.tif", "b.tif"], ["b.tif", "a.tif"], "the file name"),
        (["x/a.npy", "b.png"], ["b.TIF", "z/a.jpeg"], "the file name without extension"),
        ([1, 20], ["20", "1"], "the whole patch_id"),
    ],
)
def test_the_strictest_rule_that_finds_all_patches_is_used(
    tmp_path: Path, ids: list[Any], patch_ids: list[str], rule: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", id=ids, e=list(VECTORS[:2]))
    found_rule, found = take(open_product(path), patch_ids)
    assert found_rule == rule
    np.testing.assert_array_equal(found, VECTORS[[1, 0]])


def test_identifiers_of_csv_keep_their_zeros(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [f"{number:05d}" for number in range(50)])
    np.testing.assert_allclose(take(open_product(path), ["00007"])[1], VECTORS[7:8], rtol=1e-6)


@pytest.mark.parametrize(
    ("ids", "patch_ids", "words"),
    [
        (["a", "b", "c"], ["a", "x", "y", "b"], r"2 of 4 patches have no row .*'x', 'y'"),
        (["a", "b", "a"], ["a", "b"], r"1 patches have several rows .*'a'"),
        (["p/a.tif", "q/a.tif"], ["a.tif"], r"several rows by the file name \('a.tif'\)"),
        ([7, 8, 9], ["007", "008"], r"none .* like 'an-identifier', .* '007'.*id_column"),
        # A shorter name would make two patches one.
        (["a.tif"], ["x/a.tif", "y/a.tif"], "none of its identifiers"),
        # What follows the last dot is no extension of an image.
        (["tile.A1"], ["tile.B2"], "none of its identifiers"),
    ],
)
def test_identifiers_that_do_not_fit_are_refused(
    tmp_path: Path, ids: list[Any], patch_ids: list[str], words: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", id=ids, e=list(VECTORS[: len(ids)]))
    with pytest.raises(UsageError, match=words):
        match(open_product(path), patch_ids)


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"id": IDS, "e": list(VECTORS), "f": list(VECTORS)}, {}, r"\['e', 'f'\].*vector_columns"),
        ({"id": IDS, "lon": VECTORS[:, 0], "lat": VECTORS[:, 1]}, {}, "no column of lists, and no"),
        ({"id": IDS, "text": IDS}, {}, "no column of lists, and no numbered"),
        (
            {"id": IDS, **{f"{k}{n}": VECTORS[:, n] for k in "ab" for n in range(3)}},
            {},
            "several series",
        ),
        (
            {"id": IDS, "x0": VECTORS[:, 0], "x1": VECTORS[:, 1], "x2": IDS},
            {},
            r"\['x2'\] holds string, beside the numbers of 'x0' to 'x1'",
        ),
        ({"e": list(VECTORS)}, {}, "no column of identifiers"),
        ({"id": IDS, "name": IDS, "e": list(VECTORS)}, {}, r"\['id', 'name'\].*'id_column'"),
        ({"t1": IDS, "t2": IDS, "e": list(VECTORS)}, {}, r"\['t1', 't2'\].*'id_column'"),
        ({"id": VECTORS[:, 0], "e": list(VECTORS)}, {}, "holds float"),
        (
            {"id": IDS, "e": list(VECTORS)},
            {"id_column": "idd"},
            "no column 'idd'. Did you mean 'id'",
        ),
        ({"id": IDS, "e": list(VECTORS)}, {"vector_columns": ["x*"]}, "no column is 'x\\*'"),
        ({"id": IDS, "t": IDS, "e": [0] * 50}, {"vector_columns": ["t"]}, "'t' holds string"),
        (
            {"id": IDS, "e": list(VECTORS), "f1": VECTORS[:, 0]},
            {"vector_columns": ["e", "f1"]},
            r"\['e'\] are among several",
        ),
    ],
)
def test_columns_that_are_not_clear_are_refused(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(UsageError, match=words) as caught:
        open_product(path, **options)
    assert str(caught.value).startswith("x.toml: backbone 'embeddings:")


def test_ten_thousand_columns_are_read(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).normal(size=(3, 10_000)).astype(np.float32)
    product = open_product(write_csv(tmp_path / "a.csv", IDS[:3], wide))
    assert product.dim == 10_000
    np.testing.assert_allclose(take(product, IDS[:3])[1], wide, rtol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0, 2.0], [1.0, float("nan")], [1.0, 2.0]], "empty, NaN or infinite .*'scene-001'"),
        ([[1.0, 2.0], [1e300, 2.0], [1.0, 2.0]], "empty, NaN or infinite .*'scene-001'"),
        ([[1.0, 2.0], [1.0, None], [1.0, 2.0]], "empty, NaN or infinite .*'scene-001'"),
        ([[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]], "another length, first 1;.*is 2 .*'scene-001', 'sc"),
        ([[1.0, 2.0], None, [1.0, 2.0]], "another length, first 0"),
    ],
)
def test_vectors_that_cannot_be_used_are_named(
    tmp_path: Path, vectors: list[Any], words: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", id=IDS[:3], e=pa.array(vectors))
    with pytest.raises(UsageError, match=words):
        all_vectors(open_product(path))
    # A row that no patch needs does not matter.
    assert len(take(open_product(path), IDS[:1])[1]) == 1


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def test_files_that_stop_in_the_middle_are_refused(tmp_path: Path) -> None:
    for path in (_cut(_lists(tmp_path)), _cut(_npz(tmp_path))):
        with pytest.raises(UsageError, match=rf"'{path.name}' is damaged .*; correct or replace"):
            open_product(path)
    with pytest.raises(UsageError, match=r"'A.CSV' is damaged .* Expected 7 columns"):
        open_product(_cut(_csv(tmp_path)))


def test_files_that_are_not_there_or_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("id,0\n")
    (tmp_path / "empty.csv").write_text("")
    np.savez(tmp_path / "objects.npz", id=np.array(IDS, object), e=VECTORS)
    np.savez(tmp_path / "uneven.npz", id=np.array(IDS[1:]), e=VECTORS)
    mixed = _folder(tmp_path)
    for name, words in (
        ("none.csv", "no file or folder .*none.csv"),
        ("a.txt", "'a.txt' has none of the suffixes .parquet"),
        ("empty.csv", "'empty.csv' is damaged"),
        ("objects.npz", "no column of identifiers"),
        ("uneven.npz", "different lengths"),
    ):
        with pytest.raises(UsageError, match=words):
            open_product(tmp_path / name)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="holds no such files"):
        open_product(tmp_path / "nothing")
    write_parquet(mixed / "z.parquet", id=IDS, other=list(VECTORS))
    with pytest.raises(UsageError, match=r"'z.parquet' lacks the columns \['e'\]"):
        open_product(mixed).pieces()
    write_csv(mixed / "z.csv")
    with pytest.raises(UsageError, match=r"several kinds \(.csv, .parquet\)"):
        open_product(mixed)


def test_options_of_networks_and_secrets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'image_size' does not apply .*id_column"):
        open_product(_lists(tmp_path), image_size=64)
    with pytest.raises(UsageError, match="'id_column' does not apply"):
        find_backbone("mean_color", options=BackboneOptions(id_column="id"))
    with pytest.raises(UsageError, match="password") as caught:
        open_product("https://user:geheim@example.org/a.parquet")
    assert "geheim" not in str(caught.value)


def test_the_checks_of_a_product_name_doubled_identifiers(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", id=[*IDS[:49], IDS[0]], e=list(VECTORS))
    results = check_entry(f"embeddings:{path}", CATALOGS, settings={"id_column": "id"})
    failed = {item.name: item.reason for item in results if not item.is_ok}
    assert failed == {"has unique identifiers": "the identifier 'scene-000' is in two rows"}


def test_a_web_server_sends_the_row_groups_that_are_needed(tmp_path: Path) -> None:
    names = [f"row-{number:06d}" for number in range(40_000)]
    vectors = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    pq.write_table(
        pa.table({"id": names, "more": list(vectors), "e": list(vectors)}),
        tmp_path / "a.parquet",
        row_group_size=5_000,
    )
    wanted = [12_345, 12_346]
    with serve(tmp_path) as server:
        product = open_product(f"{server.url}/a.parquet", vector_columns=["e"])
        assert (
            product.revision()
            == open_product(f"{server.url}/a.parquet", vector_columns=["e"]).revision()
        )
        np.testing.assert_array_equal(
            take(product, [names[number] for number in wanted])[1], vectors[wanted]
        )
        # Two reads of one of eight row groups, one of three columns, and all identifiers.
        assert server.num_bytes() < 0.5 * (tmp_path / "a.parquet").stat().st_size
        with pytest.raises(UsageError, match=r"no file 'b.parquet'"):
            open_product(f"{server.url}/b.parquet")
        with pytest.raises(UsageError, match=r"a web server cannot be listed"):
            open_product(server.url)
        server.faults.has_tags = False
        with pytest.raises(UsageError, match="neither ETag nor Last-Modified"):
            open_product(f"{server.url}/a.parquet", vector_columns=["e"]).revision()


def test_a_server_that_fails_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    path = _lists(tmp_path)
    with serve(tmp_path) as server:
        product = open_product(f"{server.url}/{path.name}")
        server.faults.status = first_times(2, 503)
        assert take(product, IDS[:1])[0] == "the whole patch_id"
        server.faults.status = lambda method, path: 403
        with pytest.raises(UsageError, match=r"'a.parquet': access denied"):
            product.pieces()
        server.faults.status = lambda method, path: 500
        with pytest.raises(CellError, match="the server fails"):
            product.pieces()


def test_files_of_a_bucket_are_listed_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    folder = _folder(tmp_path)
    with serve_objects() as objects:
        fs = pafs.S3FileSystem(
            endpoint_override=objects.direct.partition("://")[2],
            scheme="http",
            access_key=KEYS["AWS_ACCESS_KEY_ID"],
            secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        pafs.copy_files(str(folder), f"{BUCKET}/product", destination_filesystem=fs)
        product = open_product(objects.uri("product"))
        assert product.files == ("c.parquet", "year=2024/b.parquet")
        one = open_product(objects.uri("product/c.parquet"))
        assert (one.label, one.files) == ("c.parquet", ("c.parquet",))
        product = pickle.loads(pickle.dumps(product))
        np.testing.assert_array_equal(take(product, [IDS[3], IDS[40]])[1], VECTORS[[3, 40]])
        assert product.revision() != one.revision()


def resolve(table: dict[str, Any], *names: str) -> tuple[Backbone, ...]:
    content = {"name": "x", "backbones": names, "dataset": {"name": "x", "root": "x"}}
    return resolve_backbones(build({**content, "backbone": table}), where="x.toml")


def test_an_experiment_that_is_kept_finds_its_product_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _npz(tmp_path)
    monkeypatch.chdir(tmp_path)
    name = f"embeddings:{path.name}"
    (backbone,) = resolve({}, name)
    kept = _options(SimpleNamespace(backbones=(backbone,)), {})  # type: ignore[arg-type]
    assert kept == {name: {"model": f"embeddings:{path}"}}
    monkeypatch.chdir("/")
    (again,) = resolve(kept, name)
    assert (again.name, again.revision()) == (name, backbone.revision())
    with pytest.raises(UsageError, match="'a' and 'b' are the same embeddings"):
        resolve({key: {"model": f"embeddings:{path}"} for key in "ab"}, "a", "b")
    with pytest.raises(UsageError, match="names no file"):
        resolve({}, "embeddings:")
