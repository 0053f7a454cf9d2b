"""Backbones of every source, with real weights, rank as they should on real photographs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file

from benchmark.catalog.efficientnet import lite_weights
from tests.browser import PHONE_WIDTH, a_browser, opened
from tests.forked_workers import BENCHMARK
from tests.page.driven import drive

SHARED = Path(__file__).resolve().parents[3] / "shared"
PHOTOGRAPHS = SHARED / "data" / "ucmerced-mini"
FOLDER = SHARED / "weights" / "mobilenet_v2_imagenet"
TIMM = "tf_efficientnet_lite0"

LEARNED = {f"hf:{FOLDER}", f"timm:{TIMM}.in1k", "efficientnet_lite0"}
UNLEARNED = {"torchgeo:rcf", "pca", "hog", "mean_color"}

PAGE = os.environ.get("BENCHMARK_PAGE")
"""Another page to drive in a browser: that of a long run, with fine-tunings and several seeds."""

MOST_CLASSES = 10
MOST_OF_EACH = 30
"""With four in ten for the test, these tell the backbones apart by twice what is asked for."""

pytestmark = pytest.mark.slow


def fill_cache(home: Path) -> None:
    """Put the weights of timm's network into a cache of the hub, as a download would.

    They are those of the package that this project needs: the same tensors by other names.
    """
    network = timm.create_model(TIMM)
    names = [name for name in network.state_dict() if "num_batches_tracked" not in name]
    stored = torch.load(lite_weights(0), weights_only=True, map_location="cpu")
    values = [value for name, value in stored.items() if "num_batches_tracked" not in name]
    folder = home / "hub" / f"models--timm--{TIMM}.in1k"
    commit = "a" * 40
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    tensors = {name: value.contiguous() for name, value in zip(names, values, strict=True)}
    save_file(tensors, folder / "snapshots" / commit / "model.safetensors")


def choose_photographs(root: Path) -> None:
    """Copy the first photographs of the first classes below a folder."""
    for folder in sorted(PHOTOGRAPHS.iterdir())[:MOST_CLASSES]:
        (root / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:MOST_OF_EACH]:
            shutil.copyfile(path, root / folder.name / path.name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of the command, by nothing but an experiment file."""
    for folder in (PHOTOGRAPHS, FOLDER):
        if not folder.is_dir():
            pytest.skip(f"{folder} is not here")
    work = tmp_path_factory.mktemp("photographs")
    fill_cache(work / "hf")
    choose_photographs(work / "images")
    toml = work / "photographs.toml"
    toml.write_text(
        f"""
        name = "photographs"
        backbones = {json.dumps(sorted(LEARNED | UNLEARNED))}
        heads = ["logistic_regression", "majority"]
        [dataset]
        name = "folder"
        root = "{work / "images"}"
        patch_size = 128
        test_fraction = 0.4
        [embed]
        num_actors = 1
        [tune]
        num_trials = 3
        [evaluate]
        num_resamples = 20
        """
    )
    done = subprocess.run(
        [*BENCHMARK, "run", str(toml), "--json", "--store", "runs"],
        cwd=work,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HF_HOME": str(work / "hf"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        },
    )
    assert done.returncode == 0, done.stderr
    return work, json.loads(done.stdout)


@pytest.fixture(scope="module")
def accuracy(run):
    """Balanced accuracy on test by (backbone, head)."""
    work, answer = run
    scores = pq.read_table(work / answer["scores"]).to_pandas()
    rows = scores[(scores["metric"] == "balanced_accuracy") & (scores["split"] == "test")]
    return {(row.backbone, row.method): row.value for row in rows.itertuples()}


def test_learned_features_rank_above_hand_crafted_ones_and_those_above_chance(accuracy):
    """The hand-crafted ones and chance are apart, too; rcf is no learned network."""
    best = {name: accuracy[name, "logistic_regression"] for name in LEARNED | UNLEARNED}
    lowest = min(best[name] for name in LEARNED)
    assert lowest > max(best[name] for name in UNLEARNED) + 0.05, best
    chance = accuracy["mean_color", "majority"]
    assert min(best[name] for name in UNLEARNED) > chance + 0.3, best


def test_one_network_from_two_sources_gives_nearly_the_same(accuracy):
    """The package and timm feed the same weights with other preprocessing."""
    from_timm = accuracy[f"timm:{TIMM}.in1k", "logistic_regression"]
    assert abs(from_timm - accuracy["efficientnet_lite0", "logistic_regression"]) < 0.1


def test_the_report_declares_what_each_was_fed(run):
    work, answer = run
    page = (work / answer["report"]).read_text()
    for name in LEARNED | UNLEARNED:
        assert name in page
    assert "images examined" in page and "windows" not in page
    manifest = json.loads((work / answer["report"]).with_name("_manifest.json").read_text())
    declared = {item["name"]: item for item in manifest["backbones"]}
    assert declared.keys() == LEARNED | UNLEARNED
    asked = json.loads((FOLDER / "preprocessor_config.json").read_text())
    used = declared[f"hf:{FOLDER}"]
    assert used["mean"] == asked["image_mean"] and used["std"] == asked["image_std"]
    assert used["image_size"] == asked["crop_size"]["height"]
    assert declared["pca"]["fit"] is not None


@pytest.fixture(scope="module")
def page(request):
    if PAGE:
        return Path(PAGE)
    work, answer = request.getfixturevalue("run")
    return work / answer["report"]


def test_a_reader_drives_the_page_in_a_browser(page):
    with a_browser() as browser:
        with opened(browser, page) as shown:
            drive(shown)
        for settings in ({"is_dark": True}, {"width": PHONE_WIDTH}):
            with opened(browser, page, **settings) as shown:
                assert not shown.is_wider_than_its_window()
                assert shown.faults() == []
                assert (shown.requests, shown.errors) == ([], [])
