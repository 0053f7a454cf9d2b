"""Own code is imported as it is on disk, in this process and in others, and shadows nothing."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.catalog.own.loading import Reference, refer
from benchmark.catalog.own.source import parse, search_folders
from benchmark.errors import CellError, UsageError
from tests.strangers import FILES, write


def reference(name: str) -> Reference:
    target = parse(name)
    assert target is not None
    return refer(target, search_folders(), where="x.toml")


def test_a_function_is_called_by_its_name(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "def add(a, b=1):\n    return a + b"})
    assert reference("mine:add")(2, b=3) == 5
    assert sys.path[-1] == str(own_folder)


def test_a_change_is_seen_even_with_the_same_size_and_time(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "import inner\n\ndef value():\n    return inner.VALUE"})
    write(own_folder, {"inner.py": "VALUE = 1"})
    old = reference("mine:value")
    assert old() == 1
    times = (own_folder / "inner.py").stat()
    write(own_folder, {"inner.py": "VALUE = 2"})
    os.utime(own_folder / "inner.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    new = reference("mine:value")
    assert new.digest != old.digest
    assert new() == 2


def test_a_module_that_was_imported_before_is_read_again(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "VALUE = 1\n\ndef value():\n    return VALUE"})
    sys.path.append(str(own_folder))
    __import__("mine")
    write(own_folder, {"mine.py": "VALUE = 2\n\ndef value():\n    return VALUE"})
    assert reference("mine:value")() == 2


def test_code_that_changes_during_a_run_is_refused(own_folder: Path) -> None:
    write(own_folder, {"mine.py": "def value():\n    return 1"})
    begun = reference("mine:value")
    write(own_folder, {"mine.py": "def value():\n    return 2"})
    with pytest.raises(CellError, match=r"the code of 'mine' in .* has changed since the run beg"):
        begun()


def test_another_module_of_the_same_name_is_refused(own_folder: Path) -> None:
    write(own_folder, {"one/mine.py": "X = 1", "other/mine.py": "def value():\n    return 2"})
    sys.path.append(str(own_folder / "one"))
    target = parse("mine:value")
    assert target is not None
    with pytest.raises(
        UsageError, match=r"'mine' is the installed .*one/mine\.py, which comes bef"
    ):
        refer(target, (str(own_folder / "other"),), where="x")


def test_another_process_finds_it_at_the_end_of_its_import_path(
    own_folder: Path, tmp_path: Path
) -> None:
    write(own_folder, FILES)
    # It must shadow nothing in the other process.
    write(own_folder, {"json.py": "raise ValueError('shadowed')"})
    saved = tmp_path / "reference.pickle"
    saved.write_bytes(pickle.dumps(reference("stranger.nets:build")))
    code = (
        "import pickle, sys, pathlib\n"
        f"found = pickle.loads(pathlib.Path({str(saved)!r}).read_bytes())\n"
        "import json\n"
        f"assert sys.path[-1] == {str(own_folder)!r}\n"
        "print(type(found(3)).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "Sequential\n", done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def build(n):\n    raise ValueError('no\\nway')",
            r"mine\.py, line 2: ValueError: no way$",
        ),
        ("def build(n):\n    return n / 0", r"mine\.py, line 2: ZeroDivisionError: division by"),
        ("def build(n):\n    import nowhere", r"mine\.py, line 2: ModuleNotFoundError: No module"),
        ("import json\n\ndef build(n):\n    json.loads('{')", r"mine\.py, line 4: JSONDecodeError"),
        ("def build(n)\n    pass", r"mine\.py, line 1: SyntaxError: expected ':'"),
        ("\n1 / 0", r"mine\.py, line 1: ZeroDivisionError"),
        (
            "def built(n):\n    pass",
            r"the module 'mine' \(.*\) has no 'build'\. Did you mean 'buil",
        ),
        ("def build(n):\n    raise KeyError", r"mine\.py, line 2: KeyError$"),
        (f"def build(n):\n    raise ValueError('{'x' * 3000}')", r"^.{,400}$"),
    ],
)
def test_what_own_code_raises_is_one_line_with_file_and_line(
    own_folder: Path, text: str, message: str
) -> None:
    write(own_folder, {"mine.py": text})
    with pytest.raises(CellError, match=message) as caught:
        reference("mine:build")(3)
    assert "\n" not in str(caught.value)


def test_a_module_of_a_package_that_is_missing_is_named(own_folder: Path) -> None:
    write(own_folder, FILES)
    with pytest.raises(UsageError, match=r"there is no module 'stranger\.netz' in "):
        reference("stranger.netz:build")
