import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from benchmark import api
from benchmark.config import build
from benchmark.stages.report import ReportStage
from tests.browser import find_browser, screenshot


@pytest.fixture(scope="module")
def finished(ray_session, experiment_content, tmp_path_factory):
    """A run of the small experiment over a folder with a class that tries to be a script."""
    import numpy as np

    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("<b>bold</b> & co", "field", "water")):
        (root / name.replace("/", "\N{DIVISION SLASH}")).mkdir()
        for index in range(12):
            pixels = rng.integers(0, 80, (20, 20, 3)) + 60 * number
            Image.fromarray(pixels.astype("uint8")).save(
                root / name.replace("/", "\N{DIVISION SLASH}") / f"{index:02d}.png"
            )
    content = {
        **experiment_content,
        "name": "page",
        "seeds": [0, 1],
        "heads": ["knn", "majority"],
        "dataset": {"name": "folder", "root": str(root), "patch_size": 16},
    }
    store = tmp_path_factory.mktemp("report") / "runs"
    result = api.run(build(content), store=str(store))
    assert not result.failed
    return content, store, result


def test_the_page_is_one_file_that_needs_no_network(finished):
    _, _, result = finished
    page = Path(result.report).read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert "@import" not in page and "url(http" not in page


def test_all_text_is_escaped(finished):
    _, _, result = finished
    page = Path(result.report).read_text()
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_the_page_says_that_the_split_is_random_and_shows_every_section(finished):
    _, _, result = finished
    page = Path(result.report).read_text()
    for text in ("random", "Ranking", "Confusion", "Embeddings", "Provenance", "Cost"):
        assert text in page
    assert json.loads((Path(result.report).parent / "manifest.json").read_text())["scores"]


def test_figures_lie_beside_the_page_as_pictures(finished):
    _, _, result = finished
    figures = sorted(Path(result.report).parent.glob("figure-*.png"))
    assert len(figures) >= 8
    for path in figures:
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 5


def test_a_partial_grid_shows_its_gaps(finished, tmp_path):
    content, store, _ = finished
    wider = build({**content, "heads": ["knn", "majority", "logistic_regression"]})
    with api.open_context(wider, store=str(store)) as context:
        from benchmark.stages.evaluate import EvaluateStage

        EvaluateStage().run(context)
        (item,) = ReportStage().run(context).cells
        assert item.status == "complete"
        page = context.report().read_bytes("index.html").decode()
    assert "mean_color / logistic_regression / seed 0" in page
    assert "missing" in page


def test_a_second_report_writes_nothing(finished):
    content, store, result = finished
    before = Path(result.report).stat().st_mtime_ns
    with api.open_context(build(content), store=str(store)) as context:
        ReportStage().run(context)
    assert Path(result.report).stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_real_browser_shows_the_page(finished, tmp_path):
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    _, _, result = finished
    try:
        path = screenshot(browser, Path(result.report), tmp_path / "page.png")
    except subprocess.TimeoutExpired:
        pytest.fail("the browser did not finish")
    with Image.open(path) as image:
        assert image.size[0] == 1100
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 100
