"""One Ray for the whole session, small scenes, and contexts over them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import typer.main

from tests import forked_workers
from tests.machines import LAZY

# A first local Ray writes a token into the home folder, and digests are cached there: tests
# have a home of their own. Set before anything reads it.
_HOME = tempfile.mkdtemp(prefix="benchmark-home-")
os.environ["HOME"] = _HOME
os.environ["XDG_CACHE_HOME"] = f"{_HOME}/.cache"
# A pipeline that hangs ends, and is planned anew, well before the time of a test is over.
os.environ["BENCHMARK_PROGRESS_TIMEOUT_S"] = "90"
# What waits for others looks more often than it would on a cluster.
os.environ["BENCHMARK_LEASE_EXPIRY_S"] = "20"
os.environ["BENCHMARK_RETRY_WAIT_S"] = "0.01"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
os.environ.update(LAZY)
# On tensors as small as those of tests a second thread mostly waits, which costs CPU seconds: both
# cores have processes of tests, and what runs in workers sets its own number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every process that Ray starts would compile this package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Ray Train's look-out for machines that are about to be taken away is a process of its own.
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
# Ray's monitors of logs and of the machine, of which tests read little, rest longer.
os.environ["RAY_LOG_MONITOR_MANY_FILES_THRESHOLD"] = "0"
os.environ["LOG_NAME_UPDATE_INTERVAL_S"] = "10"
os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "10000"
# Ctrl-C is ignored where tests run in the background, and so by every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
    os.environ.pop(_name, None)

# Typer would build all commands anew for each call, of which a test of options has hundreds.
typer.main.get_command = cache(typer.main.get_command)

# On a busy machine an example may take long, which says nothing of the code.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

from benchmark.cluster import headwatch  # noqa: E402
from benchmark.cluster.connection import Cluster  # noqa: E402
from benchmark.config import build  # noqa: E402
from benchmark.experiment.context import Context  # noqa: E402
from benchmark.progress import LoggedProgress  # noqa: E402
from benchmark.store.artefacts import Store  # noqa: E402
from tests.scenes import write_scenes  # noqa: E402

LONGEST = (
    "test_losses",
    "test_photographs",
    "test_expiry",
    "test_s3",
    "test_jobs",
    "test_mlflow_runs",
    "test_notebook",
    "test_frozen",
    "test_secrets",
    "test_raster_products",
    "test_transfer",
    "test_tune_memory",
    "test_options",
    "test_products_together",
    "test_variants",
    "test_embed_booked",
    "test_damaged_store",
    "test_running",
    "test_explorer_browser",
    "test_surroundings",
    "test_onnx_networks",
    "test_large_folder",
    "test_sliding",
    "test_folds",
    "test_finetune",
    "test_labels",
    "test_interruption",
    "test_flipped",
    "test_remote",
    "test_browser",
    "test_segment",
    "test_products",
    "test_gpus",
    "test_bad_clusters",
    "test_modes",
    "test_torchgeo_sets",
    "test_embed",
    "test_report",
    "test_roots",
    "test_onnx",
    "test_uris",
    "test_pooled",
    "test_folder",
    "test_scores",
    "test_publishing",
)
"""Files that take minutes, begun first: side by side, the rest then fills the other process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def forgets_lost_heads() -> Iterator[None]:
    """A command in a process that has lost a head ends this process, and all tests in it."""
    yield
    headwatch._was_lost.clear()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Two CPUs and a small object store; every stage of the session uses it."""
    import ray

    forked_workers.install(has_metrics=True)
    with Cluster() as cluster:
        if not ray.is_initialized():
            cluster.connect(num_cpus=2, object_store_memory=400_000_000)
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of 256 px, 64 windows of 32 px each."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def experiment_content(scenes: Path) -> dict[str, Any]:
    """What the TOML of a small experiment holds; processes take longest, so there are few."""
    return {
        "name": "small",
        "backbones": ["mean_color"],
        "heads": ["logistic_regression", "majority"],
        "dataset": {"name": "chesapeake", "root": str(scenes), "patch_size": 32, "per_region": 40},
        "embed": {"num_actors": 1},
        "tune": {"num_trials": 3, "max_concurrent": 1},
        "evaluate": {"num_resamples": 200},
    }


@pytest.fixture(scope="session")
def open_small_session(experiment_content: dict[str, Any]) -> Callable[..., Context]:
    """Open a context on the small experiment, with other settings, backbones or heads."""
    from benchmark.catalog.backbones import BACKBONES
    from benchmark.catalog.datasets import DATASETS
    from benchmark.catalog.heads import HEADS
    from benchmark.catalog.metrics import METRICS

    def open_context(
        *, store: Path | str, backbones: Any = None, heads: Any = None, **settings: Any
    ) -> Context:
        content = dict(experiment_content)
        for key, value in settings.items():
            if isinstance(value, dict):
                value = {**content.get(key, {}), **value}
            content[key] = value
        experiment = build(content, where="small.toml")
        if backbones is None:
            backbones = [BACKBONES.get(name) for name in experiment.backbones]
        if heads is None:
            heads = [HEADS.get(name) for name in experiment.heads]
        return Context(
            experiment=experiment,
            dataset=DATASETS.get(experiment.dataset.name),
            backbones=tuple(backbones),
            heads=tuple(heads),
            metrics=tuple(METRICS),
            store=Store(str(store)),
            cluster=Cluster(),
            progress=LoggedProgress(),
        )

    return open_context


@pytest.fixture(scope="session")
def new_store(
    ray_session: None,
    open_small_session: Callable[..., Context],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], Path]:
    """Make stores that hold the patches of the small experiment, which are computed once."""
    from benchmark.stages.patches import PatchesStage

    context = open_small_session(store=tmp_path_factory.mktemp("small") / "runs")
    assert PatchesStage().run(context).cells[0].status == "complete"

    def new() -> Path:
        store = tmp_path_factory.mktemp("store") / "runs"
        shutil.copytree(Path(context.store.root) / "patches", store / "patches")
        return store

    return new


@pytest.fixture
def open_small(
    open_small_session: Callable[..., Context], tmp_path: Path
) -> Callable[..., Context]:
    """Open such a context, by default on a store of the test's own."""
    return partial(open_small_session, **{"store": tmp_path / "runs"})


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, new, for own code; what is imported from it is forgotten."""
    from tests.strangers import forgotten

    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with forgotten():
        yield folder
