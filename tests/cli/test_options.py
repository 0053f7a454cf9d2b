"""Any text as the value of any option has an answer: no traceback, no hang, one line."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.cli.commands import app, invoke
from tests.test_doors import FUZZ, TEXTS

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

GIVEN = {
    "list": ["backbones"],
    "init": ["images", "--out", "file"],
    "prepare": ["chesapeake", "--root", "file"],
    "export": ["toy.toml", "--backbone", "random", "--out", "out"],
    "describe": ["toy.toml", "--set", "dataset.root=none"],
    "footprints": ["toy.toml", "--set", "dataset.root=none", "--out", "out.parquet"],
    "submit": ["toy.toml", "--dry-run"],
    "status": ["toy.toml"],
    "compare": ["none", "none"],
    "leaderboard": ["none"],
    "query": ["SELECT 1", "none"],
    "figures": ["toy.toml", "--set", "dataset.root=none", "--out", "out"],
    "reproduce": ["none", "--store", "fresh"],
}
"""Arguments with which a command computes and writes nothing; of the others, --dry-run."""


def options_of(command: str) -> Iterator[str]:
    """Yield the arguments, by their place, and the options that take a value."""
    places = 0
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "argument":
            yield f"#{places}"
            places += 1
        elif not getattr(parameter, "is_flag", False) and parameter.name != "help":
            yield parameter.opts[0]


CASES = [(command, option) for command in sorted(COMMANDS) for option in options_of(command)]

VALUES = st.one_of(
    TEXTS,
    st.sampled_from(
        [
            *(
                "inf",
                "nan",
                "-1",
                "1e400",
                "9" * 5000,
                "0",
                "²",
                "--help",
                "-",
                "=",
                "a=b",
                "a.b=[",
            ),
            *("json", "127.0.0.1:1", "http://127.0.0.1:1", "http://\ud800:1", "http://[", "pip"),
        ]
    ),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment, its images, and a file."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("options")
    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.full((16, 16, 3), 40 * number, np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    (folder / "toy.toml").write_text(
        'name = "toy"\nbackbones = ["random"]\n[dataset]\nname = "folder"\nroot = "images"\n'
        "patch_size = 16\n"
    )
    (folder / "file").write_bytes(b"x")
    return folder


def test_every_option_that_takes_a_value_is_tried() -> None:
    assert {("run", "--set"), ("status", "--every"), ("export", "#0"), ("list", "#0")} <= {*CASES}


@pytest.mark.parametrize(("command", "option"), CASES, ids=" ".join)
@settings(
    max_examples=12 * FUZZ,
    derandomize=FUZZ == 1,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=VALUES)
def test_any_value_of_any_option_has_an_answer(
    command: str,
    option: str,
    value: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is written but below the folder, and no other machine is asked."""
    monkeypatch.chdir(here)
    if "://" in value and option == "--store":
        # Stores elsewhere are tried in test_uris.py.
        value = value.replace("://", ":")
    given = list(GIVEN.get(command, ["toy.toml", "--dry-run"]))
    if option.startswith("#"):
        given[int(option[1:])] = value
    else:
        given = [item for item in given if item != "--dry-run" or command != "status"]
        given += [option, value]
    if command == "prepare" and option in ("#0", "--root"):
        # Only what is no folder: nothing is downloaded.
        given = [*given[:1], "--root", f"file/{value}"] if option == "--root" else given
    capsys.readouterr()
    began = time.monotonic()
    code = invoke(given)
    assert time.monotonic() - began < 10
    err = capsys.readouterr().err
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    if code:
        lines = [line for line in err.splitlines() if line.strip()]
        assert lines, (code, given)
        said = [line for line in lines if re.match(r"benchmark: |\{", line)]
        assert len(said) == 1, err
        assert len(said[0]) <= 2200
        assert said[0].isprintable()
