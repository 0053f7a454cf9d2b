"""The address of MLflow: what is taken, and what is refused in one line without its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.config import Experiment, build
from benchmark.errors import UsageError
from benchmark.tracking.addresses import find_address
from benchmark.tracking.content import as_keys
from benchmark.tracking.trackers import check_trackers
from benchmark.tracking_settings import absolute_address


def experiment(**tracking: Any) -> Experiment:
    content = {
        "name": "toy",
        "backbones": ["random"],
        "dataset": {"name": "folder", "root": "data"},
        "tracking": tracking,
    }
    return build(content, where="x.toml")


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("http://localhost:5000/", "http://localhost:5000"),
        ("HTTPS://mlflow.example.org/path", "https://mlflow.example.org/path"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("sqlite:///my.db", "sqlite:///{here}/my.db"),
        ("file:my runs@home", "file://{here}/my%20runs%40home"),
        ("file:///data/my%20runs", "file:///data/my%20runs"),
    ],
)
def test_an_address_is_made_absolute(
    given: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_address(experiment(mlflow=given))
    assert found is not None
    assert found.uri == uri.format(here=tmp_path)
    # What a kept experiment says leads to the same place from any folder.
    kept = absolute_address(given)
    monkeypatch.chdir("/")
    again = find_address(experiment(mlflow=kept))
    assert again is not None
    assert again.uri == found.uri


def test_there_is_no_tracker_by_default() -> None:
    assert find_address(experiment()) is None
    assert build({**experiment().model_dump(exclude={"path", "tracking"})}).tracking is None
    check_trackers(experiment())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mlruns", "'mlflow' = 'mlruns': is no address of MLflow; write http://HOST:PORT, https"),
        ("databricks://profile", "is no address of MLflow; write http"),
        ("http://", "is no address of a server; write http://HOST:PORT"),
        ("http:localhost:5000", "is no address of a server"),
        ("http://localhost:port", "'mlflow' = 'http://localhost:port': "),
        ("http://localhost:5000/?a=1", "is no address of a server"),
        ("sqlite://my.db", "names no file; write sqlite:///PATH"),
        ("sqlite:///:memory:", "names no file; write sqlite:///PATH"),
        ("file:", "names no folder; write file:PATH or file:///PATH"),
        ("file://host/path", "names no folder; write file:PATH or file:///PATH"),
    ],
)
def test_other_addresses_are_refused(given: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_address(experiment(mlflow=given))
    assert str(caught.value).startswith("x.toml [tracking]: ")
    assert message in str(caught.value)


def test_exports_without_a_place_to_log_them_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'exports' are logged to MLflow; set 'mlflow' as well"):
        find_address(experiment(exports="exports"))


@pytest.mark.parametrize(
    "given",
    [
        "http://me:hunter2@localhost:5000",
        "http:me:hunter2@localhost",
        "https://hunter2@localhost",
        "https://localhost/?token=hunter2",
        "postgresql://me:hunter2@localhost/db",
    ],
)
def test_a_secret_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(UsageError, match="mlflow must not hold a password or a token") as caught:
        find_address(experiment(mlflow=given))
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_what_does_not_answer_is_refused_before_the_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    (tmp_path / "text").write_text("no database " * 100)
    for given, message in (
        ("http://127.0.0.1:9", "does not answer as an MLflow server"),
        (f"sqlite:///{tmp_path}/none/x.db", "there is no folder"),
        (f"sqlite:///{tmp_path}", "cannot be written as a database"),
        (f"sqlite:///{tmp_path}/text", "cannot be opened: .*file is not a database"),
        (f"file:{tmp_path}/file", "is a file; name a folder"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            check_trackers(experiment(mlflow=given))
        assert str(caught.value).startswith("x.toml [tracking]: mlflow: ")


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for settings, extra in (
        ({"mlflow": "file:x"}, "mlflow"),
        ({"tensorboard": True}, "tensorboar"),
    ):
        with pytest.raises(UsageError, match=rf'pip install "backbone-benchmark\[{extra}'):
            check_trackers(experiment(**settings))


def test_names_that_are_one_key_get_numbers() -> None:
    keys = as_keys(["a b", "a:b", "A_b", "x/../y", "x//y", "a_b.2", "a b"])
    assert len(set(map(str.lower, keys.values()))) == len(keys) == 6
    assert keys["x/../y"] == "x/_/y"
    assert keys["a b"] == "a b"
