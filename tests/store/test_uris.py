"""The address of a store: what is wrong with it is said in one line, at once."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmark.errors import UsageError
from benchmark.store import deadlines
from benchmark.store.artefacts import Store
from benchmark.store.uris import KNOWN, SCHEMES
from tests.object_store import BUCKET, KEYS

LONGEST_S = 12
"""Ten seconds of waiting, on a busy machine."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    # With a region, no bucket's region is asked for: nothing leaves this machine.
    for name, value in {**KEYS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": CLOSED}.items():
        monkeypatch.setenv(name, value)


CLOSED = "http://127.0.0.1:9"


def refuse(uri: str, use: Callable[[Store], object] = Store.check_writable) -> str:
    """Return the line that refuses a store, at most ``LONGEST_S`` after it was opened."""
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"^(the URI of a )?store ") as caught:
        use(Store(uri))
    assert time.monotonic() - began < LONGEST_S
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) <= 2000
    text.encode()
    return text


@pytest.mark.parametrize(
    "scheme",
    ["http", "https", "dbfs", "reference", "data", "generic", "jupyter", "ftp", "s4", "a b", "zip"],
)
def test_an_unsupported_scheme_is_refused_with_the_supported_ones(scheme: str) -> None:
    text = refuse(f"{scheme}://host/x", use=lambda store: store)
    assert f"unsupported scheme '{scheme}'; supported: a path, {', '.join(KNOWN)}" in text


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("gs:///", "names no bucket; write gs://BUCKET/PREFIX"),
        ("s3://", "names no bucket; write s3://BUCKET/PREFIX"),
        ("s3://?region=x", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("abfs://", "names no container; write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PRE"),
        ("hdfs:///x", "names no a?host|names no host"),
        ("s3://a b/x", "'a b' is no name of a bucket"),
        ("s3://bucket:9000/x", "'bucket:9000' is no name of a bucket"),
        ("s3://bucket/a/../x", "its path contains"),
        ("s3://bucket//x", "its path contains"),
        ("s3://bucket/x#y", "contains '#'"),
        ("s3://[x", "is no URI: "),
        ("s3:/bucket/x", r"neither a path nor a URI\. Did you mean 's3://bucket/x'"),
        ("file:/data", r"Did you mean 'file:///data'"),
        ("file://", "names no folder"),
        ("file://data/x", "names the host 'data'; write file:///data/x"),
        ("file:///data?region=x", "settings after"),
        ("file:///a%00b", "contains a control character"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\0b", "contains a NUL character"),
        ("s3://bucket/a\0b", "contains a NUL character"),
        ("a\nb", "contains a control character or a line break"),
        ("a\u2028b", "contains a control character or a line break"),
        ("a\udcffb", "characters that are not valid UTF-8"),
        ("~nobody/x", "'~' is not expanded; write the whole path"),
        ("x/" * 400, "has 800 characters, more than 700; choose a shorter one"),
        ("abfs://c/x", "cannot be opened: .*account name"),
    ],
)
def test_a_malformed_address_says_what_to_write(uri: str, reason: str) -> None:
    assert re.search(reason, refuse(uri, use=lambda store: store))


@pytest.mark.parametrize("name", [name for name, item in SCHEMES.items() if not item.by_arrow])
def test_a_missing_package_is_named_and_nothing_is_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.store.uris.is_installed", lambda package: False)
    package = SCHEMES[name].package
    assert f"needs the Python package {package}: pip install" in refuse(f"{name}://host/x")


def test_a_secret_in_a_malformed_address_is_not_repeated() -> None:
    for uri in ("a b://key:s3cr3t@host/x", "s3:/key:s3cr3t@bucket/x", "\x01s3://k:s3cr3t@b\n/x"):
        with pytest.raises(UsageError, match="must not hold credentials") as caught:
            Store(uri)
        assert "s3cr3t" not in str(caught.value)


ADDRESSES = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{}{}{}/{}{}".format,
        st.sampled_from([*(set(SCHEMES) - {"hdfs", "viewfs"}), "http", "dbfs", "", "S3", "s3 "]),
        st.sampled_from(["://", ":/", ":", "//"]),
        st.one_of(
            st.sampled_from(["bucket", "c@a.dfs.core.windows.net", "[", "a:b", ""]), st.text()
        ),
        st.text(max_size=10),
        st.one_of(st.just(""), st.text(max_size=10).map("?{}=x".format)),
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(uri=ADDRESSES)
@example(uri="s3://bucket/\ud800")
@example(uri="gs://bucket/x?retry_limit_seconds=x")
@example(uri="abfss://c@a.dfs.core.windows.net/x?y=z")
def test_any_address_is_a_store_or_one_line(uri: str) -> None:
    began = time.monotonic()
    if began - BEGAN.setdefault("any", began) > 15:
        return
    try:
        store = Store(uri)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) <= 2000
        str(error).encode()
    else:
        assert len(store.uri.splitlines()) == 1
        store.place("embed").encode()
    assert time.monotonic() - began < LONGEST_S


BEGAN: dict[str, float] = {}


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that takes connections and never answers, as ``host:port``."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


USES = [Store.check_writable, Store.check_readable]


@pytest.mark.parametrize("use", USES)
def test_a_closed_endpoint_is_said_within_ten_seconds(use: Callable[[Store], None]) -> None:
    assert "cannot be reached; check the endpoint and the network" in refuse(
        f"s3://{BUCKET}/x", use=use
    )


@pytest.mark.parametrize("use", USES)
def test_a_server_that_never_answers_is_said_within_ten_seconds(
    use: Callable[[Store], None], mute: str
) -> None:
    uri = f"s3://{BUCKET}/x?endpoint_override={mute}&scheme=http"
    assert refuse(uri, use=use) == (
        f"store '{uri}' did not answer within 10 s; check the endpoint, the network and the "
        "credentials"
    )


@pytest.mark.parametrize("use", USES)
def test_a_file_system_that_hangs_is_given_up(
    use: Callable[[Store], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.store.files.ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(Store, "_look", lambda store: time.sleep(2))
    began = time.monotonic()
    assert "did not answer within" in refuse(str(tmp_path), use=use)
    assert time.monotonic() - began < 1.5


def test_what_an_operation_returns_and_raises_comes_through_the_deadline() -> None:
    assert deadlines.within(lambda: 3, timeout_s=5) == 3
    with pytest.raises(ZeroDivisionError, match="division"):
        deadlines.within(lambda: 1 // 0, timeout_s=5)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        deadlines.within(lambda: time.sleep(1), timeout_s=0.05)


def test_a_driver_of_azure_or_google_without_credentials_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pyarrow as pa

    for text in (
        "Unknown error: failed: N5Azure4Core23AuthenticationExceptionE: no token\nSee https://x",
        "google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token to" + "x" * 9000,
    ):

        def fail(store: Store, text: str = text) -> None:
            raise pa.ArrowException(text)

        monkeypatch.setattr(Store, "_look", fail)
        assert "there are no valid credentials; log in, or give" in refuse("memory://x")
