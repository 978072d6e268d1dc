"""What flows through our own sites once TLS stands: large bodies, WebSocket messages, and connections that half-close.

Large bodies tell the worker's memory and their time: `pytest -rP` shows them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Request, TextMessage

from proxy.demo import origin as origin_module
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_clients import Http, Tls, Wanted, connected, context, run
from tests.integration.inbound_system import InboundSystem

SIZE = 100_000_000
BOTH_TLS = pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])


@dataclass
class Large:
    """A file of random bytes, and its hash."""

    path: Path
    data: bytes = field(repr=False)
    sha256: str


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    """100 MB, made once."""
    data = os.urandom(SIZE)
    path = tmp_path_factory.mktemp("large") / "large"
    path.write_bytes(data)
    yield Large(path, data, hashlib.sha256(data).hexdigest())
    path.unlink()  # pytest keeps directories of several runs


class RawOrigin:
    """A server without TLS that takes one request at a time and answers with bytes, as they are, when it is let."""

    def __init__(self) -> None:
        self.answer = b""
        self.asked = threading.Event()
        self.let = threading.Event()
        self.left = threading.Event()
        """Whoever asked has closed the connection before the answer."""
        self._server = socket.create_server(("127.0.0.1", 0), backlog=8)
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                with connection, contextlib.suppress(OSError):
                    self._one(connection)

    def _one(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (data := connection.recv(65536)):
                return
            request += data
        self.asked.set()
        until = time.monotonic() + 30
        while not self.let.is_set():
            assert time.monotonic() < until
            if select.select([connection], [], [], 0.02)[0] and not connection.recv(1):
                self.left.set()
                return
        connection.sendall(self.answer)

    def set(self, answer: bytes, *, let: bool) -> None:
        """What comes next; with `let` at once."""
        self.answer = answer
        self.asked.clear()
        self.left.clear()
        (self.let.set if let else self.let.clear)()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def raw() -> Iterator[RawOrigin]:
    """Behind raw.example.com."""
    with RawOrigin() as running:
        yield running


@pytest.fixture(scope="module")
def system(
    softhsm_module: str, origin_ca: OriginCA, raw: RawOrigin, large: Large, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """One worker; behind its sites an origin with the large file, which also hashes what it is sent, and a raw one."""
    plain_answer = origin_module._answer

    def answer(method: str, host: str, path: str, body: bytes) -> bytes:
        match method, path:
            case "GET", "/large":
                return large.data
            case "POST", "/hash":
                return hashlib.sha256(body).hexdigest().encode()
        return plain_answer(method, host, path, body)

    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(origin_module, "_answer", answer)
        origin = stack.enter_context(OriginThread(origin_ca))
        made = InboundSystem.make_inbound(tmp_path_factory.mktemp("bodies"), upstream_ca=origin_ca.pem, workers="1")
        made.generate(rsa="rsa-2048", ec="p256")
        made.listener()
        for name in ("rsa", "ec"):
            made.site(f"{name}.example.com", keys=[name], upstream=f"https://127.0.0.1:{origin.port}", half_close=True)
        for name, half_close in (("raw", True), ("hasty", False)):
            made.site(
                f"{name}.example.com", keys=["ec"], upstream=f"http://127.0.0.1:{raw.port}", half_close=half_close
            )
        with made:
            yield made


def wanted(system: InboundSystem, site: str, tls: Tls = "TLSv1.3", http: Http = "http/1.1", path: str = "/") -> Wanted:
    """Something of a site."""
    return Wanted(f"{site}.example.com", system.port, system.root, tls, http, path)


# large bodies


@pytest.fixture
def memory(system: InboundSystem, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Reports the worker's memory around a test, and the test's time."""
    (pid,) = system.worker_pids()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak, from now on (proc(5))
    before, began = resident(pid), time.monotonic()
    yield
    seconds, after = time.monotonic() - began, resident(pid)
    told = f"{seconds:.1f} s; worker {before['VmRSS']} MB before, {after['VmHWM']} at most, {after['VmRSS']} after"
    record_property("memory", told)
    print(told)


def resident(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(kib) // 1000 for name, kib in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}


def curl(page: Wanted, *options: str | Path) -> str:
    """What curl gets, over the HTTP version that is wanted and no other."""
    number = page.tls.removeprefix("TLSv")
    done = run(
        "curl", "--silent", "--show-error", "--max-time", "60", "--cacert", page.root, f"--tlsv{number}",
        "--tls-max", number, "--resolve", f"{page.authority}:127.0.0.1",
        "--http2" if page.http == "h2" else "--http1.1",
        "--write-out", "\n%{http_version} %{http_code}", *options, f"https://{page.authority}{page.path}", timeout_s=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body, _, numbers = done.stdout.rpartition("\n")
    assert numbers == ("2 200" if page.http == "h2" else "1.1 200"), done.stdout
    return body


LARGE = pytest.mark.parametrize(
    ("site", "tls", "http"),
    [("rsa", "TLSv1.3", "http/1.1"), ("ec", "TLSv1.2", "http/1.1"), ("rsa", "TLSv1.2", "h2"), ("ec", "TLSv1.3", "h2")],
)


@LARGE
def test_large_body_up_and_down(
    system: InboundSystem, large: Large, memory: None, tmp_path: Path, site: str, tls: Tls, http: Http
) -> None:
    """100 MB go to the server and come back from it unchanged."""
    back = tmp_path / "back"
    page = wanted(system, site, tls, http, "/echo")
    curl(page, "--data-binary", f"@{large.path}", "--output", back)
    assert back.stat().st_size == SIZE
    assert hashlib.sha256(back.read_bytes()).hexdigest() == large.sha256
    back.unlink()


@pytest.mark.parametrize("http", ["http/1.1", "h2"])
def test_large_upload(system: InboundSystem, large: Large, memory: None, http: Http) -> None:
    """The server gets 100 MB as the client sent them: it says their hash."""
    page = wanted(system, "rsa", http=http, path="/hash")
    assert curl(page, "--data-binary", f"@{large.path}") == large.sha256


@pytest.mark.parametrize("http", ["http/1.1", "h2"])
def test_large_download(system: InboundSystem, large: Large, memory: None, tmp_path: Path, http: Http) -> None:
    """The client gets 100 MB as the server sent them."""
    back = tmp_path / "back"
    curl(wanted(system, "ec", http=http, path="/large"), "--output", back)
    assert hashlib.sha256(back.read_bytes()).hexdigest() == large.sha256
    back.unlink()


# WebSocket


@pytest.mark.parametrize("site", ["rsa", "ec"])
@BOTH_TLS
def test_websocket(system: InboundSystem, site: str, tls: Tls) -> None:
    """A WebSocket carries text and a megabyte of bytes both ways, and closes cleanly."""
    page = wanted(system, site, tls, path="/chat")
    content = os.urandom(1_000_000)
    text, echoed = "", b""
    client = WSConnection(ConnectionType.CLIENT)
    with connected(page) as connection:
        connection.sendall(client.send(Request(host=page.authority, target=page.path)))
        closed = False
        while not closed:
            client.receive_data(connection.recv(65536) or None)
            for event in client.events():
                match event:
                    case AcceptConnection():
                        connection.sendall(client.send(Message(data="our own server")))
                    case TextMessage():
                        text += event.data
                        connection.sendall(client.send(Message(data=content)))
                    case BytesMessage():  # the origin gives back each part as it comes
                        echoed += event.data
                        if len(echoed) == len(content):
                            connection.sendall(client.send(CloseConnection(code=1000)))
                    case CloseConnection():
                        assert event.code == 1000
                        closed = True
        assert connection.recv(1) == b""  # close_notify; a cut would raise
    assert text == "our own server"
    assert echoed == content


# half-closed connections


class Visitor:
    """A TLS client over memory buffers: it can end what it says and go on listening.

    The end of its handshake goes out with what it says first.
    """

    def __init__(self, page: Wanted, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is said arrives before anything later
        self._plain = plain
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context(page).wrap_bio(self._in, self._out, server_hostname=page.name)
        self._until_done(self._tls.do_handshake)

    def _until_done[T](self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._plain.recv(65536)
                (self._in.write if data else lambda _: self._in.write_eof())(data)

    def _flush(self) -> None:
        if data := self._out.read():
            self._plain.sendall(data)

    def say(self, data: bytes, then: Callable[[Visitor], None] | None = None) -> None:
        """Send, and `then` with it."""
        self._tls.write(data)
        if then is not None:
            then(self)
        self._flush()

    def close_notify(self) -> None:
        """Say that nothing comes any more."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()

    def shut(self) -> None:
        """End the TCP stream in our direction."""
        self._flush()
        self._plain.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Cut the TCP connection."""
        self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._plain.close()

    def hear(self) -> bytes:
        """All that comes until the server's close_notify; ssl.SSLError where there is none."""
        heard = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):  # close_notify, after our own
            while data := self._until_done(lambda: self._tls.read(65536)):
                heard += data
        return heard


@contextmanager
def visiting(page: Wanted) -> Iterator[Visitor]:
    """A visitor, connected."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as plain:
        yield Visitor(page, plain)


def close_notify(visitor: Visitor) -> None:
    """As TLS ends."""
    visitor.close_notify()


def shut(visitor: Visitor) -> None:
    """As TCP ends, with no goodbye before."""
    visitor.shut()


def both(visitor: Visitor) -> None:
    """As a client ends that does it right."""
    visitor.close_notify()
    visitor.shut()


@pytest.mark.parametrize("end", [close_notify, shut, both])
@BOTH_TLS
def test_client_that_has_said_everything(
    system: InboundSystem, raw: RawOrigin, tls: Tls, end: Callable[[Visitor], None]
) -> None:
    """A client that ends its direction after its request gets the whole answer, however late the server makes it."""
    body = os.urandom(1_000_000)
    raw.set(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body, let=False)
    page = wanted(system, "raw", tls)
    with visiting(page) as visitor:
        visitor.say(f"GET / HTTP/1.1\r\nHost: {page.authority}\r\n\r\n".encode())
        assert raw.asked.wait(10)
        visitor.say(b"", then=end)
        # The worker has one event loop: once a later client has its page, our end has been heard.
        assert "says hello" in curl(wanted(system, "rsa", tls))
        raw.let.set()
        heard = visitor.hear()
    assert heard.startswith(b"HTTP/1.1 200"), heard[:200]
    assert heard.endswith(body)


@pytest.mark.parametrize("end", [close_notify, shut, both])
@BOTH_TLS
def test_a_server_hears_of_clients_that_have_gone(
    system: InboundSystem, raw: RawOrigin, tls: Tls, end: Callable[[Visitor], None]
) -> None:
    """A site that says nothing of half-closed connections: its server's connection ends with the client's."""
    raw.set(b"", let=False)
    page = wanted(system, "hasty", tls)
    with visiting(page) as visitor:
        visitor.say(f"GET / HTTP/1.1\r\nHost: {page.authority}\r\n\r\n".encode())
        assert raw.asked.wait(10)
        visitor.say(b"", then=end)
        assert raw.left.wait(2)


@pytest.mark.parametrize("site", ["raw", "hasty"])
def test_a_server_hears_of_clients_that_were_cut(system: InboundSystem, raw: RawOrigin, site: str) -> None:
    """A client whose connection is reset has gone, whatever the site says."""
    raw.set(b"", let=False)
    page = wanted(system, site)
    with visiting(page) as visitor:
        visitor.say(f"GET / HTTP/1.1\r\nHost: {page.authority}\r\n\r\n".encode())
        assert raw.asked.wait(10)
        visitor.reset()
        assert raw.left.wait(2)


@pytest.mark.parametrize("end", [close_notify, shut, both])
@BOTH_TLS
def test_everything_in_one_flight(system: InboundSystem, tls: Tls, end: Callable[[Visitor], None]) -> None:
    """A client that ends its direction together with its handshake and its request gets the answer."""
    page = wanted(system, "rsa", tls)
    for _ in range(10):  # whether the end overtakes the handshake is a matter of luck
        with visiting(page) as visitor:
            visitor.say(f"GET / HTTP/1.1\r\nHost: {page.authority}\r\n\r\n".encode(), then=end)
            assert visitor.hear().endswith(f"{page.authority} says hello over TLS, path /\n".encode())


@pytest.mark.parametrize("end", [close_notify, shut])
def test_upload_that_ends_the_clients_direction(system: InboundSystem, end: Callable[[Visitor], None]) -> None:
    """A client that posts a body and ends its direction with it gets the answer."""
    body = os.urandom(1_000_000)
    page = wanted(system, "rsa", path="/hash")
    head = f"POST /hash HTTP/1.1\r\nHost: {page.authority}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with visiting(page) as visitor:
        visitor.say(head + body, then=end)
        heard = visitor.hear()
    assert heard.endswith(hashlib.sha256(body).hexdigest().encode()), heard[:200]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
@BOTH_TLS
def test_server_that_ends_its_answer_by_closing(system: InboundSystem, raw: RawOrigin, tls: Tls, size: int) -> None:
    """An answer without a length, ended by closing, arrives in full, and then close_notify: no cut can pass for it."""
    body = os.urandom(size)
    raw.set(b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n" + body, let=True)
    page = wanted(system, "raw", tls)
    heard = b""
    with connected(page) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {page.authority}\r\n\r\n".encode())
        while data := connection.recv(65536):  # raises where the connection ends without close_notify
            heard += data
    head, _, rest = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200"), head
    assert rest == body


@BOTH_TLS
def test_answer_that_is_cut(system: InboundSystem, raw: RawOrigin, tls: Tls) -> None:
    """An answer that ends before the length it promised is not delivered as if it were whole."""
    raw.set(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(50), let=True)
    page = wanted(system, "raw", tls)
    done = run(
        "curl", "--silent", "--show-error", "--fail", "--max-time", "20", "--cacert", page.root,
        "--resolve", f"{page.authority}:127.0.0.1", f"https://{page.authority}/",
    )  # fmt: skip
    assert done.returncode != 0


@BOTH_TLS
def test_client_that_asks_for_the_end(system: InboundSystem, tls: Tls) -> None:
    """After "Connection: close" the client gets its answer and close_notify, and needs to do nothing."""
    page = wanted(system, "rsa", tls)
    heard = b""
    with connected(page) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {page.authority}\r\nConnection: close\r\n\r\n".encode())
        while data := connection.recv(65536):
            heard += data
    assert heard.endswith(f"{page.authority} says hello over TLS, path /\n".encode())
