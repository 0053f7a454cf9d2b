"""Addresses that contain secrets are refused everywhere, without echoing them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.cli.commands import invoke
from benchmark.errors import UsageError
from benchmark.store.artefacts import Store
from benchmark.store.credentials import holds_credentials
from benchmark.submission.jobserver import check_address

HOLDING = [
    "s3://key:s3cr3t@bucket/x",
    "s3://s3cr3t@bucket/x",
    "s3://bucket/x?access_key=s3cr3t",
    "s3://bucket/x?region=eu&secret_key=s3cr3t",
    "s3://bucket/x?endpoint_override=key:s3cr3t@host:9000",
    "https://host/x?X-Amz-Signature=s3cr3t",
    "abfss://data@account.dfs.core.windows.net/x?sig=s3cr3t",
    "abfs://account:s3cr3t@data/x",
    "gs://bucket/x?access_token=s3cr3t",
    "http://user:s3cr3t@head:8265",
    "http://s3cr3t@head:8265",
    "redis://:s3cr3t@head:6379",
    "s3://key:s3cr3t@[x",
]
FREE = [
    "/data/user@host/key=value", "runs", "s3://bucket/key/secret/token",
    "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
    "abfss://runs@account.dfs.core.windows.net/prefix", "gs://anonymous@bucket/x",
    "hdfs://user@host:8020/x", "http://127.0.0.1:8265", "memory://x",
]  # fmt: skip


@pytest.mark.parametrize("address", HOLDING)
def test_a_secret_in_an_address_is_found(address: str) -> None:
    assert holds_credentials(address)


@pytest.mark.parametrize("address", FREE)
def test_an_address_without_one_is_not_refused(address: str) -> None:
    assert not holds_credentials(address)


@pytest.mark.parametrize("uri", HOLDING)
def test_no_store_repeats_what_it_refuses(uri: str) -> None:
    with pytest.raises(UsageError, match="must not hold credentials") as caught:
        Store(uri)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("address", [item for item in HOLDING if item.startswith("http:")])
def test_no_address_of_a_job_server_is_repeated(address: str) -> None:
    with pytest.raises(UsageError, match="--address holds a password") as caught:
        check_address(address)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://[x", "http://", "http://host:port", "ftp://host"])
def test_an_address_that_is_no_url_is_one_line(address: str) -> None:
    with pytest.raises(UsageError, match=f"^--address {re.escape(address)}: not a job server;"):
        check_address(address)


def test_an_endpoint_of_the_environment_may_hold_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://key:s3cr3t@minio:9000")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL holds a password") as caught:
        Store("s3://bucket/x")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("command", ["run", "status", "submit"])
def test_every_command_refuses_such_a_store_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(
        'name = "toy"\nbackbones = ["mean_color"]\n[dataset]\nname = "folder"\nroot = "/images"\n'
    )
    more = ["--address", "http://127.0.0.1:8265"] if command == "submit" else []
    assert invoke([command, str(path), "--store", "s3://bucket/x?secret_key=s3cr3t", *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "must not hold credentials" in err
    assert "s3cr3t" not in err
