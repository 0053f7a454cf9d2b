"""No code of ours loads a pickle, runs a string or unpacks an archive, but where it is listed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clusters.merge import _Loader

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmark", "clusters", "jobs", "perf")

PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
"""Modules whose files run code when they are loaded: not even imported."""

FORBIDDEN = {
    "builtins.eval": "runs a string",
    "builtins.exec": "runs a string",
    "numpy.lib.format.read_array": "may unpickle",
    "os.system": "runs a shell",
    "pandas.read_pickle": "unpickles",
    "ray.cloudpickle.load": "unpickles",
    "ray.cloudpickle.loads": "unpickles",
    "shutil.unpack_archive": "unpacks",
    "skops.io.load": "builds types that are named in the file",
    "skops.io.loads": "builds types that are named in the file",
    "tarfile.open": "unpacks",
    "yaml.full_load": "builds Python objects",
    "yaml.load": "builds Python objects, but with a safe loader",
    "yaml.load_all": "builds Python objects, but with a safe loader",
    "yaml.unsafe_load": "builds Python objects",
    "zipfile.ZipFile": "unpacks",
}
METHODS = {"extractall": "unpacks", "unpack_archive": "unpacks", "read_pickle": "unpickles"}

EXCEPTIONS = {
    (
        "benchmark/exporting/saved.py",
        "skops.io.load",
    ): "types are compared with a list before it is called",
    (
        "benchmark/catalog/contracts/checks.py",
        "import pickle",
    ): "loads only what it has just dumped",
    ("benchmark/catalog/contracts/heads.py", "skops.io.loads"): "loads what it has just saved",
    ("benchmark/catalog/own/values.py", "import pickle"): "dumps for a digest, and loads nothing",
    ("benchmark/catalog/torchgeo/weights.py", "import pickle"): "for the name of an error alone",
    (
        "benchmark/catalog/products/formats.py",
        "zipfile.ZipFile",
    ): "reads arrays in memory, whose headers hold no objects, and writes no file",
    ("clusters/merge.py", "yaml.load"): "its loader is a safe one",
}
"""What is allowed all the same, and why."""


def findings(text: str) -> Iterator[str]:
    """Yield what a module does that may run code of a file."""
    tree = ast.parse(text)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                names[item.asname or item.name.partition(".")[0]] = (
                    item.name if item.asname else item.name.partition(".")[0]
                )
                if item.name.partition(".")[0] in PICKLES:
                    yield f"import {item.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
            if node.module.partition(".")[0] in PICKLES:
                yield f"import {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from judge(node, names)


def judge(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    name = dotted(call.func, names)
    given = {item.arg: item.value for item in call.keywords}
    if name == "torch.load" and not is_constant(given.get("weights_only"), True):
        yield name
    if name in ("numpy.load", "numpy.lib.npyio.load") and not is_constant(
        given.get("allow_pickle", ast.Constant(False)), False
    ):
        yield "numpy.load"
    if name.startswith("subprocess.") and not is_constant(
        given.get("shell", ast.Constant(False)), False
    ):
        yield f"{name} with a shell"
    if name in FORBIDDEN:
        yield name
    elif isinstance(call.func, ast.Attribute) and call.func.attr in METHODS:
        yield call.func.attr


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the full name of what is called, as far as the imports tell it."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    first = names.get(node.id, f"builtins.{node.id}" if not parts else node.id)
    return ".".join([first, *reversed(parts)])


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def all_findings() -> set[tuple[str, str]]:
    return {
        (str(path.relative_to(ROOT)), found)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for found in findings(path.read_text(encoding="utf-8"))
    }


def test_no_code_loads_what_may_run_code_and_every_exception_is_used() -> None:
    assert all_findings() == set(EXCEPTIONS)


def test_what_is_excepted_is_safe() -> None:
    text = (ROOT / "benchmark/catalog/own/values.py").read_text(encoding="utf-8")
    assert {item for item in ("pickle.load", "Unpickler") if item in text} == set()
    assert issubclass(_Loader, yaml.SafeLoader)
    text = (ROOT / "benchmark/catalog/torchgeo/weights.py").read_text(encoding="utf-8")
    used = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and dotted(node, {}).startswith("pickle.")
    }
    assert used == {"UnpicklingError"}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "import ray.cloudpickle as cp; cp.loads(b'')",
        "from ray import cloudpickle; cloudpickle.load(f)",
        "import torch; torch.load(p)",
        "from torch import load; load(p, weights_only=False)",
        "import torch as t; t.load(p, weights_only=flag)",
        "import numpy as np; np.load(p, allow_pickle=True)",
        "from numpy import load as read; read(p, allow_pickle=flag)",
        "import pandas as pd; pd.read_pickle(p)",
        "import yaml; yaml.load(f, Loader=yaml.Loader)",
        "from yaml import unsafe_load as go; go(f)",
        "import skops.io; skops.io.load(f, trusted=t)",
        "import zipfile; zipfile.ZipFile(p)",
        "open_it(p).extractall(d)",
        "import subprocess; subprocess.run('x', shell=True)",
        "eval(text)",
    ],
)
def test_what_may_run_code_is_found(text: str) -> None:
    assert list(findings(text))


@pytest.mark.parametrize(
    "text",
    [
        "import torch; torch.load(p, map_location='cpu', weights_only=True)",
        "import numpy as np; np.load(p); np.load(p, allow_pickle=False)",
        "import yaml; yaml.safe_load(f)",
        "from safetensors.torch import load; load(b)",
        "model.eval(); frame.eval('a + b')",
        "import subprocess; subprocess.run(['x'])",
    ],
)
def test_what_cannot_is_not(text: str) -> None:
    assert not list(findings(text))
