"""Workers are forks where that is the same as a start, and draw ids of their own."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.forked_workers import TEMPLATE, read_request

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
    assert all(TEMPLATE in template for template in templates)
