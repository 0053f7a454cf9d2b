"""Every mistake is one line on stderr with exit code 2; stdout has only results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer.main
from PIL import Image

from benchmark.cli.commands import app, invoke
from benchmark.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
CATALOGS = ("datasets", "backbones", "heads", "metrics")
COMMANDS = (
    *("list", "init", "check", "run", *STAGES.names(), "status", "submit", "prepare", "export"),
    *("describe", "footprints", "predict", "embed-scenes", "du", "clean"),
    *("compare", "leaderboard", "query", "reproduce", "figures"),
)
ON_EXPERIMENT = ("run", *STAGES.names(), "status", "submit")


class Answer(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


class Call:
    """Runs commands in this process and returns what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Answer:
        self._capsys.readouterr()
        code = invoke([str(item) for item in arguments])
        captured = self._capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    def fails(self, *arguments: object) -> str:
        """Run a wrong command and return its error line."""
        answer = self(*arguments)
        assert answer.code == 2
        assert answer.out == ""
        lines = answer.err.splitlines()
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("benchmark: ")
        assert "Traceback" not in lines[0]
        return lines[0].removeprefix("benchmark: ")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(capsys)


def is_ray_started() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    was_started = is_ray_started()
    yield
    assert is_ray_started() is was_started


def write_images(root: Path, num_classes: int = 2, num_images: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for number in range(num_classes):
        folder = root / f"class_{number}"
        folder.mkdir(parents=True)
        for image in range(num_images):
            pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{image}.png")
    return root


def write_experiment(path: Path, root: Path, more: str = "") -> Path:
    path.write_text(
        f'name = "toy"\nbackbones = ["random", "mean_color"]\nheads = ["knn", "majority"]\n'
        f'seeds = [0, 1]\n{more}\n[dataset]\nname = "folder"\nroot = "{root}"\npatch_size = 16\n'
    )
    return path


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "toy.toml", write_images(tmp_path / "images"))


def snapshot(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def run_python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )


def test_the_commands_are_those_of_design() -> None:
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_helps(call: Call, command: str, flag: str) -> None:
    answer = call(command, flag)
    assert answer.code == 0
    assert answer.err == ""
    assert command in answer.out
    assert "Traceback" not in answer.out
    assert "Usage:" in answer.out


def test_the_help_names_every_command(call: Call) -> None:
    answer = call("--help")
    assert answer.code == 0
    assert all(f"\n  {command} " in answer.out for command in COMMANDS)


@pytest.mark.parametrize("command", ["run", *STAGES.names(), "submit"])
def test_the_common_flags_are_there(call: Call, command: str) -> None:
    out = call(command, "--help").out
    for flag in ("--set", "--store", "--address", "--dry-run", "--json"):
        assert flag in out


def test_no_command_prints_the_help_and_is_a_mistake(call: Call) -> None:
    answer = call()
    assert answer.code == 2
    printed = answer.out + answer.err
    assert all(f"\n  {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("catalog", CATALOGS)
def test_a_catalog_is_listed_for_people_and_for_programs(call: Call, catalog: str) -> None:
    text, document = call("list", catalog), call("list", catalog, "--json")
    assert text.code == document.code == 0
    assert text.err == document.err == ""
    rows = json.loads(document.out)
    assert rows
    for row in rows:
        assert any(line.startswith(row["name"]) for line in text.out.splitlines())
        assert list(row) == list(rows[0])


def test_the_listing_holds_the_catalogs(call: Call) -> None:
    names = {
        catalog: {row["name"] for row in json.loads(call("list", catalog, "--json").out)}
        for catalog in CATALOGS
    }
    assert {"chesapeake", "synthetic", "folder"} <= names["datasets"]
    assert {"efficientnet_lite0", "random", "mean_color"} <= names["backbones"]
    assert {"logistic_regression", "mlp", "knn", "majority"} <= names["heads"]
    assert {"balanced_accuracy", "accuracy", "macro_f1"} <= names["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["embedd", "x.toml"], "No such command 'embedd'. Did you mean 'embed'?"),
        (["list"], "Missing argument"),
        (["list", "backbone"], "list: unknown catalog 'backbone'. Did you mean 'backbones'?"),
        (["list", "zzz"], "list: unknown catalog 'zzz'. Known: backbones, datasets, heads, metr"),
        (["list", "heads", "more"], "Got unexpected extra argument"),
        (["list", "heads", "--jsn"], "No such option: --jsn"),
        (["run"], "Missing argument 'EXPERIMENT.toml...'"),
        (["run", "x.toml", "--dryrun"], "No such option: --dryrun"),
        (["run", "x.toml", "--set"], "Option '--set' requires an argument"),
        (["run", "x.toml"], "x.toml: no such experiment file"),
        (["status", "x.toml", "--dry-run"], "No such option: --dry-run"),
        (["prepare"], "Missing argument 'DATASET'"),
        (["prepare", "synthetic"], "Missing option '--root'"),
        (["prepare", "folder", "--root", "x"], "prepare: the data set 'folder' is your own"),
        (["prepare", "synthtic", "--root", "x"], "unknown dataset 'synthtic'. Did you mean 'synth"),
        (["prepare", "synthetic", "--root", "x", "--scenes", "0"], "Invalid value for '--scenes'"),
        (
            ["prepare", "synthetic", "--root", "x", "--scenes", "2"],
            "scenes = 2: give a number from 3",
        ),
        (["prepare", "synthetic", "--root", "x", "--size", "9"], "Invalid value for '--size'"),
        (["prepare", "synthetic", "--root", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["prepare", "synthetic", "--root", "x", "--size", "a"], "Invalid value for '--size'"),
        (["prepare", "chesapeake", "--root", "x", "--seed", "1"], "--seed does not apply to the d"),
        (
            ["prepare", "chesapeake", "--root", "x", "--size", "512"],
            "--size does not apply to the data",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    call: Call, arguments: list[str], message: str
) -> None:
    assert message in call.fails(*arguments)
    assert snapshot(Path()) == set()


@pytest.mark.parametrize("command", ON_EXPERIMENT)
def test_every_command_refuses_a_file_that_is_missing_or_no_experiment(
    call: Call, tmp_path: Path, command: str
) -> None:
    assert "none.toml: no such experiment file" in call.fails(command, "none.toml")
    (tmp_path / "bad.toml").write_text("name = \n")
    assert "bad.toml: not valid TOML: " in call.fails(command, tmp_path / "bad.toml")
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert "picture.toml: cannot be read: " in call.fails(command, tmp_path / "picture.toml")
    assert "cannot be read: " in call.fails(command, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("embed.batchsize=4", "toy.toml [embed]: unknown setting 'batchsize'. Did you mean 'batch"),
        ("finetun.num_trials=1", "toy.toml: unknown setting 'finetun'."),
        ("backbones=['randm']", "toy.toml: unknown backbone 'randm'. Did you mean 'random'?"),
        ("heads=['mpl']", "toy.toml: unknown head 'mpl'. Did you mean 'mlp'?"),
        ("dataset.name=foldr", "[dataset]: unknown dataset 'foldr'. Did you mean 'folder'?"),
        ("dataset.patch_size=big", "[dataset]: 'patch_size' = 'big': should be a valid integer"),
        ("tune.num_trials=1.5", "[tune]: 'num_trials' = 1.5: should be a valid integer"),
        ("dataset.purity=0.9", "[dataset]: 'purity' does not apply to the data set 'folder'"),
        ("backbones=[]", "'backbones' = "),
        ("nothing", "--set nothing: write it as --set section.setting=value"),
        ("name.x=1", "--set name.x=1: 'name' is a setting, not a section"),
        ("dataset.root=no/where", "root = 'no/where': does not exist"),
        ("dataset.val_fraction=0.6", None),
    ],
)
def test_a_wrong_setting_is_one_line(
    call: Call, experiment: Path, setting: str, message: str | None
) -> None:
    more = ["--set", "dataset.test_fraction=0.6"] if message is None else []
    line = call.fails("status", experiment, "--set", setting, *more)
    assert (message or "leave nothing for train") in line


@pytest.mark.parametrize("command", ["run", "patches", "status"])
def test_bad_data_is_one_line(call: Call, tmp_path: Path, command: str) -> None:
    path = tmp_path / "toy.toml"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no PNG, JPEG or TIFF images" in call.fails(command, write_experiment(path, empty))
    one = write_images(tmp_path / "one", num_classes=1)
    assert "one class" in call.fails(command, write_experiment(path, one)).lower()
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert "is not a folder" in call.fails(command, write_experiment(path, file))


@pytest.mark.parametrize("command", ["run", *STAGES.names()])
@pytest.mark.parametrize("store", ["/proc/runs", "{file}", "foo://bucket"])
def test_a_store_that_cannot_be_used_is_one_line(
    call: Call, experiment: Path, tmp_path: Path, command: str, store: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    line = call.fails(command, experiment, "--store", store.format(file=tmp_path / "file"))
    assert line.startswith("store '")


def test_status_of_a_store_below_a_file_says_that_there_can_be_none(
    call: Call, experiment: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    line = call.fails("status", experiment, "--store", tmp_path / "file" / "runs", "--json")
    assert line.endswith("cannot be read: Not a directory. Choose another with --store.")


@pytest.mark.parametrize("command", [["status"], ["run", "--dry-run"]], ids=" ".join)
def test_the_grid_is_shown_as_json_and_nothing_is_written(
    call: Call, experiment: Path, command: list[str], tmp_path: Path
) -> None:
    before = snapshot(tmp_path / "images")
    answer = call(*command, experiment, "--json")
    assert answer.code == 0
    assert answer.err == ""
    document = json.loads(answer.out)
    assert document["store"] == "runs"
    cells = document["cells"]
    keys = {"dataset", "backbone", "method", "seed", "status", "reason", "artefact"}
    assert all(keys <= set(cell) for cell in cells)
    assert {cell["status"] for cell in cells} == {"missing"}
    grid = {(cell["backbone"], cell["method"], cell["seed"]) for cell in cells if cell["method"]}
    assert grid == {
        (backbone, head, seed)
        for backbone in ("random", "mean_color")
        for head in ("knn", "majority")
        for seed in (0, 1)
    }
    assert all(cell["artefact"].startswith(f"runs/{cell['stage']}/") for cell in cells)
    assert snapshot(Path()) == set()
    assert snapshot(tmp_path / "images") == before


@pytest.mark.parametrize("stage", STAGES.names())
def test_the_dry_run_of_a_stage_shows_its_cells_only(
    call: Call, experiment: Path, stage: str
) -> None:
    tuned = ("--set", 'finetune.backbones=["random"]')
    answer = call(stage, experiment, "--dry-run", "--json", "--store", "elsewhere", *tuned)
    assert answer.code == 0
    document = json.loads(answer.out)
    assert document["store"] == "elsewhere"
    assert {cell["stage"] for cell in document["cells"]} == {stage}
    assert snapshot(Path()) == set()


def test_the_grid_is_shown_as_text_that_ends_with_the_store(call: Call, experiment: Path) -> None:
    answer = call("run", experiment, "--dry-run")
    assert answer.code == 0
    assert answer.err == ""
    lines = answer.out.splitlines()
    assert lines[-2] == "dry run: 0 of 13 cells complete"
    assert lines[-1] == "runs"
    cells = lines[1:14]
    assert all("missing" in line for line in cells)
    assert lines[15].rstrip() == "Left to compute"
    assert "12 patches (counted), 8 of train." in lines
    assert snapshot(Path()) == set()


def test_status_tells_complete_stale_and_failed_apart(call: Call, experiment: Path) -> None:
    from benchmark import api

    with api.open_context(api.load(experiment)) as context:
        context.patches.commit({})
        context.fail(context.embeddings(context.backbones[0]), "[red]out of memory[/red]")
    with api.open_context(api.load(experiment, ["embed.precision=bfloat16"])) as context:
        context.embeddings(context.backbones[1]).commit({})
    cells = json.loads(call("status", experiment, "--json").out)["cells"]
    found = {(cell["stage"], cell["backbone"]): cell for cell in cells if not cell["method"]}
    assert found["patches", None]["status"] == "complete"
    assert found["embed", "random"]["status"] == "failed"
    assert found["embed", "random"]["reason"] == "[red]out of memory[/red]"
    assert found["embed", "mean_color"]["status"] == "stale"
    assert "[red]out of memory[/red]" in call("status", experiment).out


def test_a_relative_root_is_relative_to_where_the_command_runs(
    call: Call, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not exist" in call.fails("status", experiment, "--set", "dataset.root=images")
    monkeypatch.chdir(tmp_path)
    assert call("status", experiment, "--set", "dataset.root=images").code == 0


def test_a_moved_folder_and_another_store_keep_what_is_complete(
    call: Call, experiment: Path, tmp_path: Path
) -> None:
    from benchmark import api

    with api.open_context(api.load(experiment)) as context:
        context.patches.commit({})
    (tmp_path / "images").rename(tmp_path / "moved")
    Path("runs").rename(tmp_path / "archive")
    answer = call(
        *("status", experiment, "--json"),
        *("--set", f"dataset.root={tmp_path / 'moved'}", "--store", tmp_path / "archive"),
    )
    cells = json.loads(answer.out)["cells"]
    assert [cell["status"] for cell in cells if cell["stage"] == "patches"] == ["complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--backbone", "mean_colour"],
            "unknown backbone 'mean_colour'. Did you mean 'mean_color'?",
        ),
        (["--backbone", "mean_color"], "does not fine-tune; add a table [finetune]"),
        (
            ["--backbone", "mean_color", "--method", "knm"],
            "unknown method 'knm'. Did you mean 'knn'?",
        ),
        (["--backbone", "mean_color", "--method", "knn"], "is not complete"),
        (["--backbone", "mean_color", "--seed", "7"], "unknown seed 7"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    call: Call, experiment: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert message in call.fails("export", experiment, "--out", out, *arguments)
    assert not out.exists()


def test_an_upload_without_a_token_is_refused_before_anything_is_written(
    call: Call, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    command = ("export", experiment, "--backbone", "mean_color", "--out", tmp_path / "out")
    text = call.fails(*command, "--method", "knn", "--push", "org/name")
    assert "you are not logged in to the Hugging Face hub; run `hf auth login`" in text
    assert "not the name of a repository; write ORG/NAME" in call.fails(*command, "--push", "name")


def test_a_table_that_fine_tunes_what_has_no_weights_is_refused(
    call: Call, experiment: Path
) -> None:
    for stage in ("run", "finetune"):
        text = call.fails(stage, experiment, "--set", "finetune.num_epochs=1")
        assert "[finetune]: there is nothing to fine-tune: random, mean_color have no" in text
        assert "those that can: random" in text


def test_scores_that_are_not_there_are_said_to_be_missing(experiment: Path) -> None:
    import benchmark as bm

    with pytest.raises(bm.BenchmarkError, match=r"there are no scores in 'runs' yet; run it first"):
        bm.scores(bm.load(experiment))
    with pytest.raises(AttributeError, match="module 'benchmark' has no attribute 'nothing'"):
        _ = bm.nothing
    assert set(bm.__all__) <= {name for name in bm.__all__ if getattr(bm, name)}


def test_listing_and_help_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from benchmark.cli.commands import invoke\n"
        "for arguments in (['--help'], ['run', '--help'], ['rnu'],\n"
        "                  *(['list', name] for name in sys.argv[1:]),\n"
        "                  *(['list', name, '--json'] for name in sys.argv[1:])):\n"
        "    invoke(arguments)\n"
        "heavy = {'ray', 'torch', 'pyarrow', 'pandas', 'numpy', 'sklearn', 'optuna', 'rasterio'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = run_python("-c", code, *CATALOGS)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_is_the_command() -> None:
    done = run_python("-m", "benchmark", "list", "heads", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "mlp" in {row["name"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize("start", [["-m", "benchmark"], ["console"]], ids=["module", "script"])
def test_the_process_ends_with_the_exit_code_and_one_line(start: list[str]) -> None:
    script = Path(sys.executable).with_name("benchmark")
    if start == ["console"]:
        if not script.exists():
            pytest.skip("the console script is not installed")
        start = [str(script)]
    done = run_python(*start, "list", "zzz")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("benchmark: list: unknown catalog 'zzz'.")


def test_a_reader_that_stops_early_gets_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "benchmark", "list", "metrics"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda item: item.name
)
def test_an_interrupted_command_says_so_in_one_line(number: signal.Signals) -> None:
    # Under nohup, SIGHUP is ignored in the tests, and so in every process that they start.
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "import benchmark.api\n"
        "from benchmark.cli.commands import main\n"
        "benchmark.api.load = lambda *_: os.kill(os.getpid(), int(sys.argv[1]))\n"
        "main(['status', 'toy.toml'])\n"
    )
    done = run_python("-c", code, str(int(number)))
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr == "benchmark: interrupted; complete cells are kept, run again to go on\n"


HANGING = """
import signal, time
import benchmark.api
from benchmark.cli.commands import main

def load(*_):
    print("loading", flush=True)
    time.sleep(60)

benchmark.api.load = load
main(["status", "toy.toml"])
"""


def test_a_command_whose_terminal_closes_ends_as_at_ctrl_c() -> None:
    """A real terminal: its session gets SIGHUP, and every write to it fails from then on."""
    master, terminal = os.openpty()
    command = [
        *(sys.executable, "-c"),
        "import os, fcntl, signal, termios; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        f"os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{HANGING}",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        assert b"loading" in os.read(master, 100)
        os.close(master)
        assert process.wait(timeout=20) == 130


def test_nohup_keeps_a_command_running() -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{HANGING}"
    done = run_python("-c", code.replace("time.sleep(60)", "signal.raise_signal(signal.SIGHUP)"))
    # It goes on, to what it cannot do without an experiment.
    assert done.stdout == "loading\n"
    assert "NoneType" in done.stderr


JSON_LOG = {"--log-format json": {}, "--log-format=json": {}, "": {"BENCHMARK_LOG_FORMAT": "json"}}


@pytest.mark.parametrize(("option", "env"), JSON_LOG.items())
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.toml"], "none.toml: no such experiment file"),
        (["run", "none.toml", "--dryrun"], "No such option: --dryrun"),
        (["embed"], "Missing argument 'EXPERIMENT.toml...'"),
    ],
)
def test_a_mistake_is_json_where_logs_are(
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    env: dict[str, str],
    arguments: list[str],
    message: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stderr = sys.stderr
    answer = call(*arguments, *option.split())
    assert sys.stderr is stderr
    assert (answer.code, answer.out) == (2, "")
    record = json.loads(answer.err)
    assert message in record["message"]
    assert (record["level"], record["event"]) == ("error", "error")
    assert record["numbers"] == {"exit_code": 2}


@pytest.mark.parametrize(
    ("given", "env"), [(["--log-format", "xml"], ""), ([], "xml"), (["--log-format=JSON"], "")]
)
def test_another_log_format_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, given: list[str], env: str
) -> None:
    if env:
        monkeypatch.setenv("BENCHMARK_LOG_FORMAT", env)
    for command in (*ON_EXPERIMENT, "run"):
        line = call.fails(command, "none.toml", *given)
        assert "Invalid value for '--log-format'" in line
        assert "'text', 'json'" in line
    if env:
        assert "BENCHMARK_LOG_FORMAT" in line


def test_the_option_wins_over_the_environment(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_LOG_FORMAT", "json")
    assert call.fails("run", "none.toml", "--log-format", "text").startswith("none.toml: no such")


def test_every_applies_to_watch_only(call: Call, experiment: Path) -> None:
    assert "--every applies to --watch only" in call.fails("status", experiment, "--every", "3")
    for every in ("0", "inf", "nan", "1e400"):
        assert "'--every'" in call.fails("status", experiment, "--watch", "--every", every)


def test_a_watched_run_that_has_ended_is_told_at_once(call: Call, experiment: Path) -> None:
    from benchmark import api

    with api.open_context(api.load(experiment)) as context:
        for entry in STAGES:
            for cell in entry.load().cells(context):
                context.fail(cell.artefact, "no room")
    answer = call("status", experiment, "--watch")
    assert answer.code == 1
    assert answer.out == call("status", experiment).out
    assert answer.err.splitlines() == [
        "patches: 0 of 1 cells complete, 1 failed",
        "embed: 0 of 2 cells complete, 2 failed",
        "tune: 0 of 8 cells complete, 8 failed",
        "evaluate: 0 of 1 cells complete, 1 failed",
        "report: 0 of 1 cells complete, 1 failed",
    ]
    answer = call("status", experiment, "--watch", "--log-format", "json", "--json")
    assert len(json.loads(answer.out)["cells"]) == 13
    record = json.loads(answer.err.splitlines()[2])
    assert (record["stage"], record["event"]) == ("tune", "message")
    assert record["numbers"] == {
        "num_cells": 8, "num_complete": 0, "num_running": 0, "num_failed": 8, "num_left_out": 0
    }  # fmt: skip


def test_what_libraries_print_while_a_command_runs_does_not_reach_stdout(capsys):
    """Ray prints on stdout that a machine was lost; `--json` is one document all the same."""
    from benchmark.cli.printing import open_stderr_progress, say

    with open_stderr_progress():
        sys.stdout.write("(raylet) a machine was lost")
    say("{}")
    captured = capsys.readouterr()
    assert captured.out == "{}\n"
    assert "a machine was lost" in captured.err
