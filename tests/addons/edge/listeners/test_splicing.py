"""Streams that carry much are left to the kernel: to their end, in each way in which they may end."""

from __future__ import annotations

import inspect
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.edge.listeners import relay, splicing
from tests.addons.edge.listeners.far import Far, Sending, drained, exactly, through
from tests.addons.edge.listeners.passing import Passing
from tests.waiting import wait_until

_MUCH = 8_000_000


@pytest.fixture
def proxy() -> Iterator[Passing]:
    """One that passes everything by."""
    with Passing() as made:
        yield made


@pytest.fixture
def far() -> Iterator[Far]:
    """A server."""
    with Far() as made:
        yield made


def _sides(proxy: Passing) -> tuple[relay._Side, relay._Side]:
    found = proxy.handlers[-1]._relay
    assert found is not None
    return found._sides


def _carried(proxy: Passing, one: socket.socket, other: socket.socket, side: int) -> None:
    """Much has gone from `one` to `other`, whose socket is now the kernel's to fill."""
    sending = Sending(one, b"much", _MUCH, ends=False)
    assert len(exactly(other, _MUCH)) == _MUCH
    sending.digest()
    assert _sides(proxy)[side]._splice is not None


@pytest.mark.parametrize("first", ["client", "server"])
def test_who_has_ended_still_hears(proxy: Passing, far: Far, first: str) -> None:
    """The end of a direction comes behind its last byte, and the other direction goes on."""
    with through(proxy, far) as (client, server):
        one, other = (client, server) if first == "client" else (server, client)
        _carried(proxy, one, other, 0 if first == "client" else 1)
        one.sendall(b"the last")
        one.shutdown(socket.SHUT_WR)
        assert drained(other)[0] == 8
        sending = Sending(other, b"late", _MUCH)
        assert drained(one) == (_MUCH, sending.digest())
    wait_until(lambda: not proxy.handlers[-1].transports, "nothing is left of it")
    assert all(one._splice is not None and one._splice.stopped for one in _sides(proxy))


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("much_from", ["client", "server"])
def test_a_reset_is_passed_on(proxy: Passing, far: Far, first: str, much_from: str) -> None:
    """Whoever it was that carried much, and whoever is cut: the other one hears that this was not all."""
    with through(proxy, far) as (client, server):
        source, sink = (client, server) if much_from == "client" else (server, client)
        _carried(proxy, source, sink, 0 if much_from == "client" else 1)
        one, other = (client, server) if first == "client" else (server, client)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        if one is sink:
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                other.sendall(bytes(100_000_000))
        else:
            with pytest.raises(ConnectionResetError):
                other.recv(1)
    wait_until(lambda: not proxy.handlers[-1].transports, "nothing is left of it")


def test_what_a_slow_reader_leaves_has_a_bound(proxy: Passing, far: Far) -> None:
    """A client that stops reading holds its server up, and gets everything when it goes on."""
    with through(proxy, far) as (client, server):
        _carried(proxy, server, client, 1)
        before = proxy.handlers[-1]._relay.passed  # type: ignore[union-attr]
        sending = Sending(server, b"slow", 60_000_000)
        last = -1

        def still() -> bool:
            nonlocal last
            now = proxy.handlers[-1]._relay.passed - before  # type: ignore[union-attr]
            unmoved, last = now == last and now > 0, now
            return unmoved

        wait_until(still, "nothing moves any more")
        assert last < 20_000_000  # what three sockets' buffers take on loopback, and a pipe
        assert drained(client) == (60_000_000, sending.digest())


@pytest.mark.parametrize("why", ["no place", "no splice", "no descriptor"])
def test_without_the_kernels_help_it_goes_on(far: Far, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """All places are taken, the kernel does not have it, or there is no pipe: the stream goes its usual way."""
    if why == "no place":
        monkeypatch.setattr(splicing, "MOST", 0)
    elif why == "no splice":
        monkeypatch.setattr(splicing, "_works", lambda: False)
    else:
        pipe2 = os.pipe2

        def none_left(flags: int) -> Any:
            if _inside(splicing.Splice):
                raise OSError(24, "Too many open files")
            return pipe2(flags)

        monkeypatch.setattr(os, "pipe2", none_left)
    with Passing() as proxy, through(proxy, far) as (client, server):
        sending = Sending(server, b"much", _MUCH)
        assert drained(client) == (_MUCH, sending.digest())
        assert _sides(proxy)[1]._splice is None


def _inside(kind: type) -> bool:
    return any(isinstance(one.frame.f_locals.get("self"), kind) for one in inspect.stack()[1:4])


def test_no_descriptor_is_left(proxy: Passing, far: Far) -> None:
    """Streams come and go; their pipes go with them, and so do their places."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with through(proxy, far) as (client, server):
            _carried(proxy, server, client, 1)
    wait_until(lambda: not proxy.listeners.limits.clients, "all are gone")
    wait_until(
        lambda: len(list(Path("/proc/self/fd").iterdir())) <= before + 1, "nothing is left"
    )  # + what watches them
