"""A door into a proxy for clients that know no proxy: what they say to its address goes through CONNECT to one host.

h2load has no option for a proxy. Two threads for each connection copy bytes with blocking sockets: 100 MB take less
than 0.1 s of CPU, and no part of it is the client's or the proxy's.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from bench.rig.tunnel import Route, TunnelError, opened

_CHUNK = 1 << 18


class Relay:
    """Listens on the loopback address, at `address`, as long as it is entered."""

    def __init__(self, route: Route, host: str) -> None:
        """Each connection leads to `host` along the route."""
        self._route, self._host = route, host
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.error = ""

    @property
    def address(self) -> str:
        """Where it listens: host:port."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def __enter__(self) -> Self:
        """Listen, and accept on a thread."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                server = opened(self._route, self._host)
            except (OSError, TunnelError) as error:
                self.error = str(error)
                client.close()
                continue
            for one in (client, server):
                one.settimeout(None)
            with self._lock:
                self._open += [client, server]
            for pair in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=_copy, args=pair))
                self._threads[-1].start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    space = memoryview(bytearray(_CHUNK))
    with suppress(OSError):
        while size := source.recv_into(space):
            sink.sendall(space[:size])
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
