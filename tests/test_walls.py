"""Rules of imports: which wing may import which, and light modules import nothing heavy."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "benchmark"

MAX_LINES = 400

MAY_IMPORT: dict[str, set[str]] = {
    "jobs": {"cli", "submission"},
    "__main__": {"cli"},
    "cli": {
        *("face", "comparing", "submission", "mapping", "stages", "catalog", "experiment"),
        *("cluster", "store", "vocabulary"),
    },
    "submission": {"catalog", "cluster", "store", "vocabulary"},
    "face": {
        *("comparing", "mapping", "stages", "exporting", "catalog", "statistics", "experiment"),
        *("cluster", "store", "tracking", "vocabulary"),
    },
    "tracking": {"comparing", "experiment", "exporting", "store", "vocabulary"},
    "comparing": {"stages", "catalog", "statistics", "experiment", "store", "vocabulary"},
    "mapping": {"exporting", "catalog", "networks", "cluster", "vocabulary"},
    "stages": {
        *("catalog", "training", "networks", "search", "statistics", "experiment", "cluster"),
        *("store", "page", "vocabulary"),
    },
    "exporting": {"catalog", "networks", "search", "experiment", "store", "vocabulary"},
    "catalog": {"networks", "statistics", "store", "vocabulary"},
    "training": {"networks", "search", "store", "vocabulary"},
    "networks": {"store", "vocabulary"},
    "search": {"vocabulary"},
    "statistics": set(),
    "experiment": {"cluster", "store", "vocabulary"},
    "cluster": {"store", "vocabulary"},
    "store": {"vocabulary"},
    "page": set(),
    "vocabulary": set(),
}
"""All wings from the top down, with the wings that each may import besides itself."""

FACE = {
    *("benchmark", "benchmark.api", "benchmark.finished", "benchmark.frames"),
    *("benchmark.interactive", "benchmark.results"),
}
VOCABULARY = {
    *("arguments", "bars", "config", "contents", "derived", "drawing", "energy", "environment"),
    *("errors", "peaks", "prices", "small_files"),
    *("fields", "finetune_settings", "flipping", "markup", "methods", "options", "problems"),
    *("products", "progress", "protocol_settings", "raster_settings", "references", "registry"),
    *(
        "regular",
        "section",
        "sources",
        "spaces",
        "specs",
        "tables",
        "tracking_settings",
        "variants",
    ),
}
"""The modules at the root that every wing may use."""

RAY = {"stages", "cluster", "submission"}
"""The wings that may import Ray."""

HEAVY = {
    "duckdb", "jinja2", "matplotlib", "mlflow", "numba", "numpy", "optuna", "pandas", "PIL",
    "polars", "pyarrow", "rasterio", "ray", "scipy", "skimage", "sklearn", "skops", "statsmodels",
    "timm", "torch", "torchgeo", "torchvision", "transformers", "umap",
}  # fmt: skip

LIGHT = [
    "benchmark",
    "benchmark.catalog.backbones",
    "benchmark.catalog.datasets",
    "benchmark.catalog.heads",
    "benchmark.catalog.metrics",
    "benchmark.catalog.names",
    "benchmark.cli.commands",
    "benchmark.cluster.connection",
    "benchmark.config",
    "benchmark.errors",
    "benchmark.registry",
    "benchmark.specs",
    "benchmark.stages",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for folder in ("benchmark", "jobs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def wing_of(name: str) -> str:
    """Return the wing of a module; modules at the root belong to the face or the vocabulary."""
    first, *rest = name.split(".")
    if first == "jobs":
        return "jobs"
    if name in FACE:
        return "face"
    return "vocabulary" if rest[0] in VOCABULARY else rest[0]


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
    for node in statements(tree_of(name), at_module_level=at_module_level):
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


def test_every_folder_is_a_wing_of_the_plan_and_every_wing_a_folder() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(MAY_IMPORT) - {"jobs", "__main__", "face", "vocabulary"}
    assert {wing_of(name) for name in MODULES} == set(MAY_IMPORT)


def test_the_plan_has_no_circle() -> None:
    # Raises graphlib.CycleError where two wings may import each other, in however many steps.
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("vocabulary") < order.index("store") < order.index("cli")


@pytest.mark.parametrize("name", MODULES)
def test_imports_keep_to_the_plan(name: str) -> None:
    mine = wing_of(name)
    for other in imports_of(name) & set(MODULES):
        assert wing_of(other) in {mine, *MAY_IMPORT[mine]}, f"{name} imports {other}"


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_the_plan_allows_nothing_that_no_module_needs(wing: str) -> None:
    used = {
        wing_of(other)
        for name in MODULES
        if wing_of(name) == wing
        for other in imports_of(name) & set(MODULES)
    }
    assert MAY_IMPORT[wing] == used - {wing}


@pytest.mark.parametrize("name", MODULES)
def test_ray_is_imported_by_stages_cluster_and_submission_alone(name: str) -> None:
    if any(other.split(".")[0] == "ray" for other in imports_of(name)):
        assert wing_of(name) in RAY


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


@pytest.mark.parametrize("name", LIGHT)
def test_what_answers_at_once_imports_nothing_heavy(name: str) -> None:
    heavy = {other.split(".")[0] for other in loaded_by(name)} & HEAVY
    assert not heavy


@pytest.mark.parametrize("stage", ["patches", "embed", "evaluate", "tune"])
def test_a_run_without_fine_tuning_imports_torch_in_its_actors_alone(stage: str) -> None:
    # It takes 1.3 CPU seconds.
    module = {"tune": "searcher"}.get(stage, "pipeline")
    loaded = loaded_by(f"benchmark.stages.{stage}.{module}")
    assert "torch" not in {other.split(".")[0] for other in loaded}


def test_the_tests_above_see_what_they_must_see() -> None:
    assert "numpy" in {other.split(".")[0] for other in loaded_by("benchmark.search.fitting")}
    assert "torch" in {other.split(".")[0] for other in loaded_by("benchmark.networks.embedder")}
    assert "benchmark.catalog.names" in imports_of("benchmark.api")
    assert "ray" in {other.split(".")[0] for other in imports_of("benchmark.cluster.connection")}
    assert wing_of("benchmark.catalog.timm.names") == "catalog"
    assert wing_of("benchmark.tables") == "vocabulary"


@pytest.mark.parametrize("name", MODULES)
def test_no_file_is_longer_than_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree_of(name))


@pytest.mark.parametrize("wing", [item for item in MAY_IMPORT if (PACKAGE / item).is_dir()])
def test_the_face_of_a_wing_is_one_docstring(wing: str) -> None:
    if wing != "stages":  # Its face is the registry of the stages.
        assert len(tree_of(f"benchmark.{wing}").body) == 1


def test_there_is_no_module_for_things_without_a_place() -> None:
    assert not {name.rpartition(".")[2] for name in MODULES} & {"utils", "common", "helpers"}
