"""Every class of errors that the decryption log knows, provoked by real clients at a real hsmitm."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus

from addons.records.facts import ErrorClass
from addons.tls.refusal import alert
from tests.addons.edge import hellos
from tests.addons.upstream.faulty import NOBODY, ROOT, shown
from tests.integration.decryption_records import Records, Told
from tests.integration.harness import System
from tests.integration.test_forward import tunnel
from tests.policy.shops import Street, street

_POLICY = """
[[policy.rules]]
name = "closed"
to = { domains = ["closed.test"] }
action = "block"

[[policy.rules]]
name = "strict"
to = { domains = [".strict.test"] }
action = "decrypt"
profile = "strict"

[[policy.rules]]
name = "status"
to = { domains = [".status.test"] }
action = "decrypt"
profile = "status"

[profiles.strict]
untrusted = "block"
self_signed = "block"
name_mismatch = "block"
weak_key = "block"
ech = "block"

[profiles.status]
status_unknown = "block"
status_timeout = "block"
"""


class _Servers:
    """TLS servers of many names on one port: "expired.strict.test" shows a certificate with that fault."""

    def __init__(self, *, want: bool = False) -> None:
        """`want`: they want a certificate of the client's."""
        self._want = want
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _context(self, name: str, directory: Path) -> ssl.SSLContext:
        fault = (
            name.partition(".")[0]
            .replace("-", " ")
            .replace("self signed", "self-signed")
            .replace("rsa 1024", "RSA-1024")
        )
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.set_ciphers("DEFAULT:@SECLEVEL=0")
        file = directory / "pem"
        file.write_bytes(shown(fault, name).pem)
        made.load_cert_chain(file)
        if self._want:
            made.load_verify_locations(cadata=NOBODY.pem.decode())
            made.verify_mode = ssl.CERT_REQUIRED
        return made

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with tempfile.TemporaryDirectory() as directory, connection, suppress(OSError):
            connection.settimeout(20)
            outer = self._context("any.test", Path(directory))

            def choose(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
                tls.context = self._context(name or "any.test", Path(directory))

            outer.sni_callback = choose
            with outer.wrap_socket(connection, server_side=True) as tls:
                while data := tls.recv(65536):
                    if b"\r\n\r\n" in data:
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nshop")

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@dataclass
class Place:
    """Where it is provoked."""

    system: System
    proxy: str
    servers: _Servers
    wanting: _Servers
    shops: Street
    records: Records

    def begin(self, host: str, port: int | None = None) -> socket.socket:
        """A tunnel to one of the servers."""
        return tunnel(self.system, host, port or self.servers.port)

    def connect(self) -> socket.socket:
        """A connection to the proxy."""
        name, _, port = self.system.proxy.rpartition(":")
        return socket.create_connection((name, int(port)), timeout=10)

    def fails(self, host: str, adjust: Callable[[ssl.SSLContext], None] = lambda _: None) -> int:
        """The port of a client of Python's ssl module, whose handshake fails."""
        context = ssl.create_default_context(cafile=str(self.system.ca))
        adjust(context)
        with self.begin(host) as connection:
            port: int = connection.getsockname()[1]
            with pytest.raises(OSError), context.wrap_socket(connection, server_hostname=host) as tls:  # noqa: PT011
                tls.recv(1)
            return port

    def visits(self, host: str, port: int | None = None, *options: str) -> str:
        """The host that curl was to ask for, and could not, or not well."""
        url = f"https://{host}:{port or self.servers.port}/"
        reply = self.system.curl(url, "--insecure", *options, proxy=self.proxy)
        assert not reply.ok
        return host

    def says(self, host: str, data: bytes) -> int:
        """The port of a client that says this in a tunnel, and reads until it is cut."""
        with self.begin(host) as connection:
            port: int = connection.getsockname()[1]
            connection.sendall(data)
            with suppress(ConnectionError):
                while connection.recv(65536):
                    pass
            return port


@pytest.fixture(scope="module")
def place(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A running hsmitm, with servers behind it that have every fault."""
    with street() as shops, ExitStack() as closing:
        servers, wanting = _Servers(), _Servers(want=True)
        closing.callback(servers.close)
        closing.callback(wanting.close)
        roots = ROOT.pem.decode() + shops.root.certificate.public_bytes(Encoding.PEM).decode()
        system = System.make(
            tmp_path_factory.mktemp("classes") / "s", upstream_ca=roots, workers="1", mint_timeout_s="1.0",
            hello_s="1.0", connections_per_client="8", mints_per_s="3.0",
        )  # fmt: skip
        system.toml.write_text(system.toml.read_text() + _POLICY)
        with system:
            records = Records(system.directory / "decryption.jsonl")
            yield Place(system, system.proxy, servers, wanting, shops, records)


def _distrusts(place: Place) -> int:
    return place.fails("good.test", lambda context: context.load_default_certs() or _forget(context))


def _forget(context: ssl.SSLContext) -> None:
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF  # there is no list of it


def _old(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):  # deprecated, which is what this is about
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


def _weak(context: ssl.SSLContext) -> None:
    context.set_ciphers("AES128-SHA")
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def _greased(host: str) -> bytes:
    """A ClientHello with encrypted_client_hello (0xfe0d), of TLS 1.2: its key is in a later message."""
    name = b"\0" + len(host).to_bytes(2) + host.encode()
    return hellos.built(
        b"\x13\x01\xc0\x2b", (0, len(name).to_bytes(2) + name), (10, b"\0\4\0\x1d\0\x17"),
        (13, b"\0\2\4\3"), (0xFE0D, b"\0\0\1\0\1" + bytes(40)),
    )  # fmt: skip


def _wants_ech(place: Place) -> int:
    """A client that takes no answer to its outer ClientHello for one, and says so (RFC 9849 section 11.2)."""
    with place.begin("ech.test") as connection:
        port = int(connection.getsockname()[1])
        connection.sendall(_greased("ech.test"))
        assert connection.recv(65536)[:1] == b"\x16"
        connection.sendall(alert(121))
        with suppress(ConnectionError):
            while connection.recv(65536):
                pass
        return port


def _closes(place: Place) -> int:
    with place.begin("closes.test") as connection:
        connection.sendall(hellos.hello("closes.test")[:20])
        return int(connection.getsockname()[1])


def _mismatch(place: Place) -> int:
    context = ssl.create_default_context(cafile=str(place.system.ca))
    with place.begin("asked.test") as connection:
        port = int(connection.getsockname()[1])
        with pytest.raises(OSError), context.wrap_socket(connection, server_hostname="other.test"):  # noqa: PT011
            pass
        return port


def _strange_host(place: Place) -> str:
    return place.visits("good.strange.test", None, "--http1.1", "--header", "Host: elsewhere.test")


def _revoked(place: Place) -> str:
    return _with_status(place, "revoked.test", OCSPCertStatus.REVOKED)


def _unknown(place: Place) -> str:
    return _with_status(place, "unknown.status.test", OCSPCertStatus.UNKNOWN)


def _with_status(place: Place, name: str, status: OCSPCertStatus) -> str:
    certificate = place.shops.certify(name, place.shops.at(f"/{name}", b""))
    place.shops.respond(f"/{name}", certificate, status)
    place.shops.open(name, certificate)
    return place.visits(name, place.shops.port)


def _late(place: Place) -> str:
    name, over = "late.status.test", threading.Event()
    place.shops.open(name, place.shops.certify(name, place.shops.at("/late", lambda _: over.wait(20) and None)))
    try:
        return place.visits(name, place.shops.port)
    finally:
        over.set()


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _hsm_away(place: Place) -> str:
    with _stopped(place.system.pids("proxy.main signer")):
        return place.visits("away.test")


def _hsm_busy(place: Place) -> str:
    """More new names than a worker may ask for."""
    for number in range(60):
        host = f"busy-{number}.test"
        reply = place.system.curl(f"https://{host}:{place.servers.port}/", "--insecure")
        if not reply.ok:
            return host
    raise AssertionError("the signer mints without end")


def _too_many(place: Place) -> int:
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(place.connect())
        with place.connect() as one_more:
            with suppress(ConnectionError):
                assert one_more.recv(1) == b""
            return int(one_more.getsockname()[1])


def _nobody_there(place: Place) -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return place.visits("away-server.test", port)


_BROKEN = """
def tls_start_client(data):
    if data.context.client.sni == "broken.test":
        data.ssl_conn = object()
"""


def _broken(place: Place) -> Told:
    """A user's script hands over what is no TLS connection."""
    directory = place.system.directory.parent / "broken"
    made = System.make(directory, upstream_ca=ROOT.pem.decode(), workers="1", scripts='["broken.py"]')
    (directory / "broken.py").write_text(_BROKEN)
    made.expect_crashes = True
    with made as system:
        reply = system.curl(f"https://broken.test:{place.servers.port}/", "--insecure", "--max-time", "2")
        assert not reply.ok
        return Records(directory / "decryption.jsonl").of_host("broken.test")


PROVOKED: dict[ErrorClass, Callable[[Place], str | int | Told]] = {
    "client-distrusts-ca": _distrusts,
    "client-closed": _closes,
    "no-common-version": lambda place: place.fails("version.test", _old),
    "no-common-cipher": lambda place: place.fails("cipher.test", _weak),
    "no-common-group": lambda place: place.visits(
        "group.test", None, "--curves", "brainpoolP256r1", "--tls-max", "1.2"
    ),
    "ech-required": _wants_ech,
    "server-expired": lambda place: place.visits("expired.test"),
    "server-untrusted": lambda place: place.visits("untrusted.strict.test"),
    "server-incomplete-chain": lambda place: place.visits("incomplete-chain.strict.test"),
    "server-name": lambda place: place.visits("wrong-name.strict.test"),
    "server-self-signed": lambda place: place.visits("self-signed.strict.test"),
    "server-revoked": _revoked,
    "server-weak-key": lambda place: place.visits("rsa-1024.strict.test"),
    "status-unknown": _unknown,
    "status-timeout": _late,
    "server-wants-client-certificate": lambda place: place.visits("wanting.test", place.wanting.port),
    "sni-mismatch": _mismatch,
    "host-mismatch": _strange_host,
    "hsm-unavailable": _hsm_away,
    "no-resources": _too_many,
    "not-tls": lambda place: place.says("ssh.test", b"SSH-2.0-OpenSSH_9.6\r\n"),
    "malformed-hello": lambda place: place.says("malformed.test", b"\x16\x03\x01\0\x04\1\0\0\0"),
    "oversized-hello": lambda place: place.says("oversized.test", hellos.records(hellos.padded(66000), 16384)),
    "connect-failed": _nobody_there,
    "dns-failed": lambda place: place.visits("nowhere.invalid"),
    "blocked-by-policy": lambda place: place.visits("closed.test"),
    "blocked-destination": lambda place: place.visits("169.254.169.254", 443),
    "too-slow": lambda place: place.says("slow.test", hellos.hello("slow.test")[:40]),
    "internal": _broken,
    "hsm-busy": _hsm_busy,  # the last one: it uses the names up that there are
}


@pytest.mark.parametrize("kind", PROVOKED)
def test_each_class_is_provoked(place: Place, kind: ErrorClass) -> None:
    """A client, or a server, has the fault; its connection has one record, with the class, and no other has it."""
    found = PROVOKED[kind](place)
    told = found if isinstance(found, dict) else place.records.of(found)
    assert told["hsmitm"]["error"]["class"] == kind, told
    assert told["event"]["outcome"] == "failure"
    assert told["hsmitm"]["error"]["side"] == ("server" if kind in _SERVERS else "client")


_SERVERS = {one for one in get_args(ErrorClass) if one.startswith(("server-", "status-"))} | {
    "connect-failed", "dns-failed", "blocked-destination",
}  # fmt: skip


def test_no_class_is_without_a_test() -> None:
    """The closed list, and the table above: one is as long as the other."""
    assert set(PROVOKED) == set(get_args(ErrorClass))
