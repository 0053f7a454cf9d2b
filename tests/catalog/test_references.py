"""Published results are read from a file, checked, and found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.references import REFERENCES, read_reference, resolve_reference
from benchmark.config import build
from benchmark.errors import UsageError
from benchmark.references import balanced_accuracy

GOOD = """
title = "A paper"
source = "Table 2"
classes = ["field", "water"]

[[rows]]
name = "one"
value = 0.75
backbone = "random"
method = "knn"
confusion = [[3, 1], [1, 3]]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "paper.toml"
    path.write_text(text)
    return str(path)


def asking(**report: Any) -> Any:
    content = {"name": "toy", "backbones": ["random"], "heads": ["knn"]}
    return build({**content, "dataset": {"name": "folder", "root": "x"}, "report": report})


def test_a_file_is_read(tmp_path: Path) -> None:
    found = read_reference(written(tmp_path, GOOD))
    assert (found.title, found.metric, found.dataset) == ("A paper", "balanced_accuracy", None)
    (row,) = found.rows
    assert (row.backbone, row.method, row.confusion) == ("random", "knn", ((3, 1), (1, 3)))


@pytest.mark.parametrize("reference", REFERENCES, ids=REFERENCES.names())
def test_every_published_score_is_that_of_its_matrix_and_names_a_counterpart(
    reference: Any,
) -> None:
    for row in reference.rows:
        assert row.backbone and row.method
        assert row.confusion and balanced_accuracy(row.confusion) == pytest.approx(
            row.value, abs=5e-4
        )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("0.75", "75.0", r"'rows\.1\.value' = 75\.0: .*less than or equal to 1"),
        ("0.75", "0.80", r"'rows\.1': the balanced accuracy of its confusion matrix is 0\.7500"),
        ("0.75", "nan", r"'rows\.1\.value' = nan: .*finite"),
        ("[[3, 1], [1, 3]]", "[[3, 1], [1, -3]]", r"'rows\.1\.confusion\.2\.2' = -3"),
        ("[[3, 1], [1, 3]]", "[[3, 1], [1]]", "at least 2 items"),
        ("[[3, 1], [1, 3]]", "[[3, 1, 0], [1, 3, 0]]", "not square"),
        ('["field", "water"]', '["field"]', "'one' has 2 classes, and 'classes' names 1"),
        ('method = "knn"', "", "name 'backbone' and 'method', or neither"),
        ('source = "Table 2"', "", "the setting 'source' is missing"),
        ('source = "Table 2"', 'sauce = "Table 2"', "'so?a?u?rce' is missing|'sauce'"),
        ("[[rows]]", 'metric = "accuracy"\n[[rows]]', "'metric' = 'accuracy'.*balanced_accuracy"),
        ("title", "title = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UsageError, match=words) as caught:
        read_reference(path, where="toy.toml [report]")
    text = str(caught.value)
    assert text.startswith(f"toy.toml [report]: reference '{path}'")
    assert "\n" not in text and len(text) < 1000


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml': cannot be read: No such file"):
        resolve_reference(asking(reference=str(tmp_path / "none.toml")))
    with pytest.raises(UsageError, match="cannot be read: it is a directory"):
        (tmp_path / "folder.toml").mkdir()
        resolve_reference(asking(reference=str(tmp_path / "folder.toml")))
    with pytest.raises(UsageError, match="Did you mean 'chesapeake_study'"):
        resolve_reference(asking(reference="chesapeak_study"))


@pytest.mark.parametrize(
    ("row", "cell", "words"),
    [
        ("two", "random / knn", "no row of the reference has this name"),
        ("one", "random", "write BACKBONE / METHOD"),
        ("one", "randon / knn", "backbone 'randon' is not in the experiment.*'random'"),
        ("one", "random / finetune", "method 'finetune' is not in the experiment"),
    ],
)
def test_a_counterpart_that_is_none_is_refused(
    tmp_path: Path, row: str, cell: str, words: str
) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(UsageError, match=words):
        resolve_reference(asking(reference=path, counterparts={row: cell}))


def test_counterparts_need_a_reference(tmp_path: Path) -> None:
    assert resolve_reference(asking()) is None
    with pytest.raises(UsageError, match="'counterparts' needs 'reference'"):
        resolve_reference(asking(counterparts={"one": "random / knn"}))
    path = written(tmp_path, GOOD)
    found = resolve_reference(asking(reference=path, counterparts={"one": "random / knn"}))
    assert found is not None and found.title == "A paper"
