"""What frozen and fine-tuned took, from manifests of this version and of older ones."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.catalog.heads import HEADS
from benchmark.errors import UsageError
from benchmark.experiment.context import Context
from benchmark.experiment.costs import SideCost, find_costs, peaks_of, tabulate
from benchmark.experiment.file import settings_of
from benchmark.experiment.recipe import describe_experiment
from benchmark.prices import Prices, read_prices
from benchmark.stages.evaluate import costs_table
from benchmark.store.artefacts import Artefact
from benchmark.store.names import HEAD, WEIGHTS
from tests.finetuned import learned

OpenSmall = Callable[..., Context]

PRICES = """
currency = "EUR"
storage = 0.02

[[devices]]
name = "*H200*"
hour = 3.6

[[devices]]
name = "cpu"
hour = 0.36
"""


def took(seconds: float, joules: float | None = 50.0, **more: Any) -> dict[str, Any]:
    energy = {"joules": joules, "told_by": "RAPL"}
    return {"seconds": {"device": seconds}, "energy": energy, "peak_memory_bytes": 2**30, **more}


def complete(artefact: Artefact, manifest: dict[str, Any], *files: tuple[str, int]) -> None:
    for name, size in files:
        artefact.write_bytes(name, bytes(size))
    artefact.commit(manifest)


@pytest.fixture
def grid(open_small: OpenSmall) -> Context:
    """Two seeds of two heads, of one that reads no embedding, and of a fine-tuning."""
    context = open_small(
        seeds=[0, 1],
        backbones=[learned("one")],
        heads=[HEADS.get(name) for name in ("knn", "mlp", "majority")],
        finetune={"backbones": ["one"]},
    )
    gpu = {"device": "cuda", "model": "NVIDIA H200"}
    embedded = took(100.0, 3000.0, device=gpu, peak_device_bytes=2**32)
    (backbone,) = context.backbones
    complete(context.embeddings(backbone), embedded, ("part-000000.bin", 1000), ("_x.bin", 24))
    for cell in context.prediction_cells():
        seed = cell.seed or 0
        if cell.stage == "tune":
            seconds = {"knn": 2.0, "mlp": 8.0 + 4 * seed, "majority": 9.0}[cell.method or ""]
            complete(cell.artefact, took(seconds), (HEAD, 10), ("_y.bin", 500))
        else:
            plan = {"device": "NVIDIA H200"}
            manifest = took(1000.0 * (1 + seed), plan=plan, peak_device_bytes=2**33)
            complete(cell.artefact, manifest, (WEIGHTS, 4000 * (1 + seed)), ("_y.bin", 500))
    return context


def only(costs: list[SideCost], method: str) -> SideCost:
    (found,) = [cost for cost in costs if cost.method == method]
    return found


def test_frozen_is_the_embedding_and_all_searches_of_one_seed(grid: Context) -> None:
    cost = only(find_costs(grid), "")
    # 100 s, 2 s and the mean of 8 s and 12 s; the head that reads no embedding is not counted.
    assert (cost.num_heads, cost.device_seconds, cost.joules) == (2, 112.0, 3100.0)
    assert cost.devices == ("NVIDIA H200", "cpu")
    assert cost.storage_bytes == 1024 + 2 * 10
    assert (cost.peak_memory_bytes, cost.peak_device_bytes) == (2**30, 2**32)
    assert (cost.price, cost.storage_price, cost.currency) == (None, None, "")


def test_fine_tuned_is_its_search_and_weights(grid: Context) -> None:
    cost = only(find_costs(grid), "finetune")
    assert (cost.device_seconds, cost.joules, cost.storage_bytes) == (1500.0, 50.0, 6000)
    assert cost.peak_device_bytes == 2**33


def test_prices_are_those_of_each_device(grid: Context, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES)
    grid.prices = read_prices(str(tmp_path / "prices.toml"), where="x.toml [report]")
    frozen, tuned = (only(find_costs(grid), method) for method in ("", "finetune"))
    assert frozen.price == pytest.approx(100 * 3.6 / 3600 + 12 * 0.36 / 3600)
    assert tuned.price == pytest.approx(1.5)
    assert tuned.storage_price == pytest.approx(6000 / 1e9 * 0.02)
    columns, (row,) = tabulate([tuned])
    assert dict(zip(columns, row, strict=True))["price"] == "1.50 EUR"
    assert json.loads(json.dumps(tuned.to_json()))["side"] == "fine-tuned"
    rows = costs_table(grid).rows
    assert [row[1] for row in rows] == ["frozen, 2 heads", "finetune"]
    assert rows[0][-2] == "0.101 EUR"
    # No price of this device: nothing is made up.
    grid.prices = Prices.model_validate({"currency": "EUR", "storage": 1.0})
    assert only(find_costs(grid), "finetune").price is None


def test_what_one_manifest_lacks_is_not_summed(grid: Context) -> None:
    cell = next(cell for cell in grid.prediction_cells() if cell.method == "knn")
    older = {"seconds": {"device": 2.0}}
    known = {cell.artefact.path: older}
    cost = only(find_costs(grid, known), "")
    assert cost.device_seconds == 112.0
    assert (cost.joules, cost.peak_memory_bytes, cost.storage_bytes) == (None, None, None)
    columns, (row,) = tabulate([cost])
    assert columns[-1] == "stored, MB"
    assert row[4:6] == (None, None)
    silent = {cell.artefact.path: took(2.0, None)}
    assert only(find_costs(grid, silent), "").joules is None


def test_a_head_that_lacks_a_seed_is_not_counted(grid: Context) -> None:
    cell = next(cell for cell in grid.prediction_cells() if cell.method == "mlp")
    cell.artefact.delete("_manifest.json")
    cost = only(find_costs(grid), "")
    assert (cost.num_heads, cost.device_seconds) == (1, 102.0)


def test_a_fine_tuning_of_an_older_version_kept_the_peak_of_its_gpu() -> None:
    older = {"peak_memory_bytes": 7, "plan": {"device": "NVIDIA H200"}}
    assert peaks_of(older) == (None, 7)
    assert peaks_of({**older, "plan": {"device": "cpu"}}) == (7, None)
    assert peaks_of({**older, "energy": {}, "peak_device_bytes": 9}) == (7, 9)


def test_a_kept_experiment_knows_its_prices_and_a_repetition_needs_none(
    open_small: OpenSmall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    context = open_small(report={"prices": "prices.toml", "num_examples": 2})
    assert settings_of(context)["report"]["prices"] == str(tmp_path / "prices.toml")
    toml = tomllib.loads(describe_experiment(context)["toml"])
    assert toml["report"]["num_examples"] == 2
    assert "prices" not in toml["report"]


def test_prices_are_part_of_the_page_alone(grid: Context) -> None:
    plain = grid.report_inputs()
    assert "prices" not in plain
    assert "prices" not in plain["settings"]
    grid.prices = Prices.model_validate({"currency": "EUR", "storage": 1.0})
    assert {**grid.report_inputs(), "prices": None} == {**plain, "prices": None}
    assert grid.report_inputs() != plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("currency = 1", "'currency' = 1: Input should be a valid string"),
        ('currency = "EUR"', "it holds no price; write [[devices]] or 'storage'"),
        ('currency = "E R"\nstorage = 1.0', "'currency' = 'E R': String should match pattern"),
        ('currency = "EUR"\nstorage = -1.0', "'storage' = -1.0: Input should be greater than"),
        ('currency = "EUR"\nstorage = nan', "'storage' = nan: Input should be a finite number"),
        ('currency = "EUR"\ncosts = 1', "unknown setting 'costs'"),
        ("currency = ", "not valid TOML"),
    ],
)
def test_wrong_prices_are_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_prices(str(path), where="x.toml [report]")
    message = str(caught.value)
    assert message.startswith("x.toml [report]: prices ")
    assert words in message
    assert "\n" not in message


def test_a_missing_price_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prices '.*/none.toml': cannot be read: No such file"):
        read_prices(str(tmp_path / "none.toml"), where="x.toml [report]")
