"""Arguments of ``bm.predict_maps``; test_running.py and test_pooled.py look at maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import benchmark as bm


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": 3}, r"bm.predict_maps: model = 3: give an exported folder"),
        ({"scenes": 7}, r"scenes = 7: give a path, or a list of paths"),
        ({"scenes": [None]}, r"scenes = None: give a path"),
        ({"scenes": []}, r"scenes = \[\]: give a path, or a list of paths"),
        ({"out": None}, r"out = None: give a path"),
        ({"stride": "8"}, r"stride = '8': give a whole number of px, or None"),
        ({"bands": "123"}, r"bands = '123': give a list of numbers or names"),
        ({"value_range": (1, 0)}, r"value_range = \[1, 0\]: give \(low, high\)"),
        ({"overwrite": "no"}, r"overwrite = 'no': give True or False"),
        ({"trust_code": 1}, r"trust_code = 1: give True or False"),
        ({}, r"model"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {"model": tmp_path / "model", "scenes": "scene.tif", "out": tmp_path / "map.tif"}
    with pytest.raises(bm.UsageError, match=message) as caught:
        bm.predict_maps(**given | changed)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1500
    assert list(tmp_path.iterdir()) == []
