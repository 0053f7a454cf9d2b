"""The reference page of all settings is what the configuration says."""

from __future__ import annotations

import re

import pytest

from benchmark import config
from docs.settings import PAGE, docstrings, values_of, write_page

MODELS = [
    config.DatasetConfig, config.BackboneOptions, config.HeadOptions, config.EmbedConfig,
    config.TuneConfig, config.FinetuneConfig, config.EvaluateConfig, config.ReportConfig,
    config.StageLimit,
]  # fmt: skip


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run: python -m docs.settings"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_setting_says_what_it_means_and_is_on_the_page(model: type) -> None:
    meanings = docstrings(model)
    text = PAGE.read_text(encoding="utf-8")
    for name in model.model_fields:
        # A setting that stands beside its twin of another table says it there.
        assert meanings.get(name), f"{model.__name__}.{name} has no docstring"
        assert f"| `{name}` |" in text


def test_settings_before_the_first_table_say_what_they_mean() -> None:
    meanings = docstrings(config.Experiment)
    for name in ("name", "backbones", "heads", "seeds", "store"):
        assert meanings[name]
    assert "`path`" not in PAGE.read_text(encoding="utf-8")


def test_limits_are_said_in_words() -> None:
    assert values_of({"type": "integer", "minimum": 8, "maximum": 4096}) == (
        "integer, at least 8 and at most 4,096"
    )
    assert values_of({"type": "number", "exclusiveMinimum": 0.0}) == "number, above 0.0"
    either = {"anyOf": [{"type": "boolean"}, {"const": "auto"}, {"type": "null"}]}
    assert values_of(either) == 'true or false or `"auto"`'


def test_no_meaning_is_written_for_programmers() -> None:
    assert not re.search(r"``|\bNone\b|\bTrue\b", PAGE.read_text(encoding="utf-8"))
