"""A run on a Ray that books GPUs. None is here: what holds one finds no CUDA, and computes on CPUs.

So what Ray makes of a booked GPU is tested, and nothing of the GPU itself.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import benchmark as bm
from benchmark import api
from benchmark.errors import CellError
from benchmark.networks.devices import Asked
from benchmark.stages.embed import starting
from benchmark.stages.embed.pipeline import NO_CUDA
from tests.machines import LAZY, start_machines
from tests.scenes import SMALLEST

SMALL = "[backbone.random]\nimage_size = 32\n"
FINETUNE = """
[finetune]
backbones = ["random"]
modes = ["full", "lora"]
num_epochs = 1
batch_size = 32
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU computes other last bits")
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_actors_that_share_a_gpu_embed_what_actors_without_one_do(
    ray_session: None, scenes: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "booked.toml"
    settings = SMALLEST.replace('["mean_color"]', '["random", "mean_color"]') + SMALL
    toml.write_text(settings.format(root=scenes))
    frozen = bm.load(toml)
    for stage in ("patches", "embed"):
        result, _ = api.run_stage(stage, frozen, store=str(tmp_path / "without"))
        assert {cell.status for cell in result.cells} == {"complete"}
    settings = settings.replace("num_actors = 1", 'num_actors = "auto"\nnum_gpus = 0.5')
    toml.write_text(settings.format(root=scenes) + FINETUNE)

    env = {**os.environ, **LAZY, "RAY_AUTH_MODE": "disabled"}
    size = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 200_000_000}
    size["include_dashboard"] = False
    command = [sys.executable, "-m", "benchmark", "run", toml, "--store", tmp_path / "with"]
    with start_machines(env, **size) as machines:
        done = subprocess.run(
            [*command, "--address", machines.address], capture_output=True, text=True, env=env
        )
    assert done.returncode == 0, done.stderr
    assert "finetune: 1 GPU for 1 training" in done.stderr
    # A mode that does not suit is no failure: the run ended with 0.
    assert done.stderr.count('finetune: left out: [finetune] mode = "lora": backbone') == 1
    assert ", 1 left out in " in done.stdout
    statuses = {
        cell.cell.method: (cell.status, cell.reason)
        for cell in api.status(bm.load(toml), store=str(tmp_path / "with"))
        if cell.cell.stage == "finetune"
    }
    assert statuses["finetune-full"] == ("complete", "")
    assert statuses["finetune-lora"][0] == "left out"
    page = Path(done.stdout.splitlines()[-1]).read_text()
    assert statuses["finetune-lora"][1] in html.unescape(page)
    assert f"embed: random: {NO_CUDA}" in done.stderr
    tables = []
    for store in ("without", "with"):
        with api.open_context(frozen, store=str(tmp_path / store)) as context:
            embeddings = [context.embeddings(backbone) for backbone in context.backbones]
            tables.append([item.read_table().replace_schema_metadata() for item in embeddings])
            pools = [item.manifest()["pool"] for item in embeddings]
    assert pools == [{"num_actors": 2, "reason": "1 GPU: an actor on 0.5 of one"}] * 2
    assert tables[0] == tables[1]


@pytest.mark.parametrize("uses_gpu", [False, True])
def test_a_process_that_has_booked_no_gpu_uses_none_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, uses_gpu: bool
) -> None:
    from benchmark.stages.finetune import workers

    asked: list[str | None] = []

    def plan(**options: Any) -> None:
        asked.append(options["device"])
        raise CellError("asked")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(starting, "plan_device", plan)
    job = SimpleNamespace(uses_gpu=uses_gpu, uses_gpus=uses_gpu, asked=Asked(), num_threads=1)
    with pytest.raises(CellError, match="asked"):
        starting.start(cast(Any, job), cast(Any, None), np.zeros((1, 3, 8, 8), np.uint8), print)
    # None: a GPU where there is one.
    assert asked == [None if uses_gpu else "cpu"]
    if not uses_gpu:
        assert workers._device(cast(Any, job)) == torch.device("cpu")
