"""The digest of a notebook's function covers what it reaches, and is the same elsewhere."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.own.values import digest_value

CELL = """
import functools, numpy
from benchmark.catalog.own.values import digest_value
WIDTH = {width}
def helper(x):
    return x + {plus}
class Net:
    def forward(self, x):
        return helper(x) * {times}
class Wide(Net):
    pass
def build(num_bands, depth={depth}):
    return [numpy.sqrt(WIDTH) for _ in range(depth)], Wide()
print(digest_value(build))
"""
PLAIN = {"width": 1, "plus": 1, "times": 1, "depth": 1}


def digest_in_a_script(folder: Path, **changes: int) -> str:
    # A script of the same name elsewhere stands for a notebook that is started again.
    script = folder / "cell.py"
    script.write_text(CELL.format(**{**PLAIN, **changes}))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_is_the_same_in_another_process_and_changes_with_what_is_reached(
    tmp_path: Path,
) -> None:
    before = digest_in_a_script(tmp_path)
    (tmp_path / "other").mkdir()
    assert digest_in_a_script(tmp_path / "other") == before
    found = {digest_in_a_script(tmp_path, **{key: 2}) for key in PLAIN}
    assert len({before, *found}) == len(PLAIN) + 1


def make(value: Any) -> Any:
    def build(num_bands: int) -> Any:
        return num_bands, value

    return build


def test_captured_values_and_arguments_of_partial_functions_count() -> None:
    assert digest_value(make(1)) == digest_value(make(1))
    assert digest_value(make(1)) != digest_value(make(2))
    one, other = (functools.partial(make, value=value) for value in (1, 2))
    assert digest_value(one) != digest_value(other)


def test_a_value_that_cannot_be_shipped_is_named() -> None:
    with pytest.raises(ValueError, match=r"a lock cannot be pickled: TypeError"):
        digest_value(make(threading.Lock()))


def test_functions_that_call_each_other_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert digest_value(even) != digest_value(odd)
