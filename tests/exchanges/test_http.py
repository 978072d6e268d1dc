"""Details of HTTP that clients and servers meet by each way: connections that end, fields that stay, codes that fit."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator

import pytest

from tests.addons.edge import wire2
from tests.addons.edge.listeners.test_alerts import HELLOS
from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import WAYS, Scene, over_tls
from tests.integration.nginx_server import serving

pytestmark = pytest.mark.alone
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def _head(tls: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = tls.recv(65536)
        assert data, head
        head += data
    return head


# leaving servers (RFC 9113 section 8.7)


@pytest.fixture(scope="module")
def leaving(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """nginx that takes five requests on a connection, whatever its version; its default is a thousand."""
    directory, port = tmp_path_factory.mktemp("nginx"), scene.lasting
    (directory / "file").write_bytes(bytes(30_000))
    server = f"listen 127.0.0.1:{port} ssl http2; keepalive_requests 5; root {directory};"
    told = "$http_x_forwarded_for $http_x_forwarded_proto $http_x_forwarded_host $server_protocol"
    server += f'location /told {{ return 200 "{told}\\n"; }}'
    running = serving(directory, scene.ca, HOST, server)
    scene.place.call(running.__enter__)
    yield port
    running.__exit__(None, None, None)


@pytest.mark.parametrize("way", [*WAYS, "across"])
@pytest.mark.parametrize("version", ["h2", "http/1.1"])
def test_a_server_that_goes_away(scene: Scene, leaving: int, way: str, version: str) -> None:
    """Each of sixty requests of one client is answered in full over some twelve connections to the server, in the same
    version of HTTP and across them; h2load counts."""
    # Ahead of its answers h2load asks over HTTP/2 alone: of HTTP/1.1 it takes no connection's end then.
    ahead = ["--max-concurrent-streams=10"] if version == "h2" else ["--max-concurrent-streams=1", "--h1"]
    with scene.relayed(way, leaving) as port:
        done = subprocess.run(
            ["h2load", f"--connect-to=127.0.0.1:{port}", "--requests=60", "--clients=1", *ahead,
             f"https://{HOST}:{leaving}/file"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert "60 total, 60 started, 60 done, 60 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout
    assert "status codes: 60 2xx" in done.stdout


# HTTP/1 (RFC 9112), and what ends an HTTP/2 connection


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_line_before_a_request(scene: Scene, way: str) -> None:
    """Some clients send one behind a body: a second request behind it in the same segment is answered (RFC 9112 section
    2.2)."""

    def serve(tls: ssl.SSLSocket) -> None:
        for _ in range(2):
            assert b"\r\n\r\nGET" not in _head(tls)
            tls.sendall(_OK)

    with (
        scene.serving(over_tls(scene.ca.context((HOST,), ("http/1.1",)), serve)) as port,
        scene.tls(way, port, "http/1.1") as tls,
    ):
        request = f"GET / HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
        tls.sendall(b"\r\n" + request)
        assert _head(tls).endswith(b"ok") or tls.recv(2)
        tls.sendall(b"\r\n\r\n" + request)
        assert _head(tls).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("way", "version"), [*((way, "http/1.1") for way in WAYS), ("across", "h2")])
def test_what_is_of_one_connection_stays_there(scene: Scene, way: str, version: str) -> None:
    """Fields that Connection names, and those of hops, reach neither the server nor the client (RFC 9110 section
    7.6.1), over HTTP/1.1 and across versions."""
    heard: list[bytes] = []

    def serve(tls: ssl.SSLSocket) -> None:
        heard.append(_head(tls).lower())
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, x-down\r\nX-Down: 1\r\n"
                    b"Keep-Alive: timeout=5\r\nX-Kept: 1\r\n\r\nok")  # fmt: skip

    up = ["--http2"] if version == "h2" else [
        "--http1.1", "--header", "Connection: x-up, keep-alive", "--header", "Keep-Alive: 5", "--header", "X-Up: 1",
    ]  # fmt: skip
    with scene.serving(over_tls(scene.ca.context((HOST,), ("http/1.1",)), serve)) as port:
        answer = scene.curl(way, port, *up, "--header", "X-Kept: 1", "--include")
    assert answer.status == 200, answer
    for head in (heard[0].decode(), answer.body.lower()):
        assert "x-kept: 1" in head
        assert not any(name in head for name in ("x-up", "x-down", "keep-alive:"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (wire2.frame(wire2.HEADERS, b"\xff\xff\xff\xff\xff", flags=wire2.END_HEADERS, stream=1), 9),
        (wire2.frame(wire2.SETTINGS, bytes(5)), 6),
        (wire2.frame(wire2.DATA, bytes(20_000), stream=1), 6),
    ],
    ids=["COMPRESSION_ERROR", "FRAME_SIZE_ERROR", "too large"],
)
def test_a_connection_that_is_broken_ends_with_its_code(scene: Scene, way: str, frames: bytes, code: int) -> None:
    """GOAWAY says what was wrong (RFC 9113 sections 4.2, 4.3)."""
    with scene.tls(way, scene.servers.ports["h2"], "h2") as tls:
        tls.sendall(wire2.MAGIC + wire2.settings() + frames)
        heard = b""
        while data := tls.recv(65536):
            heard += data
    assert [int.from_bytes(payload[4:8]) for kind, _, _, payload in wire2.frames(heard) if kind == wire2.GOAWAY] == [
        code
    ]


# connecting


def _answer(scene: Scene, way: str, port: int) -> str:
    """What a client reads whose way begins with a word of its own, or who asks a site."""
    if way != "explicit":
        return scene.curl(way, port, "--insecure").body
    said = f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
    with scene.open("direct", int(scene.systems[way].proxy.rpartition(":")[2])) as plain:
        plain.sendall(said)
        heard = _head(plain)
        length = int(heard.lower().partition(b"content-length: ")[2].split()[0])
        while len(heard.partition(b"\r\n\r\n")[2]) < length:
            heard += plain.recv(4096)
        return heard.decode()


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_connection_is_told_in_words(scene: Scene, way: str) -> None:
    """Nobody listens there: who reads an answer reads so, and the log says it, without a system's numbers."""
    port, through = scene.spare(), scene.through(way)[0]
    if way != "socks5":
        said = _answer(scene, way, port)
        assert "cannot be connected to" in said
        assert "Errno" not in said
    else:
        with pytest.raises(ConnectionError, match=r"it ended with b'.x05.x04"):
            scene.place.run(through.connect(port))
    scene.systems[way].until_logged(f"127.0.0.1:{port}: Connection refused")


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_gives_up_early_is_no_warning(scene: Scene, way: str) -> None:
    """It leaves in the middle of its hello, as browsers do that have opened a connection too many."""
    with scene.open(way, scene.servers.ports["h2"]) as connection:
        connection.sendall(b"\x16\3\1")
        client = "client {}:{} ".format(*connection.getsockname())
    with scene.open(way, scene.servers.ports["h2"]) as connection:  # what is logged of this one comes behind
        connection.sendall(HELLOS["an empty record"][0])
        assert connection.recv(100)
        later = "client {}:{} ".format(*connection.getsockname())
    scene.systems[way].until_logged(later)
    assert not [line for line in scene.systems[way].log.splitlines() if client in line and "WARNING" in line]


# what our own sites' servers are told


@pytest.mark.parametrize(("version", "option"), [("HTTP/2.0", "--http2"), ("HTTP/1.1", "--http1.1")])
def test_a_sites_server_is_told_who_asks(scene: Scene, leaving: int, version: str, option: str) -> None:
    """In each version of HTTP, whatever the client has claimed. Across them: tests/integration/test_inbound_told.py."""
    answer = scene.curl("inbound", leaving, option, "--header", "X-Forwarded-For: 6.6.6.6", path="/told")
    assert answer.body == f"127.0.0.1 https {HOST}:{leaving} {version}\n", answer
