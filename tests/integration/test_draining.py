"""A worker that is stopped waits for what is in progress, and for nothing that has ended."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

from addons.edge.http2.events import Ended, Event, GoAway, Head
from addons.edge.http2.session import Session
from addons.edge.settings import Bounds
from proxy.demo.origin import OriginCA
from tests.addons.edge import wire2
from tests.addons.edge.proxied import body
from tests.integration.harness import System
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


def _connected(made: System, port: int, protocol: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(made.ca))
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(tunnel(made, _NAME, port), server_hostname=_NAME)


def test_answers_in_progress_are_whole(softhsm_module: str, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A stop: a client of HTTP/2 hears GOAWAY and gets the rest of its answer; one of HTTP/1 gets its answer, and is
    told that it was the last on this connection."""
    made = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1", grace_s="30.0")
    slow = _Slow(origin_ca.context((_NAME,), ("h2", "http/1.1")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=slow.serve, args=(listener,), daemon=True).start()
        made.start()
        try:
            port = listener.getsockname()[1]
            with _connected(made, port, "h2") as two, _connected(made, port, "http/1.1") as one:
                session = Session(Bounds(), client=True)
                stream = session.request([*wire2.REQUEST[:3], (b":authority", f"{_NAME}:{port}".encode())], ended=True)
                two.sendall(session.pull(1 << 20))
                one.sendall(f"GET / HTTP/1.1\r\nHost: {_NAME}:{port}\r\n\r\n".encode())
                assert slow.asked.acquire(timeout=10)
                assert slow.asked.acquire(timeout=10)
                stopping = threading.Thread(target=made.stop)
                stopping.start()
                came = _until(two, session, GoAway)
                assert [event.code for event in came if isinstance(event, GoAway)] == [0]
                slow.go_on.set()
                came += _until(two, session, Ended)
                assert body(came, stream) == b"half and half"
                got = b""
                while data := one.recv(65536):
                    got += data
                assert b"\r\nConnection: close\r\n" in got
                assert got.endswith(b"\r\n\r\nhalf and half")
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
