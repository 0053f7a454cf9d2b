"""The Python interface: what is public, what is refused in one line, and how values are shown."""

from __future__ import annotations

import logging
import pickle
import pydoc
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import benchmark as bm
from benchmark import config, interactive
from benchmark.experiment.cells import Cell, CellResult, TextTable
from benchmark.frames import index_scores
from benchmark.results import CellResults, DataCard, Report, RunResult
from benchmark.store.artefacts import Store

PUBLIC = sorted(bm.__all__)
DATASET = {"name": "folder", "root": "images"}


def experiment(**settings: Any) -> bm.Experiment:
    return bm.Experiment(
        **{"name": "toy", "backbones": ["mean_color"], "dataset": DATASET, **settings}
    )


# --- what is public ---


def test_completion_shows_what_is_public_and_imports_nothing() -> None:
    script = """
        import sys
        import benchmark as bm
        names = [name for name in dir(bm) if not name.startswith("_")]
        assert names == sorted(bm.__all__), names
        assert "__version__" in dir(bm)
        ours = [name for name in sys.modules if name.startswith("benchmark.")]
        assert not ours, ours
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


def test_modules_that_were_imported_are_not_among_the_names() -> None:
    assert interactive.api.load  # `benchmark.api` is now an attribute of the package.
    assert "api" not in dir(bm)


def test_help_shows_every_public_name_with_what_it_does() -> None:
    text = pydoc.plain(pydoc.render_doc(bm))
    described = text[text.index("\nCLASSES\n") :]
    for name in PUBLIC:
        assert f" {name}(" in described or f"class {name}" in described, name
    assert "Run all stages, in parallel if the cluster has room" in described
    assert f"VERSION\n    {bm.__version__}" in described


def test_the_public_names_are_sorted_and_documented() -> None:
    assert list(bm.__all__) == sorted(bm.__all__)
    assert set(bm._MODULES) <= set(bm.__all__)
    assert all(getattr(bm, name).__doc__ for name in PUBLIC)


def test_the_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    assert bm.__version__ == importlib.metadata.version("backbone-benchmark")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert bm.__version__ == "unknown"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scoers'"):
        _ = bm.scoers  # type: ignore[attr-defined]


# --- what is refused ---


TOY = experiment()
ONE_SCORE = pd.DataFrame(
    [
        {
            **{"backbone": "a", "method": "b", "train_set": "all", "seed": 0, "split": "test"},
            **{"metric": "balanced_accuracy", "value": 0.5},
        }
    ]
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bm.load(3), r"bm\.load: path = 3: give the path of a TOML file"),
        (lambda: bm.load(b"x.toml"), r"bm\.load: path = b'x\.toml': give the path"),
        (lambda: bm.load("\0"), r"bm\.load: path = '\\x00': it contains the control character"),
        (lambda: bm.load("x.toml", "a=1"), r"bm\.load: overrides = 'a=1': give a list"),
        (lambda: bm.load("x.toml", 5), r"bm\.load: overrides = 5: give a list"),
        (lambda: bm.load("x.toml", [5]), r"bm\.load: overrides = 5: give a list"),
        (lambda: bm.load("nothing.toml"), r"nothing\.toml: no such experiment file"),
        (lambda: bm.run("x.toml"), r"bm\.run: experiment = 'x\.toml': .* from bm\.load\(PATH\)"),
        (lambda: bm.run(TOY, store=7), r"bm\.run: store = 7: give a path"),
        (lambda: bm.run(TOY, store=""), r"bm\.run: store = '': it is empty"),
        (lambda: bm.run(TOY, store="s3:/a"), r"store 's3:/a': .*Did you mean 's3://a'"),
        (lambda: bm.run(TOY, address=6379), r"bm\.run: address = 6379: give HOST:PORT"),
        (lambda: bm.run(TOY, address=" "), r"bm\.run: address = ' ': give HOST:PORT"),
        (lambda: bm.run(TOY, progress="no"), r"bm\.run: progress = 'no': give True, False or"),
        (lambda: bm.scores(None), r"bm\.scores: experiment = None: give an experiment"),
        (lambda: bm.scores(TOY, store=1.5), r"bm\.scores: store = 1\.5: give a path"),
        (lambda: bm.status(TOY, store=[]), r"bm\.status: store = \[\]: give a path"),
        (lambda: bm.status(TOY, verify=1), r"bm\.status: verify = 1: give True or False"),
        (lambda: bm.report({}), r"bm\.report: experiment = \{\}: give an experiment"),
        (lambda: bm.export(TOY, backbone=None, out="x"), r"bm\.export: backbone = None: give"),
        (lambda: bm.export(TOY, backbone="a", out=3), r"bm\.export: out = 3: give a new folder"),
        (lambda: bm.export(TOY, backbone="a", out="x", method=3), r"method = 3: give 'finetune'"),
        (lambda: bm.export(TOY, backbone="a", out="x", seed=True), r"seed = True: give a seed"),
        (lambda: bm.export(TOY, backbone="a", out="x", repo=3), r"repo = 3: give ORG/NAME"),
        (lambda: bm.load_head(None), r"bm\.load_head: artefact = None: give a path"),
        (lambda: bm.prepare(3, "x"), r"bm\.prepare: dataset = 3: give the name of a data set"),
        (lambda: bm.prepare("folder", "x"), r"prepare: the data set 'folder' is your own data"),
        (lambda: bm.prepare("synthetic", None), r"bm\.prepare: root = None: give a path"),
        (lambda: bm.prepare("synthetic", "x", size="9"), r"bm\.prepare: size = '9': give a num"),
        (lambda: bm.prepare("synthetic", "x", size=9), r"synthetic: size = 9: give a number from"),
        (lambda: bm.prepare("chesapeake", "x", seed=1), r"prepare: seed does not apply to the"),
        (lambda: bm.prepare("synthetic", "x", progress=0), r"prepare: progress = 0: give True"),
        (lambda: bm.aggregate([]), r"bm\.aggregate: frames = \[\]: give \{NAME: bm\.scores"),
        (lambda: bm.aggregate({"a": 3}), r"bm\.aggregate: 'a' is not a frame of scores"),
        (lambda: bm.aggregate({"a": pd.DataFrame()}), r"'a' is not a frame of scores"),
        (lambda: bm.aggregate({"a": ONE_SCORE}, confidence=95), r"confidence = 95: give a numb"),
        (lambda: bm.aggregate({"a": ONE_SCORE}, split="train"), r"split = 'train': give 'test'"),
        (
            lambda: bm.aggregate({"a": ONE_SCORE}, metric="balanced_acuracy"),
            r"metric = 'balanced_acuracy': .* Did you mean 'balanced_accuracy'\?",
        ),
    ],
)
def test_a_wrong_argument_is_one_clear_line(call: Any, message: str) -> None:
    with pytest.raises(bm.UsageError, match=message):
        call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbones": 3}, r"^the experiment: 'backbones' = 3: should be a valid tuple$"),
        ({"seeds": [-1]}, r"^the experiment: 'seeds' = \[-1\]: -1 is not between 0 and"),
        ({"sedes": [1]}, r"^the experiment: unknown setting 'sedes'. Did you mean 'seeds'\?"),
        ({"dataset": {"name": "folder"}}, r"^the experiment \[dataset\]: the setting 'root' is"),
        ({"tune": {"num_trials": 0}}, r"^the experiment \[tune\]: 'num_trials' = 0: should be"),
        ({"backbone": {"random": {}}}, r"\[backbone.\"random\"\]: 'random' is not among"),
        ({"dataset": {**DATASET, "val_regions": []}}, r"'val_regions' = \[\]: list at least"),
        ({"path": 3}, r"'path' = 3: should be a valid string"),
    ],
)
def test_an_experiment_made_in_python_is_checked_like_a_file(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(bm.UsageError, match=message):
        experiment(**settings)


def test_an_experiment_made_in_python_without_a_setting_names_it() -> None:
    with pytest.raises(bm.UsageError, match=r"^the experiment: the setting 'backbones' is m"):
        bm.Experiment(name="x")


def test_a_copy_with_other_settings_is_checked_before_it_is_used() -> None:
    copy = TOY.model_copy(update={"seeds": "x"})
    with pytest.raises(bm.UsageError, match=r"^the experiment: 'seeds' = 'x': should be a valid"):
        bm.run(copy)
    with pytest.raises(bm.UsageError, match=r"^the experiment: 'seeds' = 'x': should be a valid"):
        bm.scores(copy)


def test_a_whole_experiment_file_is_still_valid_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bm.Experiment] = []
    monkeypatch.setattr(interactive.api, "run", lambda experiment, **_: given.append(experiment))
    monkeypatch.setattr(interactive, "_last_stores", {})
    files = sorted((Path(__file__).resolve().parents[1] / "experiments").glob("*.toml"))
    for path in files:
        bm.run(config.load(path), progress=False)
    assert [Path(item.path) for item in given] == files


def test_numbers_of_a_frame_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(interactive.api, "export", lambda _, **all: (given.update(all), None))
    seed = pd.Series([4])[0]
    assert type(seed) is not int
    bm.export(TOY, backbone="a", out="x", seed=seed)
    assert given["seed"] == 4 and type(given["seed"]) is int


def test_a_store_in_which_nothing_was_written_is_not_remembered(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    mine = experiment(store=str(tmp_path / "mine"))
    with pytest.raises(bm.UsageError, match="cannot be written"):
        bm.run(mine, store=blocked / "runs")
    assert mine.model_dump_json() not in interactive._last_stores


# --- several data sets ---


def scores(**values: float) -> pd.DataFrame:
    """The scores of the backbones ``a``, ``b`` ... with one head and two seeds."""
    return pd.DataFrame(
        [
            {"backbone": name, "method": "knn", "train_set": "all", "seed": seed, "split": split}
            | {"metric": metric, "value": value - 0.01 * seed}
            for name, value in values.items()
            for seed in (0, 1)
            for split in ("val", "test")
            for metric in ("accuracy", "expected_calibration_error")
        ]
    )


def test_several_data_sets_are_aggregated_with_their_metric_and_split() -> None:
    frames = {"here": scores(a=0.9, b=0.7, c=0.2), "there": scores(a=0.8, b=0.6, d=0.1)}
    table = bm.aggregate(frames, metric="accuracy", split="val")
    assert table.index.names == ["backbone", "method"]
    assert table.index.tolist() == [("a", "knn"), ("b", "knn")]
    pd.testing.assert_frame_equal(
        bm.aggregate(
            {key: index_scores(frame) for key, frame in frames.items()},
            metric="accuracy",
            split="val",
        ),
        table,
    )
    assert table["mean_rank"].tolist() == [1.0, 2.0]
    assert set(table["metric"]) == {"accuracy"}
    assert set(table["split"]) == {"val"}


def test_what_cannot_be_aggregated_is_refused() -> None:
    here = scores(a=0.9, b=0.7)
    with pytest.raises(bm.UsageError, match="give a metric of which more is better"):
        bm.aggregate({"a": here, "b": here}, metric="expected_calibration_error")
    with pytest.raises(bm.BenchmarkError, match="1 data sets have 2 methods with 'accuracy' on"):
        bm.aggregate({"a": here}, metric="accuracy")
    with pytest.raises(bm.BenchmarkError, match="0 data sets have 0 methods"):
        bm.aggregate({})


# --- how values are shown ---


def test_an_experiment_is_shown_in_a_line_and_as_a_table() -> None:
    shown = experiment(heads=["knn"], seeds=[0, 1], tune={"num_trials": 3})
    assert (
        repr(shown) == str(shown) == "<Experiment 'toy': 1 backbone x 1 head x 2 seeds on folder>"
    )
    assert repr(experiment(finetune={})).endswith("on folder, fine-tuned as well>")
    page = shown._repr_html_()
    assert "<td>tune.num_trials</td><td>3</td>" in page
    assert "<td>seeds</td><td>0, 1</td>" in page
    assert "tune.pruning" not in page
    assert "<script>" not in experiment(dataset={**DATASET, "root": "<script>"})._repr_html_()
    assert pickle.loads(pickle.dumps(shown)) == shown


def cell(store: Path, status: Any, reason: str = "", **names: Any) -> CellResult:
    artefact = Store(str(store)).artefact("tune", "x", "0123")
    return CellResult(
        cell=Cell(stage="tune", artefact=artefact, dataset="toy", **names),
        status=status,
        reason=reason,
    )


def test_cells_are_shown_by_their_counts_and_as_a_table(tmp_path: Path) -> None:
    cells = CellResults(
        [
            cell(tmp_path, "complete", backbone="a", method="knn", seed=0),
            cell(tmp_path, "failed", "out of <memory>", backbone="b", method="knn", seed=0),
        ]
    )
    assert repr(cells) == "<2 cells: 1 complete, 1 failed>"
    assert repr(cells[1]) == "<tune of b / knn / seed 0: failed: out of <memory>>"
    assert repr(cells.failed) == "<1 cell: 1 failed>"
    assert repr(CellResults()) == "<0 cells: none>"
    assert "<td>failed</td><td>out of &lt;memory&gt;</td>" in cells._repr_html_()
    frame = cells.to_frame()
    assert frame["status"].tolist() == ["complete", "failed"]
    assert frame["backbone"].tolist() == ["a", "b"]


def test_a_run_is_shown_by_its_ranking_and_what_failed(tmp_path: Path) -> None:
    done, failed = cell(tmp_path, "complete"), cell(tmp_path, "failed", "no memory")
    ranking = TextTable("Balanced accuracy", ("rank", "score"), [["1", "0.9"]], ("12 scenes.",))
    result = RunResult(
        store="runs",
        scores=None,
        report="runs/report/index.html",
        cells=CellResults([done, failed]),
        stage_cells=CellResults([done, failed]),
        tables=[ranking],
    )
    assert repr(result) == "<RunResult: 1 of 2 cells complete, 1 failed; runs/report/index.html>"
    page = result._repr_html_()
    assert page.index("<b>Balanced accuracy</b>") < page.index("<td>0.9</td>")
    assert page.index("<p>12 scenes.</p>") < page.index("<td>no memory</td>")
    assert "runs/report/index.html" in page


def formatted(value: object) -> str:
    """Return the HTML that Jupyter shows."""
    from IPython.core.formatters import DisplayFormatter

    content, _ = DisplayFormatter().format(value)
    return content["text/html"]


def test_a_report_shows_its_ranking_and_a_link_and_not_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = TextTable("Balanced accuracy", ("backbone", "score"), [["<b>", "0.9"]])
    page = tmp_path / "a run/#1/index.html"
    report = Report(str(page), "x" * 2_000_000, [ranking])
    assert repr(report) == f"Report(path='{page}')"
    monkeypatch.chdir(tmp_path)
    shown = formatted(report)
    assert "<td>&lt;b&gt;</td><td>0.9</td>" in shown
    assert f'<a href="a%20run/%231/index.html" target="_blank"><code>{page}</code></a>' in shown
    assert "The page, 2.0 MB" in shown and len(shown) < 1000
    # What Jupyter does not serve is named, without a link that would lead nowhere.
    for path in ("/elsewhere/index.html", "s3://bucket/index.html"):
        shown = formatted(Report(path, ""))
        assert f"<code>{path}</code>" in shown and "href" not in shown
    assert 'href="https://a.org/b?c=1&amp;d' in formatted(Report("https://a.org/b?c=1&d=2", ""))


def test_a_data_card_shows_its_page_in_a_frame_without_scripts() -> None:
    shown = formatted(DataCard("toy", {}, '<p class="a">one & two</p>'))
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;one &amp; two&lt;/p&gt;"' in shown
    assert 'sandbox="allow-popups"' in shown


# --- progress ---


def test_a_run_shows_bars_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Any] = []

    def run(*_: object, progress: Any, **__: object) -> None:
        received.append(type(progress).__name__)
        progress.message("hello")

    monkeypatch.setattr(interactive.api, "run", run)
    monkeypatch.setattr(interactive, "_last_stores", {})
    with caplog.at_level(logging.INFO, logger="benchmark"):
        bm.run(TOY)
        assert caplog.messages == ["hello"]
        bm.run(TOY, progress=False)
        bm.run(TOY, progress=None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bm.run(TOY)
    mine = SimpleNamespace(stage=lambda **_: None, message=received.append)
    bm.run(TOY, progress=mine)
    assert received == [*["LoggedProgress"] * 3, "LiveProgress", "SimpleNamespace", "hello"]
