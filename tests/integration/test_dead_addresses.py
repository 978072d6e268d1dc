"""A server that has an address which says nothing, and one that answers: nobody notices."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.harness import OriginThread, System


@pytest.fixture
def silent(origin: OriginThread) -> Iterator[int]:
    """The origin's port at ::1, where the kernel drops every connection: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::1", origin.port))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket(socket.AF_INET6))
            waiting.setblocking(False)
            assert waiting.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        yield origin.port


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_dead_ipv6_address_first(system: System, silent: int, version: str) -> None:
    """It costs a moment, not the time-out, and the answer is the server's: 200 within two seconds."""
    began = time.monotonic()
    reply = system.curl(f"https://both-{version[2:].replace('.', '-')}.test:{silent}/", version)
    assert reply.ok, reply.trace
    assert time.monotonic() - began < 2
