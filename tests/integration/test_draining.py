"""A worker that is stopped waits for what is in progress, and for nothing that has ended."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from addons.edge.http2.events import Ended, Event, GoAway, Head
from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from proxy.demo.origin import OriginCA
from tests.addons.edge import wire2
from tests.addons.edge.proxied import body
from tests.integration.harness import System
from tests.integration.inbound_system import InboundSystem
from tests.integration.test_forward import tunnel

_NAME = "drain.test"
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\nHost: not here\r\n\r\n"
)


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            with suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                data = b""
                while data := data + tls.recv(65536):
                    if data.endswith(b"0\r\nSum: 1\r\n\r\n"):
                        tls.sendall(_ANSWER)
                        break
                tls.recv(1)


class _Slow:
    """A server whose answers are whole when a test says so."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.go_on = threading.Event()
        self.asked = threading.Semaphore(0)

    def serve(self, listener: socket.socket) -> None:
        """Until the listener is closed."""
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                threading.Thread(target=self._answer, args=(plain,), daemon=True).start()

    def _answer(self, plain: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as tls:
            if tls.selected_alpn_protocol() == "h2":
                self._answer2(tls)
                return
            assert tls.recv(65536)
            self.asked.release()
            self.go_on.wait(20)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nhalf and half")
            tls.recv(1)

    def _answer2(self, tls: ssl.SSLSocket) -> None:
        session, stream = Session(Bounds(), client=False), 0
        while not stream:
            session.receive(tls.recv(65536))
            stream = next((one.stream_id for one in session.events if isinstance(one, Head)), 0)
        session.respond(stream, wire2.OK, ended=False)
        session.send(stream, b"half ")
        tls.sendall(session.pull(1 << 20))
        self.asked.release()
        self.go_on.wait(20)
        session.send(stream, b"and half")
        session.end(stream)
        tls.sendall(session.pull(1 << 20))
        while tls.recv(65536):
            pass


def _until(tls: ssl.SSLSocket, session: Session, kind: type[Event]) -> list[Event]:
    """All that comes, up to the first event of this kind."""
    came: list[Event] = []
    while not any(isinstance(one, kind) for one in came):
        session.receive(tls.recv(65536))
        came += session.events
        session.events.clear()
        tls.sendall(session.pull(1 << 20))
    return came


class _Pair:
    """A client of each version of HTTP, with a request in progress."""

    def __init__(self, connect: Callable[[str], ssl.SSLSocket], authority: str) -> None:
        self.two, self.one = connect("h2"), connect("http/1.1")
        self._session = Session(Bounds(), client=True)
        fields = [*wire2.REQUEST[:3], (b":authority", authority.encode())]
        self._stream = self._session.request(fields, ended=True)
        self.two.sendall(self._session.pull(1 << 20))
        self.one.sendall(f"GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        self._came: list[Event] = []

    def hear_of_it(self) -> None:
        """The one of HTTP/2 is told, and that there is no fault."""
        self._came += _until(self.two, self._session, GoAway)
        assert [event.code for event in self._came if isinstance(event, GoAway)] == [0]

    def be_answered(self) -> None:
        """Both get the whole, and the one of HTTP/1 hears that it was the last."""
        self._came += _until(self.two, self._session, Ended)
        assert body(self._came, self._stream) == b"half and half"
        got = b""
        while data := self.one.recv(65536):
            got += data
        assert b"\r\nConnection: close\r\n" in got
        assert got.endswith(b"\r\n\r\nhalf and half")
        self.one.close()
        self.two.close()


class _Both(InboundSystem):
    """Our own sites, and a forward proxy beside them."""

    @property
    def proxy(self) -> str:
        """host:port of the forward proxy."""
        places = [one.address for one in self.status().listeners]
        return next(one for one in places if not one.endswith(f":{self.port}"))


def _pairs(made: InboundSystem, port: int) -> list[_Pair]:
    """One by the forward proxy, and one of our own site."""

    def connect(plain: socket.socket, trust: Path, protocol: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(trust))
        context.set_alpn_protocols([protocol])
        return context.wrap_socket(plain, server_hostname=_NAME)

    def forward(protocol: str) -> ssl.SSLSocket:
        return connect(tunnel(made, _NAME, port), made.ca, protocol)

    def inbound(protocol: str) -> ssl.SSLSocket:
        return connect(socket.create_connection(("127.0.0.1", made.port), 10), made.root, protocol)

    return [_Pair(forward, f"{_NAME}:{port}"), _Pair(inbound, f"{_NAME}:{made.port}")]


def test_answers_in_progress_are_whole(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A stop: a client of HTTP/2 hears GOAWAY and gets the rest of its answer; one of HTTP/1 gets its answer, and is
    told that it was the last on this connection; by the forward proxy and of our own sites."""
    made = _Both.make_inbound(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", grace_s="30.0")
    slow = _Slow(origin_ca.context((_NAME,), ("h2", "http/1.1")))
    made.generate(shop="p256")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=slow.serve, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        made.listener()
        made.site(_NAME, keys=["shop"], upstream=f"https://127.0.0.1:{port}")
        made.start()
        try:
            pairs = _pairs(made, port)
            assert all(slow.asked.acquire(timeout=10) for _ in range(4))
            stopping = threading.Thread(target=made.stop)
            stopping.start()
            for pair in pairs:
                pair.hear_of_it()
            slow.go_on.set()
            for pair in pairs:
                pair.be_answered()
            stopping.join(20)
            assert "did not end in time" not in made.log
        finally:
            slow.go_on.set()
            made.stop()


def test_trailers_leave_no_flow_behind(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """Trailers in both directions pass, and a stop does not wait `grace_s` for their exchange."""
    made = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", grace_s="30.0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_serve, args=(listener, origin_ca.context((_NAME,), ())), daemon=True)
        server.start()
        made.start()
        try:
            context = ssl.create_default_context(cafile=str(made.ca))
            port = listener.getsockname()[1]
            with (
                tunnel(made, _NAME, port) as plain,
                context.wrap_socket(plain, server_hostname=_NAME) as tls,
            ):
                tls.sendall(
                    f"POST / HTTP/1.1\r\nHost: {_NAME}:{port}\r\nTE: trailers\r\nConnection: TE\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nSum: 1\r\n\r\n".encode()
                )
                got = b""
                while b"Grpc-Status" not in got:
                    got += tls.recv(65536)
                assert b"not here" not in got
                begun = time.monotonic()
                made.stop()
                assert time.monotonic() - begun < 10
            assert "did not end in time" not in made.log
        finally:
            made.stop()
