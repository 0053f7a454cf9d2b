"""Any text as address of a cluster has an answer: a connection, or one line."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmark.cluster import addresses
from benchmark.cluster.addresses import find_head
from benchmark.errors import UsageError

HOSTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(["127.0.0.1", "localhost", "[::1]", "::1", "x" * 300, "a..b", "-", "ü", "\0"]),
)
PORTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=6),
    st.integers(-1, 70_000).map(str),
    st.sampled_from(["²", "\u0661", "1e3", "0x1f", " 80", "9" * 5000]),
)


@pytest.fixture(autouse=True)
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection; the names of hosts are still encoded as for a real one."""

    def refuse(address: tuple[str, int], timeout: float) -> None:
        address[0].encode("idna")
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(addresses.socket, "create_connection", refuse)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(host=HOSTS, port=PORTS, separator=st.sampled_from([":", "", "://", "@"]))
@example("x" * 300, "6379", ":")
@example("\ud800", "6379", ":")
@example("a\0b", "6379", ":")
@example("127.0.0.1", "²", ":")
def test_any_address_has_an_answer(host: str, port: str, separator: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError) as caught:
        find_head(f"{host}{separator}{port}", option="--address")
    text = str(caught.value)
    assert time.process_time() - began < 1
    assert text.startswith("--address")
    assert text.isprintable() and len(text) <= 2000


def test_auto_without_a_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    def find_none(address: str) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", find_none)
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS auto: no Ray was started on this machine"):
        find_head("auto", option="RAY_ADDRESS")
