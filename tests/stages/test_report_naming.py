"""Names of the page: short and different, in tables, cells and sentences."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmark.config import build
from benchmark.errors import UsageError
from benchmark.options import ANY_BACKBONE, BackboneOptions, short_names
from benchmark.stages.report.naming import Naming
from tests.experiment.test_context import context, prints


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["random", "timm:resnet50.a1_in1k"], ["random", "timm:resnet50.a1_in1k"]),
        (["hf:/data/models/vit"], ["vit"]),
        (["hf:facebook/dinov2-base@v1"], ["dinov2-base@v1"]),
        (["hf:/a/net/", "hf:/b/net"], ["a/net", "b/net"]),
        (["hf:x/net", "hf:/x/net"], ["hf:x/net", "hf:/x/net"]),
        (["hf:/a/b/net", "hf:/c/b/net", "hf:b/net"], ["a/b/net", "c/b/net", "hf:b/net"]),
        (["random", "hf:/a/random"], ["random", "a/random"]),
        (["embeddings:/data/rows.parquet"], ["rows.parquet"]),
        (["hf:/"], ["hf:/"]),
    ],
)
def test_names_are_the_last_part_of_a_path_and_longer_where_two_are_equal(names, expected):
    assert list(short_names(names, {}).values()) == expected


def test_a_name_that_is_set_is_kept_and_others_make_way():
    options = {"hf:/a/net": BackboneOptions(name="net"), "random": BackboneOptions(name="none")}
    names = ["hf:/b/net", "hf:/a/net", "random"]
    assert list(short_names(names, options).values()) == ["b/net", "net", "none"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"random": {"name": "mean_color"}}, r"'name' = 'mean_color' is the name of another"),
        ({"random": {"name": "x"}, "mean_color": {"name": "x"}}, r"'name' = 'x' is the name of an"),
        ({"random": {"name": ANY_BACKBONE}}, r"is the name of what depends on no backbone"),
        ({"random": {"name": ""}}, r"'name' = '': has 0 characters"),
        ({"random": {"name": "x" * 61}}, r"'name' = 'xxx.* should have at most 60 characters"),
        ({"random": {"name": "a\nb"}}, r"contains the control character"),
    ],
)
def test_two_backbones_with_one_name_are_refused(experiment_content, given, words):
    content = {**experiment_content, "backbones": ["random", "mean_color"], "backbone": given}
    with pytest.raises(UsageError, match=words):
        build(content)


def ranking(**changes):
    rows = {
        "train_set": "all",
        "backbone": ["hf:/a/net", "random", "hf:/a/net", "random"],
        "method": ["knn", "knn", "majority", "majority"],
        "value": [0.9, 0.5, 0.25, 0.25],
        "num_seeds": 1,
    }
    return pd.DataFrame({**rows, **changes})


def naming(rows, heads=("majority",)):
    return Naming({"hf:/a/net": "net", "random": "untrained"}, heads, rows)


def test_a_head_that_reads_no_embeddings_has_one_row():
    found = naming(ranking()).table(ranking())
    assert found[["backbone", "method"]].to_numpy().tolist() == [
        ["net", "knn"],
        ["untrained", "knn"],
        [ANY_BACKBONE, "majority"],
    ]
    more = ranking(num_seeds=[1, 1, 1, 2])
    assert naming(more).kept == {"majority": "random"}


def test_a_head_whose_scores_differ_by_backbone_keeps_its_rows():
    rows = ranking(value=[0.9, 0.5, 0.25, 0.26])
    found = naming(rows).table(rows)
    assert found["backbone"].tolist() == ["net", "untrained", "net", "untrained"]


def test_sentences_have_the_names_of_the_page():
    say = naming(ranking()).sentence
    assert say("With hf:/a/net, it gains.") == "With net, it gains."
    assert say("random / knn is at chance.") == "untrained / knn is at chance."
    assert say("Best: fine-tuned random.") == "Best: fine-tuned untrained."
    # A word of the sentence, not a backbone.
    assert say("The split is random, with random order.") == (
        "The split is random, with random order."
    )


def test_a_name_on_the_page_changes_the_page_alone(tmp_path):
    before = prints(context(tmp_path, {"backbone": {"net": {}}}))
    after = prints(context(tmp_path, {"backbone": {"net": {"name": "My network"}}}))
    assert before.changed(after) == {"report"}
    assert before.changed(prints(context(tmp_path))) == set()
