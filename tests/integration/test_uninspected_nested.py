"""TLS within TLS is inspected as well: the inner one gets a leaf of its own, at once or in the middle of a stream."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import System
from tests.integration.test_forward import tunnel


class Stream(Protocol):
    """What TLS is spoken over."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""

    def recv(self, size: int, /) -> bytes:
        """What comes next."""


class Tls:
    """TLS over any stream, itself a stream."""

    def __init__(self, under: Stream, context: ssl.SSLContext, name: str | None) -> None:
        self._under = under
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=name is None, server_hostname=name)
        self._run(self._tls.do_handshake)

    def _run[T](self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._under.recv(65536)
                if not data:
                    raise ConnectionError("closed") from None
                self._incoming.write(data)
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._under.sendall(data)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._run(lambda: self._tls.write(data))

    def recv(self, size: int) -> bytes:
        """What comes next."""
        return self._run(lambda: self._tls.read(size))


@pytest.mark.parametrize("before", [b"", b"\x00plain\r\n"], ids=["at once", "later"])
def test_tls_within_tls_is_inspected(system: System, origin_ca: OriginCA, before: bytes) -> None:
    """A client and a server that speak TLS within TLS are inspected within it, whatever they say in between."""

    def serve() -> bytes:
        with server.accept()[0] as connection:
            connection.settimeout(10)
            outer = Tls(connection, origin_ca.context(("nested.test",), ()), None)
            if before:
                assert outer.recv(100) == before
                outer.sendall(b"go on\r\n")
            inner = Tls(outer, origin_ca.context(("nested.test",), ()), None)
            data = inner.recv(100)
            inner.sendall(b"hello " + data)
            return data

    trusting = ssl.create_default_context(cafile=str(system.ca))
    with (
        socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool,
        tunnel(system, "nested.test", server.getsockname()[1]) as connection,
    ):  # fmt: skip
        got = pool.submit(serve)
        outer = Tls(connection, trusting, "nested.test")
        if before:
            outer.sendall(before)
            assert outer.recv(100) == b"go on\r\n"
        inner = Tls(outer, trusting, "nested.test")
        inner.sendall(b"\x00secret")
        assert inner.recv(100) == b"hello \x00secret"
        assert got.result(10) == b"\x00secret"
