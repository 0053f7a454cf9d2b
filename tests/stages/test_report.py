import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmark import api
from benchmark.config import build
from benchmark.stages.report import ReportStage
from benchmark.store.names import beside
from tests.browser import PHONE_WIDTH, a_browser, opened
from tests.finetuned import draw_scores, write_finetuned, write_head


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
    # BokehJS names a library of formulas, which it loads for texts with formulas alone.
    own = re.sub(r'id="bokeh-script">.*?</script>', "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', own)
    assert "@import" not in page and "url(http" not in page
    assert len(page) < 4_000_000


def test_what_depends_on_no_backbone_has_one_row(finished):
    _, _, result = finished
    page = Path(result.report).read_text()
    assert page.count('data-method="majority"') == 1
    assert 'data-backbone="any backbone"' in page
    headline = page[page.index('<p class="answer">') : page.index("<main>")]
    assert "the best floor" in headline or "Nothing beats" in headline
    assert "any backbone" not in headline


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
    assert json.loads((Path(result.report).parent / "_manifest.json").read_text())["scores"]


def test_the_explorer_holds_the_patches_and_predictions_behind_the_scores(finished):
    import base64
    import io

    import numpy as np

    _, _, result = finished
    page = Path(result.report).read_text()
    (text,) = re.findall(r'id="explorer-data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in text
    data = json.loads(text)
    assert data["classes"][0] == "<b>bold<\N{DIVISION SLASH}b> & co"
    tested = len(data["truth"])
    assert data["total"] == tested == data["splits"].count(2) < len(data["ids"]) == 36
    for method in data["methods"]:
        counts = np.zeros((3, 3), int)
        np.add.at(counts, (data["labels"][:tested], method["predicted"]), 1)
        assert counts.tolist() == method["counts"]
        assert all(333 <= value <= 1000 for value in method["confidence"])
    # Each class is a folder of its own, in a colour of its own.
    for k, name in enumerate(data["classes"]):
        mine = [item for item, label in zip(data["ids"], data["labels"], strict=True) if label == k]
        assert len(mine) == 12 and all(name[:4] in item for item in mine)
        (sheet,) = re.findall(
            rf"\.s{k} {{ background-image: url\(data:image/webp;base64,(.*?)\)", page
        )
        with Image.open(io.BytesIO(base64.b64decode(sheet))) as image:
            assert image.size == (16 * 16, 16)
            pixels = np.asarray(image.convert("RGB"))[:, : 12 * 16]
        assert abs(pixels.mean() - (39.5 + 60 * k)) < 6


def test_maps_are_left_out_where_figures_fill_the_page_and_other_predictions_are_refused(finished):
    from benchmark.errors import CellError
    from benchmark.page.html import Picture
    from benchmark.page.rendering import Drawing
    from benchmark.stages.report.explorer import explore
    from benchmark.stages.report.results import Results

    content, store, _ = finished
    heavy = Picture(section="data", title="x", drawing=Drawing(bytes(4_000_000), "png"))
    with api.open_context(build(content), store=str(store)) as context:
        results = Results(context)
        assert explore(results, ()).maps == tuple(dict.fromkeys(results.embed))
        without = explore(results, (heavy,))
        assert without.maps == () and without.data["maps"] == []
        assert "left out" in without.sentences[-1] and any(without.sheets)
        results.confusion = results.confusion.assign(
            counts=[counts[::-1] for counts in results.confusion["counts"]]
        )
        with pytest.raises(CellError, match="do not fit the scores"):
            explore(results, ())


def test_umap_needs_its_package_and_its_failure_costs_its_maps_alone(
    finished, tmp_path, monkeypatch
):
    from benchmark.errors import UsageError
    from benchmark.stages.report import explorer_maps
    from benchmark.stages.report.explorer import explore
    from benchmark.stages.report.results import Results

    content, store, _ = finished
    experiment = build({**content, "report": {"umap": True}})
    with api.open_context(experiment, store=str(store)) as context:
        results = Results(context)
        names = tuple(dict.fromkeys(results.embed))
        few = explore(results, ())
        assert few.maps == names
        assert few.data["neighbours"] == "Maps by UMAP need 100 patches with a picture."
        monkeypatch.setattr(explorer_maps, "MIN_NEIGHBOURS", 10)
        monkeypatch.setitem(sys.modules, "umap", None)
        broken = explore(results, ())
        assert broken.maps == names
        assert broken.data["neighbours"].startswith("Maps by UMAP are left out: ModuleNotFound")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for refused in (api.run, api.check):
        with pytest.raises(UsageError, match=r"umap-learn.*pip install .*\[umap\]"):
            refused(experiment, store=str(tmp_path / "runs"))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"experiments"}


def test_figures_lie_beside_the_page_as_pictures(finished):
    _, _, result = finished
    figures = sorted(Path(result.report).parent.glob("figure-*"))
    plots = [path for path in figures if path.suffix == ".svg"]
    photographs = [path for path in figures if path.suffix == ".webp"]
    assert len(plots) >= 6 and len(plots) + len(photographs) == len(figures)
    assert [path.stem[10:] for path in photographs] == ["example-patches-of-each-class"]
    for path in plots:
        assert path.read_text().count("<path") > 5
    for path in photographs:
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
    assert "<td>missing</td><td>not computed: the next benchmark run computes it</td>" in page


def test_the_page_says_where_the_time_went(finished):
    _, _, result = finished
    page = Path(result.report).read_text()
    section = page.split('<section id="usage"')[1].split("</section>")[0]
    assert "is the bottleneck" in section
    assert "From the last run, without the report stage." in section
    rows = re.findall(r'<th scope="row">(\w+)</th>', section)
    assert rows == ["patches", "embed", "tune", "evaluate"]
    usage = {item["stage"]: item for item in result.to_json()["usage"]}
    assert set(usage) == {*rows, "report"}
    assert (usage["embed"]["num_items"], usage["embed"]["unit"]) == (36, "patches")
    assert 0 < usage["embed"]["utilisation"] < 1
    assert f">{usage['embed']['wall_s']:,.1f}</td>" in section


def test_the_page_of_a_run_that_went_on_says_that_there_were_more(finished, tmp_path):
    from benchmark.experiment.usage import StageUsage, load_usage, save_usage
    from benchmark.stages.report.usage import load_saved_usage, usage_sentences, usage_tables
    from benchmark.store.artefacts import Store

    content, store, _ = finished
    experiment = build({**content, "name": "went_on"})
    with api.open_context(experiment, store=str(tmp_path)) as context:
        nothing = load_saved_usage(context)
        assert usage_sentences(nothing) == usage_tables(nothing) == ()
        first = load_usage(Store(str(store)), "page").usages
        save_usage(context.store, "went_on", first)
        later = max(item.ended_s for item in first) + 3600
        save_usage(
            context.store,
            "went_on",
            [StageUsage("tune", later, later + 1e6, 2e6, 2, 4, 9, "trials")],
        )
        saved = load_saved_usage(context)
        *_, origin = usage_sentences(saved)
        assert origin.startswith("From 2 runs: each row shows the last run that computed something")
        assert usage_sentences(saved)[0].startswith("tune is the bottleneck (100 % of 10")
        (table,) = usage_tables(saved)
        assert [row[0] for row in table.rows] == ["patches", "embed", "evaluate", "tune"]


def test_a_second_report_writes_nothing(finished):
    content, store, result = finished
    before = Path(result.report).stat().st_mtime_ns
    with api.open_context(build(content), store=str(store)) as context:
        ReportStage().run(context)
    assert Path(result.report).stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def compared(finished):
    """The same experiment with a fine-tuned backbone, whose cells are written by hand."""
    from benchmark.catalog.heads import HEADS
    from benchmark.stages.evaluate import EvaluateStage

    content, store, _ = finished
    experiment = build(
        {**content, "backbones": ["mean_color", "random"], "finetune": {"backbones": ["random"]}}
    )
    with api.open_context(experiment, store=str(store)) as context:
        patches = context.patches.read_table(
            columns=["patch_id", "split", "label"], splits=("val", "test")
        )
        ids, labels = patches["patch_id"].to_numpy(), patches["label"].to_numpy()
        backbone = context.backbones[1]
        for seed in (0, 1):
            scores = draw_scores(labels, 3, accuracy=0.5, seed=seed)
            for head in ("knn", "majority"):
                artefact = context.predictions(backbone, HEADS.get(head), seed)
                write_head(artefact, ids, scores, val_score=0.5)
            tuned = draw_scores(labels, 3, accuracy=1.0, seed=seed)
            note = "random: out of memory: the micro-batch was halved to 8 <i>"
            write_finetuned(context.finetuned(backbone, seed), ids, tuned, notes=(note,))
        EvaluateStage().run(context)
        (item,) = ReportStage().run(context).cells
        assert item.status == "complete", item.reason
        yield context


def test_the_page_compares_frozen_and_fine_tuned(compared):
    page = compared.report().read_bytes("index.html").decode()
    section = page[page.index('<section id="finetune"') : page.index('<section id="ranking"')]
    (row,) = compared.scores().read_table(names=[beside("comparison")]).to_pylist()
    ends = [f"{100 * row[key]:+.1f}" for key in ("gain", "gain_low", "gain_high")]
    assert f'<th scope="row" class="name">random</th><td class="num"><strong>{ends[0]}' in section
    assert f"{ends[1]} to {ends[2]}</td>" in section
    assert f">{row['verdict']}</span></td><td>knn</td>" in section
    assert f"With random, {row['sentence']}." in page[: page.index("<main>")]
    assert "What fine-tuning gains" in section
    assert "Balanced accuracy against device-seconds" in section
    detail = page[page.index('<section id="training"') : page.index('<section id="metrics"')]
    assert "Learning curves" in detail and "Fine-tuned against frozen" in detail
    assert "Confusion of fine-tuned random, seed 0" in page
    # Nothing is known of what the embeddings took, so neither is the ratio.
    assert row["ratio"] is None


def test_the_page_shows_the_cost_of_frozen_beside_fine_tuned(compared, finished):
    pages = (Path(finished[2].report).read_text(), compared.report().read_bytes("index.html"))
    for page, sides in zip(
        pages, (["frozen, 1 head"], ["frozen, 1 head", "finetune"]), strict=True
    ):
        text = page if isinstance(page, str) else page.decode()
        table = text[text.index("Frozen beside fine-tuned") :].split("</table>")[0]
        names = re.findall(r'<th scope="row">([^<]*)', table)
        # The head that reads no embedding is no part of it.
        assert [name for name in names if name.startswith(("frozen", "fine"))] == sides


def test_notes_of_fine_tuning_stand_once_and_escaped(compared):
    page = compared.report().read_bytes("index.html").decode()
    found = re.findall(r"<li>random / finetune / ([^<]*)</li>", page)
    assert found == [
        "seeds 0, 1: out of memory: the micro-batch was halved to 8 &lt;i&gt;",
    ]


def test_the_page_and_its_manifest_say_what_each_backbone_was_fed(compared):
    artefact = compared.report()
    page = artefact.read_bytes("index.html").decode()
    section = page[page.index('<section id="backbones"') : page.index('<section id="classes"')]
    section = section.replace("<wbr>", "")
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", section)
    at = cells.index("random")
    assert cells[at + 1 : at + 7] == [
        "EfficientNet-Lite0 with untrained weights", "1,280", "red, green, blue",
        "resize to 224 px (bilinear)", "0.5", "0.5",
    ]  # fmt: skip
    at = cells.index("mean_color")
    assert cells[at + 2 : at + 7] == ["6", "red, green, blue", "as they are", "0", "1"]
    assert "Patches are 16 x 16 px." in section
    declared = {item["name"]: item for item in artefact.manifest()["backbones"]}
    assert list(declared) == ["mean_color", "random"]
    random = declared["random"]
    assert (random["dim"], random["bands"]) == (1280, ["red", "green", "blue"])
    assert (random["image_size"], random["resize_to"]) == (224, None)
    assert (random["mean"], random["std"], random["options"]) == ([0.5], [0.5], {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": None}, "as they are"),
        ({"image_size": 128}, "as they are"),
        ({"processor": "BlipImageProcessor"}, "by its BlipImageProcessor, 100 px"),
        ({"resize_to": 128}, "as they are, centre 100 px"),
        ({"interpolation": "bicubic"}, "resize to 100 px (bicubic)"),
        (
            {"resize_to": 114, "is_rounded": True},
            "resize to 114 px (bilinear, rounded), centre 100 px",
        ),
    ],
)
def test_how_patches_come_to_their_size_is_said_in_words(changes, words):
    from benchmark.stages.report.backbones import size_words

    item = {
        "image_size": 100, "resize_to": None, "interpolation": "bilinear", "is_rounded": False,
        "processor": None, **changes,
    }  # fmt: skip
    assert size_words(item, 128) == words


def test_a_run_in_which_nothing_was_lost_has_no_section_of_repairs(finished):
    _, _, result = finished
    assert "Recovered failures" not in Path(result.report).read_text()


def test_repairs_name_each_cell_and_count_a_machine_of_several_cells_once(compared):
    from benchmark.stages.report.repairs import repairs
    from benchmark.stages.report.results import Results

    results = Results(compared)
    lost = {"kind": "node_lost", "count": 1, "detail": "10.0.0.7 (0a1b2c3d)"}
    died = {"kind": "trial_repeated", "count": 2, "detail": "its process died"}
    results.embed["mean_color"]["incidents"] = [lost]
    cell = next(iter(results.tuned))
    results.tuned[cell]["incidents"] = [lost, died]
    (table,) = repairs(results)
    assert table.title == "1 machine lost, 2 trials restarted"
    assert table.rows == (
        ("embed", "mean_color", "machine lost", 1, "10.0.0.7 (0a1b2c3d)"),
        ("tune", "mean_color / knn / seed 0", "machine lost", 1, "10.0.0.7 (0a1b2c3d)"),
        ("tune", "mean_color / knn / seed 0", "trials restarted", 2, "its process died"),
    )


def test_fine_tuning_pays_for_no_embeddings_and_costs_one_seed(compared):
    from benchmark.stages.report.content import collect
    from benchmark.stages.report.results import Results

    data = collect(Results(compared))
    rows = {(row.backbone, row.method): row for row in data.ranking}
    assert rows["random", "finetune"].seconds == pytest.approx(380.0)
    assert not rows["random", "finetune"].is_floor
    assert rows["random", "knn"].seconds is None
    embedded = compared.embeddings(compared.backbones[0]).manifest()["seconds"]["device"]
    assert embedded < rows["mean_color", "knn"].seconds < 300
    table = next(table for table in data.timings if table.title == "finetune")
    assert table.rows[0][:3] == ("random", 0, "full")
    assert table.rows[0][-1] == "cpu, float32, micro-batch 8, workers 1"
    assert data.provenance["weights of random"] == "none"
    assert "fine-tuning of random, seed 1" in data.provenance


def test_curves_know_the_best_trial_and_its_epoch(compared):
    from benchmark.stages.report.finetuning import learning_curves
    from benchmark.stages.report.results import Results

    rows = learning_curves(Results(compared))
    assert len(rows) == 16
    assert set(rows[rows["is_best"]]["trial"]) == {1}
    assert rows[rows["is_chosen"]]["epoch"].tolist() == [3, 3]


def test_without_fine_tuning_the_page_has_no_such_section(finished):
    _, _, result = finished
    assert "Frozen or fine-tuned" not in Path(result.report).read_text()


@pytest.mark.slow
def test_a_real_browser_shows_the_page_of_a_run(compared, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(compared.report().read_bytes("index.html"))
    with a_browser() as browser, opened(browser, path) as shown:
        # Majority was written by hand, with other scores for each backbone: both are shown.
        assert len(shown.rows()) == 5
        assert shown.faults() == []
        assert (shown.requests, shown.errors) == ([], [])
        sizes = shown.page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert len(sizes) >= 8 and min(sizes) > 200
        shown.page.emulate_media(media="print")
        heights = shown.page.locator("main :is(img, figcaption, table.confusion)").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert len(heights) >= 2 * len(sizes) and min(heights) > 5
        assert not shown.page.locator("#explorer").is_visible()
    with a_browser() as browser, opened(browser, path, width=PHONE_WIDTH, is_dark=True) as shown:
        assert not shown.is_wider_than_its_window()
        assert shown.faults() == []


def test_of_several_modes_the_page_says_which_and_at_what_cost(finished):
    from benchmark.stages.evaluate import EvaluateStage, comparison_table
    from benchmark.stages.report.content import collect
    from benchmark.stages.report.results import Results

    content, store, _ = finished
    table = {"backbones": ["random"], "modes": ["full", "lora"]}
    experiment = build({**content, "backbones": ["mean_color", "random"], "finetune": table})
    with api.open_context(experiment, store=str(store)) as context:
        patches = context.patches.read_table(
            columns=["patch_id", "split", "label"], splits=("val", "test")
        )
        ids, labels = patches["patch_id"].to_numpy(), patches["label"].to_numpy()
        for cell in context.prediction_cells():
            if cell.method == "knn" and cell.backbone == "random":
                scores = draw_scores(labels, 3, accuracy=0.0, seed=cell.seed)
                write_head(cell.artefact, ids, scores, val_score=0.5)
            elif cell.stage == "finetune":
                scores = draw_scores(labels, 3, accuracy=1.0, seed=cell.seed)
                seconds = 40.0 if cell.method == "finetune-full" else 10.0
                write_finetuned(cell.artefact, ids, scores, seconds=seconds)
        EvaluateStage().run(context)
        (item,) = ReportStage().run(context).cells
        assert item.status == "complete", item.reason
        page = context.report().read_bytes("index.html").decode()
        printed = comparison_table(context.scores())
        data = collect(Results(context))
        methods = [row.method for row in data.ranking if row.backbone == "random"]
    section = page[page.index('<section id="finetune"') : page.index('<section id="ranking"')]
    assert {"finetune-full", "finetune-lora", "knn"} <= set(methods)
    (choice,) = data.choices
    assert choice.sentence == (
        "fine-tuning (full) leads with 100.0 % balanced accuracy; fine-tuning (lora) is the "
        "cheapest choice without a detectable difference from it, at 25 % of the device-seconds"
    )
    assert f"With <strong>random</strong>, {choice.sentence}." in section
    assert f"With random, {choice.sentence}." in page[: page.index("<main>")]
    assert f"With random, {choice.sentence}." in printed.notes
    assert [row[0] for row in printed.rows] == ["random (full)", "random (lora)"]
    answer, pairs = data.comparisons
    assert answer.title == "random: frozen, or which fine-tuning"
    assert [(row[0], row[5], row[-1]) for row in answer.rows[:2]] == [
        ("finetune-full", 40, ""),
        ("finetune-lora", 10, "yes"),
    ]
    assert [row[0] for row in pairs.rows] == ["random (full)", "random (lora)"]
    assert "Confusion of fine-tuned random (full), seed 0" in page


REFERENCE = """
title = "A paper <i>"
source = "Table 2"
dataset = "elsewhere"
classes = ["<b>bold<\\u2215b> & co", "field", "water"]

[[rows]]
name = "Features + neighbours"
value = 0.7222
backbone = "mean_color"
method = "logistic_regression"
confusion = [[2, 1, 0], [0, 4, 0], [1, 1, 2]]

[[rows]]
name = "A network"
value = 0.9
"""


def test_published_results_stand_beside_their_counterparts(finished, tmp_path):
    from benchmark.stages.report.content import collect
    from benchmark.stages.report.results import Results

    content, store, result = finished
    (tmp_path / "paper.toml").write_text(REFERENCE)
    shown = {
        "reference": str(tmp_path / "paper.toml"),
        "counterparts": {"Features + neighbours": "mean_color / knn"},
    }
    with api.open_context(build({**content, "report": shown}), store=str(store)) as context:
        assert str(context.report().folder) not in result.report
        (item,) = ReportStage().run(context).cells
        assert item.status == "complete", item.reason
        page = context.report().read_bytes("index.html").decode()
        data = collect(Results(context))
    scores, patches = data.beside.tables
    (own,) = [row for row in data.ranking if row.method == "knn"]
    ends = f"{own.ci_low:.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{own.ci_high:.3f}"
    first, second, rest = scores.rows
    # 2 of 3, 4 of 4 and 2 of 4 right: the score interval of a mean of three shares.
    low, high = map(float, first[2].split("\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"))
    assert 0.3 < low < 0.5 and 0.85 < high < 0.97
    points = f"{100 * (own.value - 0.7222):+.1f}"
    assert first[3:] == ("mean_color with knn", own.value, ends, points)
    assert second == ("A network", 0.9, "\N{EN DASH}", None, None, None, None)
    assert rest[:4] == ("majority", None, None, "majority")
    assert patches.rows[-1] == ("all", 11, sum(row[2] for row in patches.rows[:-1]))
    (pair,) = data.beside.confusions
    assert [item.title for item in pair] == [
        "Features + neighbours, published", "mean_color with knn, seed 0, this run",
    ]  # fmt: skip
    section = page[page.index('<section id="reference"') : page.index('<section id="metrics"')]
    assert "A paper &lt;i&gt;" in section and "Table 2" in section
    assert "published results are of elsewhere, this run is of folder" in section
    assert "The test patches differ: 11 published" in section
    assert "no verdict" in section and section.count("<img") == 1
    assert section.count('<table class="confusion">') == 2


def test_without_a_reference_the_page_has_no_such_section(finished):
    _, _, result = finished
    assert 'id="reference"' not in Path(result.report).read_text()
