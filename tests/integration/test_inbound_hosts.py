"""Two of our own sites on one listener, one of which demands client certificates: no way from one into the other."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.rig.nginx import Nginx
from bench.rig.port import free_port
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_clients import Chromium, Wanted, connected
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.integration.test_chromium import _FLAGS

OPEN, GUARDED = "open.example.com", "guarded.example.com"

_TWO_SERVERS = """
    server {{
        listen {address} ssl http2; ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.pem;
        server_name a.example.com; default_type text/html;
        location /page {{ return 200 '<p>no script</p><script src="https://b.example.com:{port}/script"></script>'; }}
        location /script {{ return 200 'document.body.innerHTML = "the script of a"'; }}
    }}
    server {{
        listen {other} ssl http2; ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.pem;
        server_name b.example.com; default_type text/javascript;
        location / {{ return 200 'document.body.innerHTML = "the script of b"'; }}
    }}"""


class TwoServers(Nginx):
    """A page of a that wants a script of b, and what a would say to that itself. They listen at two addresses."""

    def __init__(self, directory: Path, pem: bytes, port: int) -> None:
        super().__init__(directory, [], "")
        self._pem, self._port = pem, port
        self.other = f"127.0.0.1:{free_port()}"

    def _configuration(self) -> str:
        (self.directory / "server.pem").write_bytes(self._pem)
        places = {"address": self.address, "other": self.other, "directory": self.directory, "port": self._port}
        return self._whole(_TWO_SERVERS.format(**places))


@pytest.fixture(scope="module")
def system(
    softhsm_module: str, origin: OriginThread, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """Two sites over HTTP/1.1 (listener 0), the same over HTTP/2 (1), and two with one certificate (2)."""
    made = InboundSystem.make_inbound(tmp_path_factory.mktemp("hosts"), upstream_ca=origin_ca.pem, workers="1")
    made.generate(shop="p256")
    made.client_key = made.site_ca.client(made.directory)
    (made.directory / "clients.pem").write_text(made.site_ca.pem)
    guard = {"client_ca": "clients.pem", "client_certificates": "require"}
    with plain_origin() as plain:
        for upstream in (f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{origin.port}"):
            made.listener()
            made.site(OPEN, keys=["shop"], upstream=upstream)
            made.site(GUARDED, keys=["shop"], upstream=upstream, **guard)
        port = made.listener()
        made.certify("both.pem", "shop", ["a.example.com", "b.example.com"])
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = origin_ca.certify(key.public_key(), ["a.example.com", "b.example.com"])
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf.public_bytes(Encoding.PEM)
        servers = TwoServers(made.directory / "servers", pem, port)
        made.site("a.example.com", keys=["shop"], certificates=["both.pem"], upstream=f"https://{servers.address}")
        made.site("b.example.com", keys=["shop"], certificates=["both.pem"], upstream=f"https://{servers.other}")
        with _running(servers), made:
            yield made


class _running:  # a context manager
    """nginx on an event loop of its own: it is started and ended from a fixture that has none."""

    def __init__(self, server: Nginx) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.__aenter__(), self._loop).result(30)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.__aexit__(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def _said(system: InboundSystem, *lines: str, sni: str = OPEN, tls: ssl.SSLContext | None = None) -> str:
    """What comes back for a head of these lines, written as they stand."""
    wanted = Wanted(sni, system.ports[0], system.root)
    with connected(wanted, tls) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        said = b""
        while b"\r\n\r\n" not in said and (more := connection.recv(65536)):
            said += more
        head, _, body = said.partition(b"\r\n\r\n")
        length = next((int(one[15:]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")), 0)
        while len(body) < length and (more := connection.recv(65536)):
            body += more
        return (head + b"\r\n\r\n" + body).decode("latin-1")


def test_the_sites_own_host_is_served(system: InboundSystem) -> None:
    """What every honest client sends goes through, with a port or in absolute form."""
    for head in (
        ("GET / HTTP/1.1", f"Host: {OPEN}:{system.ports[0]}"),
        ("GET / HTTP/1.1", f"Host: {OPEN.upper()}"),
        (f"GET https://{OPEN}/ HTTP/1.1", f"Host: {OPEN}"),
    ):
        assert _said(system, *head).startswith("HTTP/1.1 200"), head


@pytest.mark.parametrize(
    "head",
    [
        ("GET / HTTP/1.1", f"Host: {GUARDED}"),
        ("GET / HTTP/1.1", f"Host: {GUARDED.upper()}.:443"),
        (f"GET https://{GUARDED}/ HTTP/1.1", f"Host: {OPEN}"),
        (f"GET http://{GUARDED}/ HTTP/1.1", f"Host: {GUARDED}"),
        ("GET / HTTP/1.0", f"Host: {GUARDED}"),
        ("GET / HTTP/1.0", "Accept: */*"),
        ("POST / HTTP/1.1", f"Host: {GUARDED}", "Content-Length: 0"),
    ],
)
def test_anothers_host_is_misdirected(system: InboundSystem, head: tuple[str, ...]) -> None:
    """A request for the guarded site, in a connection for the open one, gets 421 and reaches no server."""
    said = _said(system, *head)
    assert said.startswith("HTTP/1.1 421 Misdirected Request"), said
    assert f"this connection is for {OPEN}" in said
    system.until_logged("host-mismatch")


def test_the_target_counts_and_host_follows_it(system: InboundSystem) -> None:
    """Of an absolute target and another Host the target counts (RFC 9112 section 3.2.2): the guarded name in Host does
    not reach the server."""
    said = _said(system, f"GET https://{OPEN}/ HTTP/1.1", f"Host: {GUARDED}")
    assert said[:12] in ("HTTP/1.1 200", "HTTP/1.1 421")
    assert GUARDED not in said.lower()


@pytest.mark.parametrize(
    "head",
    [
        ("GET / HTTP/1.1", f"Host: {OPEN}", f"Host: {GUARDED}"),
        ("GET / HTTP/1.1", f"Host: {GUARDED}", f"Host: {OPEN}"),
        ("GET / HTTP/1.1", f"Host: user@{GUARDED}"),
        ("GET / HTTP/1.1", f"Host: {OPEN},{GUARDED}"),
        ("GET / HTTP/1.1", f"Host: {OPEN} {GUARDED}"),
    ],
)
def test_two_hosts_reach_no_server(system: InboundSystem, head: tuple[str, ...]) -> None:
    """Of two hosts a server may believe either: neither reaches it."""
    assert _said(system, *head)[:12] in ("HTTP/1.1 400", "HTTP/1.1 421")


def test_the_connection_goes_on_after_421(system: InboundSystem) -> None:
    """A client that reused the connection by mistake may go on in it with what it is for."""
    with connected(Wanted(OPEN, system.ports[0], system.root)) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {GUARDED}\r\n\r\n".encode())
        said = b""
        while not said.endswith(b"runs this proxy\n"):
            said += connection.recv(65536)
        connection.sendall(f"GET /again HTTP/1.1\r\nHost: {OPEN}\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_http2_names_the_connections_own_site(system: InboundSystem) -> None:
    """Over HTTP/2 :authority and Host are held to it, and other streams of the connection go on."""
    assert _asked_http2(system, [(OPEN, None), (GUARDED, None), (OPEN, None)]) == ["200", "421", "200"]
    for pair in ((OPEN, GUARDED), (GUARDED, OPEN)):
        (answer,) = _asked_http2(system, [pair])
        assert answer in ("421", "400", "reset", "closed"), pair


def _asked_http2(system: InboundSystem, requests: list[tuple[str, str | None]]) -> list[str]:
    """Each request's status on one connection for the open site: its :authority, and a Host header beside it."""
    http = h2.connection.H2Connection(
        h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
    )
    answers: dict[int, str] = {}
    with connected(Wanted(OPEN, system.ports[1], system.root, http="h2")) as connection:
        http.initiate_connection()
        for authority, host in requests:
            stream = http.get_next_available_stream_id()
            fields = [(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", "/")]
            http.send_headers(stream, fields + ([("host", host)] if host else []), end_stream=True)
            connection.sendall(http.data_to_send())
            while stream not in answers:
                if not (data := connection.recv(65536)):
                    return [*answers.values(), "closed"]
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        headers = {str(name): str(value) for name, value in event.headers}
                        answers[event.stream_id] = headers[":status"]
                    elif isinstance(event, h2.events.StreamReset):
                        answers[event.stream_id] = "reset"
                connection.sendall(http.data_to_send())
    return list(answers.values())


@pytest.mark.parametrize(
    "claims",
    [
        ("Client_Cert: :AAAA:",),
        ("client_cert_chain: :AAAA:", "CLIENT-CERT: :AAAA:"),
        ("Client.Cert: :AAAA:", "Client~Cert: :AAAA:"),
        ("Connection: Client-Cert",),
        ("Connection: keep-alive, client_cert , Client-Cert-Chain", "Connection: Client-Cert"),
    ],
)
def test_the_servers_header_is_the_genuine_one(system: InboundSystem, claims: tuple[str, ...]) -> None:
    """However a client spells a claim about its certificate, the server reads what hsmitm has verified, and nothing
    tells it to drop that."""
    tls = ssl.create_default_context(cafile=str(system.root))
    tls.load_cert_chain(system.client_key)
    said = _said(system, "GET / HTTP/1.1", f"Host: {GUARDED}", *claims, sni=GUARDED, tls=tls)
    fields = [line.partition(": ") for line in said.splitlines()]
    alike = {name.lower() for name, _, _ in fields if "".join(filter(str.isalpha, name.lower())).startswith("clientc")}
    assert alike == {"client-cert", "client-cert-chain"}
    assert [value for name, _, value in fields if name.lower() == "client-cert" and value.startswith(":MII")], said
    options = [value.lower() for name, _, value in fields if name.lower() == "connection"]
    assert not any("client" in value for value in options), options


def test_chromium_gets_each_sites_script_from_its_own_server(system: InboundSystem, tmp_path: Path) -> None:
    """With one certificate for two sites Chromium reuses a's HTTP/2 connection for b: 421 makes it open one for b,
    whose own server then answers."""
    browser = Chromium(tmp_path)
    browser.trust(system.root)
    port = system.ports[2]
    program = shutil.which("chromium")
    assert program is not None
    done = subprocess.run(
        [program, *_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--no-proxy-server",
         "--host-resolver-rules=MAP *.example.com 127.0.0.1", "--virtual-time-budget=10000", "--dump-dom",
         f"https://a.example.com:{port}/page"],
        capture_output=True, text=True, timeout=90, check=False, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert "the script of b" in done.stdout, done.stdout + done.stderr
