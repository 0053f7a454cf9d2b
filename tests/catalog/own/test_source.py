"""Own code is found after installed packages, and its digest covers what it reaches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmark.catalog.own.source import (
    Target,
    files_to_ship,
    installed_version,
    locate,
    parse,
    read_source,
    search_folders,
)
from benchmark.errors import UsageError
from tests.strangers import FILES, write


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nets:build", Target("nets", "build")),
        ("a.b.nets:Net.build", Target("a.b.nets", "Net.build")),
        ("knn", None),
        ("a b:build", None),
        ("nets:", None),
        (":build", None),
        ("nets:build:more", None),
        ("timm:resnet18.a1-in1k", None),
    ],
)
def test_an_import_path_is_a_module_and_an_attribute(name: str, expected: Target | None) -> None:
    assert parse(name) == expected


def test_the_current_folder_is_searched_before_that_of_the_experiment(own_folder: Path) -> None:
    assert search_folders("exp/x.toml") == (str(own_folder), str(own_folder / "exp"))
    assert search_folders("the experiment") == (str(own_folder),)
    write(own_folder, {"exp/nets.py": ""})
    place = locate(Target("nets", "build"), search_folders("exp/x.toml"), where="x")
    assert (place.root, place.is_installed) == (str(own_folder / "exp"), False)
    write(own_folder, {"nets.py": ""})
    place = locate(Target("nets", "build"), search_folders("exp/x.toml"), where="x")
    assert place.root == str(own_folder)


def test_installed_packages_come_first_and_a_shadowed_file_is_named(own_folder: Path) -> None:
    target = Target("sklearn.svm", "SVC")
    assert locate(target, search_folders(), where="x").is_installed
    (own_folder / "sklearn").mkdir()
    # A folder of results is no package.
    assert locate(target, search_folders(), where="x").is_installed
    write(own_folder, {"sklearn/__init__.py": ""})
    with pytest.raises(
        UsageError, match=r"^x: 'sklearn' is the installed .*, which comes before y"
    ):
        locate(target, search_folders(), where="x")


def test_a_module_that_is_nowhere_is_named_with_the_places(own_folder: Path) -> None:
    with pytest.raises(UsageError, match=rf"^x: there is no module 'nets' among .* {own_folder}"):
        locate(Target("nets", "build"), search_folders(), where="x")


def digest(folder: Path, module: str = "stranger.nets") -> str:
    return read_source(module, str(folder)).digest


def test_the_digest_covers_every_module_that_is_reached_and_no_other(own_folder: Path) -> None:
    write(own_folder, FILES)
    source = read_source("stranger.nets", str(own_folder))
    assert set(source.modules) == {
        *("stranger/__init__.py", "stranger/layers.py", "stranger/nets.py"),
    }
    before = source.digest
    for name in ("stranger/heads.py", "stranger/data.py", "other.py"):
        write(own_folder, {name: "x = 1\n"})
        assert digest(own_folder) == before
    for name in sorted(source.modules):
        text = (own_folder / name).read_text()
        write(own_folder, {name: f"{text}\n# changed"})
        assert digest(own_folder) != before
        (own_folder / name).write_text(text)
        assert digest(own_folder) == before


@pytest.mark.parametrize(
    "statement",
    [
        "import pack.inner.deep",
        "from pack.inner import deep",
        "from .inner import deep",
        "from .inner.deep import value",
        "from . import inner\n\ndef later():\n    from pack.inner import deep",
        "if True:\n    import pack.inner.deep as d",
        "import sibling",
    ],
)
def test_every_form_of_import_is_followed(own_folder: Path, statement: str) -> None:
    write(
        own_folder,
        {
            "pack/__init__.py": "",
            "pack/inner/__init__.py": "",
            "pack/inner/deep.py": "value = 1",
            "sibling.py": "import pack.inner.deep",
            "pack/nets.py": statement,
        },
    )
    assert "pack/inner/deep.py" in read_source("pack.nets", str(own_folder)).modules


def test_modules_that_import_each_other_and_broken_ones_are_read(own_folder: Path) -> None:
    write(own_folder, {"a.py": "import b\nimport c", "b.py": "import a", "c.py": "def ("})
    assert set(read_source("a", str(own_folder)).modules) == {"a.py", "b.py", "c.py"}


def test_a_package_without_init_is_read(own_folder: Path) -> None:
    write(own_folder, {"space/nets.py": "from space import layers", "space/layers.py": ""})
    assert set(read_source("space.nets", str(own_folder)).modules) == {
        *("space/nets.py", "space/layers.py"),
    }
    assert locate(Target("space.nets", "build"), search_folders(), where="x").root == str(
        own_folder
    )


def test_files_that_the_code_names_are_part_of_the_digest(own_folder: Path) -> None:
    write(own_folder, {"pack/nets.py": "PATH = 'net.pt'\nOTHER = 'data/x.bin'\nNO = 'net.pt2'"})
    before = digest(own_folder, "pack.nets")
    (own_folder / "pack/net.pt").write_bytes(b"weights")
    changed = digest(own_folder, "pack.nets")
    assert changed != before
    (own_folder / "pack/net.pt").write_bytes(b"other weights")
    assert digest(own_folder, "pack.nets") not in (before, changed)
    (own_folder / "pack/data").mkdir()
    (own_folder / "pack/data/x.bin").write_bytes(b"1")
    assert set(read_source("pack.nets", str(own_folder)).data) == {
        *("pack/net.pt", "pack/data/x.bin"),
    }


def test_the_digest_does_not_depend_on_the_folder(own_folder: Path) -> None:
    for name in ("one", "other"):
        write(own_folder / name, FILES)
    assert digest(own_folder / "one") == digest(own_folder / "other")


def test_an_installed_package_is_identified_by_its_record() -> None:
    import sklearn

    root = str(Path(sklearn.__file__).resolve().parents[1])
    found = installed_version("sklearn", root)
    assert found["distribution"] == f"scikit-learn {sklearn.__version__}"
    assert len(found["code"]) == 16
    python = installed_version("statistics", str(Path(sys.modules["os"].__file__ or "").parent))
    assert python["distribution"] == f"python {sys.version.split()[0]}"


def test_a_package_is_shipped_whole_with_what_it_reaches_beside_it(own_folder: Path) -> None:
    write(own_folder, {**FILES, "shared.py": "", "unused.py": "", "stranger/.hidden": "x"})
    write(own_folder, {"stranger/nets.py": "import shared", "stranger/data/table.csv": "1"})
    (own_folder / "stranger/__pycache__").mkdir()
    (own_folder / "stranger/__pycache__/nets.pyc").write_bytes(b"x")
    target = Target("stranger.nets", "build")
    place = locate(target, search_folders(), where="x")
    installed = Target("sklearn.svm", "SVC")
    found = files_to_ship(
        [(target, place), (installed, locate(installed, search_folders(), where="x"))]
    )
    assert set(found) == {*FILES, "shared.py", "stranger/data/table.csv"}
    assert found["shared.py"] == own_folder / "shared.py"
