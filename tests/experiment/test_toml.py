"""What is written as TOML is read as it was."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.experiment.toml import to_toml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=3),
    lambda inner: st.dictionaries(TEXTS, inner, min_size=1, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_written_is_read_again(settings: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(settings)) == settings


def test_tables_follow_settings_and_what_has_no_value_is_left_out() -> None:
    settings = {
        "embed": {"num_gpus": 1e-5, "empty": {}},
        "name": 'a "b"\n\x7f',
        "none": None,
        "backbone": {"hf:a/b": {"layer": -2, "bands": ("red", "nir")}},
    }
    assert to_toml(settings) == (
        'name = "a \\"b\\"\\n\\u007f"\n\n[embed]\nnum_gpus = 1e-05\n\n'
        '[backbone."hf:a/b"]\nlayer = -2\nbands = ["red", "nir"]\n'
    )


def test_other_values_are_refused() -> None:
    with pytest.raises(TypeError, match="no value for a set"):
        to_toml({"a": {1}})
