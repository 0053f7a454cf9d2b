"""Imports go one way, the stages stand alone, and what answers at once imports nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "benchmark"

MAX_LINES = 400

HEAVY = {
    "duckdb", "jinja2", "matplotlib", "numpy", "optuna", "pandas", "PIL", "polars", "pyarrow",
    "rasterio", "ray", "scipy", "skimage", "sklearn", "skops", "statsmodels", "timm", "torch",
    "torchgeo", "torchvision", "transformers",
}  # fmt: skip

LIGHT = [
    "benchmark",
    "benchmark.catalog.backbones",
    "benchmark.catalog.datasets",
    "benchmark.catalog.heads",
    "benchmark.catalog.metrics",
    "benchmark.cli",
    "benchmark.cluster",
    "benchmark.config",
    "benchmark.errors",
    "benchmark.registry",
    "benchmark.specs",
    "benchmark.stages",
]

# An import may go to the same layer or to a later one of this order.
LAYERS = ("entry", "api", "stages", "catalog", "core")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for folder in ("benchmark", "jobs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def layer(name: str) -> str:
    if name.split(".")[0] == "jobs" or name in {
        *("benchmark.__main__", "benchmark.cli", "benchmark.cli_status", "benchmark.cli_submit"),
        *("benchmark.listing", "benchmark.printing"),
    }:
        return "entry"
    if name in {
        *("benchmark", "benchmark.api", "benchmark.running", "benchmark.submission"),
        "benchmark.watching",
    }:
        return "api"
    for folder in ("stages", "catalog"):
        if name == f"benchmark.{folder}" or name.startswith(f"benchmark.{folder}."):
            return folder
    return "core"


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def statements(node: ast.AST, *, at_module_level: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif is_type_checking(child):
            if not at_module_level:
                yield from statements(child, at_module_level=False)
        elif not (at_module_level and isinstance(child, (ast.FunctionDef, ast.Lambda))):
            yield from statements(child, at_module_level=at_module_level)


def imports_of(name: str, *, at_module_level: bool = False) -> set[str]:
    """Return the modules that a module imports, its own package's modules by their full name."""
    found = set()
    for node in statements(TREES[name], at_module_level=at_module_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, f"{name}: a relative import"
        base = node.module or ""
        for alias in node.names:
            full = f"{base}.{alias.name}"
            found.add(full if full in MODULES else base)
    return found


def loaded_by(name: str) -> set[str]:
    """Return the modules that are imported, at module level, when one is: itself included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in MODULES:
            waiting += imports_of(module, at_module_level=True)
            parent = module.rpartition(".")[0]
            waiting += [parent] if parent else []
    return seen


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    mine = LAYERS.index(layer(name))
    for other in imports_of(name) & set(MODULES):
        assert LAYERS.index(layer(other)) >= mine, f"{name} imports {other}"


def stage_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[:2] != ["benchmark", "stages"] or len(parts) < 3:
        return None
    return parts[2] if (PACKAGE / "stages" / parts[2]).is_dir() else None


@pytest.mark.parametrize("name", [name for name in MODULES if stage_of(name)])
def test_a_stage_imports_no_other_stage(name: str) -> None:
    others = {stage_of(other) for other in imports_of(name)} - {None, stage_of(name)}
    assert not others


def test_there_are_stages_to_test() -> None:
    found = {stage_of(name) for name in MODULES} - {None}
    assert {"patches", "embed", "tune", "evaluate", "report"} <= found


@pytest.mark.parametrize("name", [name for name in MODULES if layer(name) == "catalog"])
def test_the_catalog_knows_nothing_of_ray_and_of_the_store(name: str) -> None:
    found = imports_of(name)
    assert not {other for other in found if other.split(".")[0] == "ray"}
    assert not found & {"benchmark.store", "benchmark.context", "benchmark.cluster"}


@pytest.mark.parametrize("name", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy(name: str) -> None:
    heavy = {other.split(".")[0] for other in loaded_by(name)} & HEAVY
    assert not heavy


def test_the_test_above_sees_what_a_heavy_module_imports() -> None:
    assert "numpy" in {other.split(".")[0] for other in loaded_by("benchmark.fitting")}
    assert "torch" in {other.split(".")[0] for other in loaded_by("benchmark.network")}
    assert layer("benchmark.catalog.heads") == "catalog"
    assert "benchmark.catalog.heads" in imports_of("benchmark.api")


@pytest.mark.parametrize("name", [name for name in MODULES if layer(name) == "core"])
def test_ray_is_imported_only_where_it_is_used(name: str) -> None:
    if any(other.split(".")[0] == "ray" for other in imports_of(name)):
        assert name in {
            *("benchmark.cluster", "benchmark.searching", "benchmark.streaming"),
            *("benchmark.jobclient", "benchmark.jobserver", "benchmark.probing"),
            *("benchmark.incidents", "benchmark.metering", "benchmark.addresses"),
        }


@pytest.mark.parametrize("name", MODULES)
def test_no_file_is_longer_than_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(TREES[name])


def test_there_is_no_module_for_things_without_a_place() -> None:
    assert not {name.rpartition(".")[2] for name in MODULES} & {"utils", "common", "helpers"}
