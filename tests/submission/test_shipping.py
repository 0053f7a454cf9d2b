"""A job is sent the package and one experiment file: no history, data, store or environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import config
from benchmark.catalog.own.source import read_source
from benchmark.config import Experiment
from benchmark.errors import UsageError
from benchmark.submission.shipping import MAX_BYTES, stage
from tests.strangers import FILES, write

ROOT = Path(__file__).resolve().parents[2]
TEXT = """name = "mine"
backbones = ["mean_color"]
[dataset]
name = "folder"
root = "/images"
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    return config.load(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small checkout with what must not travel."""
    source = tmp_path / "checkout"
    for name in (
        "benchmark/__init__.py", "benchmark/page/templates/report.html.j2", "benchmark/py.typed",
        "jobs/__init__.py", "jobs/run.py", "pyproject.toml", "constraints.txt",
        # Left out:
        ".git/objects/pack", ".venv/bin/python", "data/images/a.png", "runs/patches/manifest.json",
        "README.md", "secrets.env", "benchmark/.env", "benchmark/__pycache__/a.pyc",
        "benchmark/.mypy_cache/x", "benchmark/data/scene.tif", "benchmark/runs/part-0.parquet",
        "benchmark/results/part-0.parquet", "jobs/.git/config", "jobs/.venv/pyvenv.cfg",
    ):  # fmt: skip
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345678")
    return source


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_the_package_and_the_experiment_are_shipped(
    source: Path, experiment: Experiment, tmp_path: Path
) -> None:
    store = source / "benchmark" / "results"
    shipment = stage(experiment, tmp_path / "out", source=source, leave_out=[store])
    assert files_of(tmp_path / "out") == set(shipment.sizes)
    assert set(shipment.sizes) == {
        *("benchmark/__init__.py", "benchmark/page/templates/report.html.j2", "benchmark/py.typed"),
        *("jobs/__init__.py", "jobs/run.py", "pyproject.toml", "constraints.txt"),
        "experiments/mine.toml",
    }
    assert shipment.num_bytes == 7 * 8 + len(TEXT)
    assert str(shipment) == (
        "8 files, 0.0 MiB: benchmark/, jobs/, pyproject.toml, constraints.txt, "
        "experiments/mine.toml"
    )


def test_a_file_that_is_edited_meanwhile_is_shipped_as_it_was_read(
    source: Path, experiment: Experiment, tmp_path: Path
) -> None:
    Path(experiment.path).write_text("something else")
    shipment = stage(experiment, tmp_path / "out", source=source)
    assert (tmp_path / "out" / shipment.experiment).read_text() == TEXT
    Path(experiment.path).unlink()
    shipment = stage(experiment, tmp_path / "again", source=source)
    assert (tmp_path / "again" / shipment.experiment).read_text() == TEXT


def test_this_checkout_is_small_and_whole(experiment: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shipment = stage(experiment, out)
    assert shipment.num_bytes < 5_000_000
    assert {"pyproject.toml", "constraints.txt", "jobs/run.py"} <= set(shipment.sizes)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.run", "experiments/none.toml"],
        cwd=out, env={"PYTHONPATH": str(out)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == "benchmark: experiments/none.toml: no such experiment file\n"


def test_an_installed_package_is_shipped_from_where_it_lies(
    source: Path, experiment: Experiment, tmp_path: Path
) -> None:
    installed = tmp_path / "lib" / "site-packages"
    source.rename(installed.parent)
    installed.mkdir()
    for name in ("benchmark", "jobs", "pyproject.toml"):
        (installed.parent / name).rename(installed / name)
    shipment = stage(experiment, tmp_path / "out", source=installed)
    # Not pyproject.toml: in site-packages it would be another's.
    assert {name.split("/")[0] for name in shipment.sizes} == {"benchmark", "jobs", "experiments"}


def test_too_much_is_refused_by_the_names_of_the_largest(
    source: Path, experiment: Experiment, tmp_path: Path
) -> None:
    with (source / "benchmark" / "weights.bin").open("wb") as file:
        # A hole: it takes no place on the disk.
        file.truncate(MAX_BYTES)
    (source / "jobs" / "notes.txt").write_bytes(b"x" * 2**20)
    with pytest.raises(UsageError, match=r"submit: 513\.0 MiB would be .*, but Ray takes 512\.0 M"):
        stage(experiment, tmp_path / "out", source=source)
    with pytest.raises(UsageError, match=r"/weights\.bin \(512\.0 MiB\), .*notes\.txt \(1\.0 MiB"):
        stage(experiment, tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_the_limit_is_that_of_ray() -> None:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    assert MAX_BYTES == GCS_STORAGE_MAX_SIZE


OWN = TEXT.replace('["mean_color"]', '["stranger.nets:build"]').replace(
    '"folder"', '"stranger.data:open_arrays"'
)


def test_own_code_is_shipped_beside_the_experiment(source: Path, own_folder: Path) -> None:
    write(own_folder, {**FILES, "unused.py": "", "mine.toml": OWN})
    (own_folder / "stranger/__pycache__").mkdir()
    (own_folder / "stranger/__pycache__/nets.pyc").write_bytes(b"x")
    out = own_folder / "out"
    shipment = stage(config.load("mine.toml"), out, source=source)
    own = {name for name in shipment.sizes if name.startswith("experiments/")}
    assert own == {"experiments/mine.toml", *(f"experiments/{name}" for name in FILES)}
    # A job has the folder of the experiment on its search path, and gets equal fingerprints.
    here, there = (
        read_source("stranger.nets", str(folder)).digest
        for folder in (own_folder, out / "experiments")
    )
    assert here == there


def test_own_code_in_the_folder_of_the_experiment_is_shipped(
    source: Path, own_folder: Path
) -> None:
    write(own_folder, {f"exp/{name}": text for name, text in {**FILES, "mine.toml": OWN}.items()})
    shipment = stage(config.load("exp/mine.toml"), own_folder / "out", source=source)
    assert "experiments/stranger/nets.py" in shipment.sizes


def test_too_much_own_code_is_refused(source: Path, own_folder: Path) -> None:
    write(own_folder, {**FILES, "mine.toml": OWN})
    (own_folder / "stranger/weights.bin").write_bytes(b"x" * 5000)
    message = r"the largest files are .*stranger/weights\.bin"
    with pytest.raises(UsageError, match=message):
        stage(config.load("mine.toml"), own_folder / "out", source=source, max_bytes=4000)


def test_installed_packages_are_not_shipped(source: Path, own_folder: Path) -> None:
    text = f'{TEXT}\n[evaluate]\nmetrics = ["sklearn.metrics:cohen_kappa_score"]\n'
    write(own_folder, {"mine.toml": text})
    shipment = stage(config.load("mine.toml"), own_folder / "out", source=source)
    assert [name for name in shipment.sizes if "sklearn" in name] == []
