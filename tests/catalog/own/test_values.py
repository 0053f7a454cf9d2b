"""The digest of a notebook's function covers what it reaches, and is the same elsewhere."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.own.adapters import ByValue
from benchmark.catalog.own.loading import Folders
from benchmark.catalog.own.values import read_value
from tests.strangers import write

CELL = """
import functools, numpy
from benchmark.catalog.own.values import read_value
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
print(read_value(build).digest)
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
    assert read_value(make(1)).digest == read_value(make(1)).digest
    assert read_value(make(1)).digest != read_value(make(2)).digest
    one, other = (functools.partial(make, value=value) for value in (1, 2))
    assert read_value(one).digest != read_value(other).digest


def test_a_value_that_cannot_be_shipped_is_named() -> None:
    with pytest.raises(ValueError, match=r"a lock cannot be pickled: TypeError"):
        read_value(make(threading.Lock()))


def test_functions_that_call_each_other_end() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert read_value(even).digest != read_value(odd).digest


def test_a_module_of_the_user_counts_with_its_source_and_its_folder(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "import inner\n\ndef helper():\n    pass", "inner.py": "X = 1"})
    sys.path.append(str(own_folder))
    import mine  # type: ignore[import-not-found]

    for value in (make(mine), make(mine.helper)):
        write(own_folder, {"inner.py": "X = 1"})
        before = read_value(value)
        assert before.folders == (str(own_folder),)
        write(own_folder, {"inner.py": "X = 2"})
        assert read_value(value).digest != before.digest


def test_another_process_finds_the_modules_of_a_function(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "def helper():\n    return 7"})
    sys.path.append(str(own_folder))
    import mine

    shipped = ByValue(mine.helper, Folders((str(own_folder),)))
    saved = own_folder / "value.pickle"
    saved.write_bytes(pickle.dumps(shipped))
    code = f"import pickle; print(pickle.loads(open({str(saved)!r}, 'rb').read())())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.stdout == "7\n", done.stderr
