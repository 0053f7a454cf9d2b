"""A server of ranges, as new for each test; its content is the fixture ``running`` of each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ranges import Server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    running.reset()
    yield running
    running.reset()
