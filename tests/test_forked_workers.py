"""Workers are forks where that is the same as a start, and draw ids of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import forked_workers
from tests.forked_workers import FOLDER, SEED, forks_of, read_request, starter_of
from tests.machines import ancestors_of, family_of

WORKER = ("worker.py", "--raylet-name=/tmp/raylet", "--language=PYTHON")


def request(**context: Any) -> dict[str, Any] | None:
    found = json.dumps({"command_prefix": [], "env_vars": {}, "java_jars": [], **context})
    return read_request([*WORKER, f"--serialized-runtime-env-context={found}"])


def test_a_working_directory_and_variables_are_what_a_fork_can_have() -> None:
    plain = request(py_executable=sys.executable)
    assert plain and plain["argv"] == list(WORKER[:2])
    own = request(command_prefix=["cd", "'/a b'", "&&"], env_vars={"PYTHONPATH": "/a b"})
    assert own and (own["folder"], own["variables"]) == ("/a b", {"PYTHONPATH": "/a b"})


@pytest.mark.parametrize(
    "context",
    [
        {"py_executable": "/other/python"},
        {"command_prefix": ["source", "activate", "&&"]},
        {"command_prefix": ["cd", "/a", "&&", "source", "activate", "&&"]},
        {"override_worker_entrypoint": "/other/worker.py"},
    ],
)
def test_a_worker_that_needs_more_starts_as_usual(context: dict[str, Any]) -> None:
    assert request(**context) is None


def test_a_worker_of_another_language_starts_as_usual() -> None:
    assert read_request(["worker", "--raylet-name=/tmp/raylet", "--language=CPP"]) is None


def test_forks_of_one_template_draw_different_ids(ray_session: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def draw(self) -> tuple[str, float, list[str]]:
            import numpy as np
            import psutil
            from ray._raylet import UniqueID

            parent = psutil.Process().parent()
            assert parent is not None
            number = np.random.random()  # noqa: NPY002
            return UniqueID.from_random().hex(), number, parent.cmdline()

    workers = [Worker.remote() for _ in range(3)]
    *drawn, templates = zip(*ray.get([worker.draw.remote() for worker in workers]), strict=True)
    for values in drawn:
        assert len(set(values)) == len(workers)
    assert all(SEED in template for template in templates)


def test_a_fork_is_found_as_a_process_of_its_raylet(ray_session: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def place(self) -> tuple[int, int]:
            return os.getpid(), int(os.environ["RAY_RAYLET_PID"])

    worker = Worker.remote()
    fork, raylet = ray.get(worker.place.remote())
    assert psutil.Process(raylet) not in psutil.Process(fork).parents()
    assert fork in {item.pid for item in family_of(raylet)}
    assert raylet in ancestors_of(fork)
    assert raylet not in ancestors_of(os.getpid())


def test_a_number_that_another_process_has_got_is_no_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    link = tmp_path / f"fork-{os.getpid()}"
    link.symlink_to("7")
    assert starter_of(os.getpid()) == 7
    assert forks_of({7}) == [os.getpid()]
    began = psutil.Process().create_time()
    os.utime(link, (began - 60, began - 60), follow_symlinks=False)
    assert starter_of(os.getpid()) is None
    assert forks_of({7}) == []


def test_a_fork_imports_from_where_its_own_worker_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path / "of another job"), *sys.path])
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "new")}
    monkeypatch.setattr("os.environ", {"PYTHONPATH": str(tmp_path / "of another job")})
    rest = sys.path[1:]
    forked_workers._take_environment(env)
    assert sys.path == [str(tmp_path / "new"), *rest]
    assert os.environ == env
