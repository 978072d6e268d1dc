"""addons/gnutls/connection.py against real clients. Software keys take the HSM's place."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import re
import ssl
import subprocess
import weakref
from pathlib import Path

import cffi
import pytest
from OpenSSL import SSL

from addons.gnutls import connection as gnutls
from addons.gnutls import library as gnutls_library
from addons.gnutls.connection import Connection
from addons.gnutls.credentials import Credentials
from addons.gnutls.library import ffi
from tests.addons.gnutls.peers import (
    AUTHORITY,
    NAME,
    TICKET_KEY,
    VERSIONS,
    Authority,
    Client,
    SoftwareKey,
    client_context,
    connected,
    run_python,
    s_client,
    serving,
)

MEGABYTES = os.urandom(1 << 20) * 10


@VERSIONS
@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("rsa", "rsa_pss_rsae_sha256"), ("p256", "ecdsa_secp256r1_sha256"), ("p384", "ecdsa_secp384r1_sha384")],
)
def test_python_client(version: str, kind: str, scheme: str) -> None:
    """A client verifies the site's certificate; the key is asked for one signature, and both sides tell the same."""
    key = SoftwareKey(kind)
    connection = Connection(Credentials([AUTHORITY.certify(key)]), [b"h2", b"http/1.1"])
    context = client_context(AUTHORITY, version)
    context.set_alpn_protocols(["http/1.1", "h2"])
    client = Client(context, connection)
    assert connection.get_protocol_version_name() == "Unknown"
    assert connection.get_cipher_name() is None
    client.handshake()
    assert key.schemes == [scheme]
    assert connection.get_protocol_version_name() == f"TLSv{version}"
    suite = client.tls.cipher()
    assert suite is not None
    assert connection.get_cipher_name() == suite[0]
    assert connection.get_alpn_proto_negotiated() == b"h2"
    assert client.tls.selected_alpn_protocol() == "h2"
    assert connection.sni == NAME
    assert connection.get_peer_certificate() is None
    assert connection.get_peer_cert_chain() is None
    assert not connection.resumed
    client.write(b"question")
    assert client.received == b"question"
    connection.sendall(b"answer")
    assert client.read() == b"answer"


def test_a_name_with_an_underscore_is_no_server_name() -> None:
    """GnuTLS ends the handshake: which is why the configuration refuses such a name for a site."""
    connection = Connection(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]), [])
    client = Client(client_context(AUTHORITY), connection, name="my_shop.example.com")
    with pytest.raises(SSL.Error, match="disallowed SNI"):
        client.handshake()


def test_alpn() -> None:
    """A client that offers other protocols is told so; one that offers none may go on."""
    credentials = Credentials([AUTHORITY.certify(SoftwareKey("p256"))])
    context = client_context(AUTHORITY)
    client = Client(context, Connection(credentials, [b"http/1.1"]), name=NAME)
    client.handshake()
    assert client.connection.get_alpn_proto_negotiated() == b""
    context.set_alpn_protocols(["imap"])
    client = Client(context, Connection(credentials, [b"http/1.1"]))
    with pytest.raises(SSL.Error, match="application protocol"):
        client.handshake()
    with pytest.raises(ssl.SSLError, match="alert no application protocol"):
        client.tls.do_handshake()


def test_no_name() -> None:
    """A client may ask for no name."""
    context = client_context(AUTHORITY, check_hostname=False)
    client = Client(context, Connection(Credentials([AUTHORITY.certify(SoftwareKey("p256"))])), name=None)
    client.handshake()
    assert client.connection.sni is None


@VERSIONS
def test_untrusting_client(version: str) -> None:
    """A client that does not know the CA is reported in the words that mitmproxy looks for."""
    credentials = Credentials([AUTHORITY.certify(SoftwareKey("p256"))])
    connection = Connection(credentials)
    client = Client(client_context(Authority(name="elsewhere"), version), connection)
    with pytest.raises(SSL.Error) as failed:
        client.handshake()
    assert failed.value.args[0][-1] == ("SSL routines", "", "tlsv1 alert unknown ca")


# the wire


@VERSIONS
def test_byte_by_byte(version: str) -> None:
    """A wire that carries one byte at a time is enough for handshake and data."""
    client = connected(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]), version, step=1)
    client.write(b"question")
    assert client.received == b"question"
    client.connection.sendall(b"answer")
    assert client.read() == b"answer"


@VERSIONS
def test_large_data(version: str) -> None:
    """10 MB arrive whole in either direction."""
    client = connected(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]), version)
    client.write(MEGABYTES)
    assert hashlib.sha256(client.received).digest() == hashlib.sha256(MEGABYTES).digest()
    assert client.connection.sendall(memoryview(MEGABYTES)) == len(MEGABYTES)
    assert hashlib.sha256(client.read()).digest() == hashlib.sha256(MEGABYTES).digest()


@VERSIONS
def test_client_says_goodbye(version: str) -> None:
    """A client that has closed its half still gets the answer."""
    client = connected(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]), version)
    client.tls.write(b"question")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.deliver()
    assert client.received == b"question"
    assert client.closed
    assert client.connection.get_shutdown() == SSL.RECEIVED_SHUTDOWN
    client.connection.sendall(b"answer")
    assert client.read() == b"answer"
    assert client.connection.shutdown()
    client.downstream()
    client.tls.unwrap()


@VERSIONS
def test_server_says_goodbye(version: str) -> None:
    """After our goodbye the client is still heard, and what we would say is not sent."""
    client = connected(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]), version)
    assert not client.connection.shutdown()
    assert not client.connection.shutdown()
    assert client.connection.get_shutdown() == SSL.SENT_SHUTDOWN
    client.write(b"last words")
    assert client.received == b"last words"
    with pytest.raises(SSL.SysCallError):
        client.connection.sendall(b"late")
    client.downstream()
    assert client.tls.read(10) == b""


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 600, b"\x16\x03\x01\xff\xff", b"\x15\x03\x01\x00\x02\x02\x28", b"\x80\x2e\1"],
)
def test_no_tls(said: bytes) -> None:
    """What is no handshake is an error, and stays one."""
    connection = Connection(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]))
    connection.bio_write(said)
    for _ in range(2):
        with pytest.raises(SSL.Error):
            connection.do_handshake()


@VERSIONS
def test_corrupt_record(version: str) -> None:
    """A record that was changed on its way breaks the connection, and the client is told."""
    client = connected(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]), version)
    client.tls.write(b"question")
    record = bytearray(client.outgoing.read())
    record[-1] ^= 1
    client.connection.bio_write(record)
    for _ in range(2):
        with pytest.raises(SSL.Error, match="Decryption has failed"):
            client.connection.recv(65535)
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        client.read()
    assert client.connection.get_shutdown() == 0


def test_abort() -> None:
    """A connection can be ended with an alert of ours before, during and after its handshake."""
    credentials = Credentials([AUTHORITY.certify(SoftwareKey("p256"))])
    client = Client(client_context(AUTHORITY), Connection(credentials))
    client.connection.abort(112)
    with pytest.raises(SSL.Error, match="aborted with alert 112"):
        client.handshake()
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        client.tls.do_handshake()
    client = Client(client_context(AUTHORITY), Connection(credentials))
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.upstream(client.connection.do_handshake)
    client.connection.abort(80)
    client.downstream()
    client.tls.do_handshake()  # the alert stands behind the server's last flight
    with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_INTERNAL_ERROR"):
        client.tls.read()
    client = connected(credentials)
    client.connection.abort(80)
    client.connection.shutdown()
    with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_INTERNAL_ERROR"):
        client.read()
    with pytest.raises(SSL.Error, match="aborted with alert 80"):
        client.connection.recv(1)


def test_renegotiation() -> None:
    """A client that wants to renegotiate is refused, and costs no second signature."""
    key = SoftwareKey("p256")
    with serving(Credentials([AUTHORITY.certify(key)])) as server:
        assert "no renegotiation" in s_client(server, "-tls1_2", said=b"R\n")
    assert len(key.schemes) == 1


def test_key_update() -> None:
    """What a client says right behind new keys (RFC 8446 section 4.6.3) is heard without waiting for more bytes."""
    library = gnutls_library.load()
    more = cffi.FFI()  # what a client needs, and the program does not
    more.cdef("int gnutls_set_default_priority(void *); int gnutls_session_key_update(void *, int flags);")
    extra = more.dlopen(gnutls_library.NAME)
    made, credentials = ffi.new("void **"), ffi.new("void **")
    assert library.gnutls_init(made, 2 | 8) == 0  # GNUTLS_CLIENT, GNUTLS_NONBLOCK
    assert library.gnutls_certificate_allocate_credentials(credentials) == 0
    client = ffi.gc(made[0], library.gnutls_deinit)
    kept = ffi.gc(credentials[0], library.gnutls_certificate_free_credentials)
    address = more.cast("void *", int(ffi.cast("uintptr_t", client)))
    buffers = gnutls._Buffers(client)
    handle = ffi.new_handle(buffers)
    assert extra.gnutls_set_default_priority(address) == 0
    assert library.gnutls_credentials_set(client, 1, kept) == 0
    library.gnutls_transport_set_ptr(client, handle)
    library.gnutls_transport_set_pull_function(client, gnutls._on_pull.native)
    library.gnutls_transport_set_push_function(client, gnutls._on_push.native)

    def carry() -> None:
        connection.bio_write(bytes(buffers.outgoing))
        buffers.outgoing.clear()

    connection = Connection(Credentials([AUTHORITY.certify(SoftwareKey("p256"))]))
    while library.gnutls_handshake(client) != 0:
        carry()
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
        buffers.incoming += connection.bio_read(65535)
    assert extra.gnutls_session_key_update(address, 1) == 0  # GNUTLS_KU_PEER: ours is to change as well
    assert library.gnutls_record_send(client, b"question", 8) == 8
    carry()
    connection.do_handshake()
    assert connection.recv(65535) == b"question"
    connection.sendall(b"answer")
    buffers.incoming += connection.bio_read(65535)
    room, buffers.starved = ffi.new("char[]", 100), False
    while (size := library.gnutls_record_recv(client, room, 100)) < 0:
        assert not buffers.starved
    assert ffi.buffer(room, size)[:] == b"answer"


# real clients


def answer_http(data: bytes, connection: Connection) -> None:
    """10 MB for every request."""
    if data:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(MEGABYTES))
        connection.sendall(MEGABYTES)


@VERSIONS
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_curl(version: str, kind: str, tmp_path: Path) -> None:
    """curl fetches 10 MB."""
    with serving(Credentials([AUTHORITY.certify(SoftwareKey(kind))]), [b"http/1.1"], answer_http) as server:
        url = f"https://{NAME}:{server.port}/"
        resolve = ["--resolve", f"{NAME}:{server.port}:127.0.0.1", "--noproxy", "*"]
        trust, versions = ["--cacert", AUTHORITY.ca_file(tmp_path)], [f"--tlsv{version}", "--tls-max", version]
        command = ["curl", "--silent", "--show-error", *trust, *resolve, *versions, url]
        ran = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert ran.stderr == b""
    assert hashlib.sha256(ran.stdout).digest() == hashlib.sha256(MEGABYTES).digest()
    assert (server.outcomes[0].version, server.outcomes[0].alpn) == (f"TLSv{version}", b"http/1.1")


@VERSIONS
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_gnutls_cli(version: str, kind: str, tmp_path: Path) -> None:
    """GnuTLS's client returns with a ticket, closes its half, and then gets its answer."""
    key = SoftwareKey(kind)
    heard = bytearray()

    def answer(data: bytes, connection: Connection) -> None:
        heard.extend(data)
        if not data:
            connection.sendall(b"all heard\n")

    with serving(Credentials([AUTHORITY.certify(key)], ticket_key=TICKET_KEY), [], answer) as server:
        names = ["--sni-hostname", NAME, "--verify-hostname", NAME, "--x509cafile", AUTHORITY.ca_file(tmp_path)]
        resume = ["--resume", "--waitresumption", "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}"]
        command = ["gnutls-cli", "--port", str(server.port), *names, *resume, "127.0.0.1"]
        ran = subprocess.run(command, input=b"question\n", capture_output=True, timeout=20, check=False)
    printed = (ran.stdout + ran.stderr).decode()
    assert "This is a resumed session" in printed, printed
    assert "all heard" in printed
    assert heard == b"question\n"
    assert [one.resumed for one in server.outcomes] == [False, True]
    assert len(key.schemes) == 1


def test_keylog(tmp_path: Path) -> None:
    """SSLKEYLOGFILE gives Wireshark what it needs, as with mitmproxy's own connections."""
    program = (
        "from tests.addons.gnutls.peers import *\n"
        "connection = Connection(Credentials([AUTHORITY.certify(SoftwareKey('p256'))]))\n"
        "Client(client_context(AUTHORITY), connection).handshake()"
    )
    log = tmp_path / "keys"
    run_python(["-c", program], SSLKEYLOGFILE=str(log))
    assert re.search(r"^SERVER_TRAFFIC_SECRET_0 [0-9a-f]{64} [0-9a-f]{96}$", log.read_text(), re.MULTILINE)


# what goes wrong in C


def test_fuzzed_handshakes() -> None:
    """2,000 mutated handshakes crash nothing and leave no thread behind."""
    run_python(["-m", "tests.addons.gnutls.fuzz", "2000"])


def test_memory() -> None:
    """After hundreds more of clients and sites a process is no bigger than before."""
    program = """
import gc, resource
from tests.addons.gnutls.peers import *
certificate = AUTHORITY.certify(SoftwareKey("p256"))
context = client_context(AUTHORITY)
def one(number):
    key = SoftwareKey("p256")
    remote = RemoteKey(key.private.public_key(), key.sign)
    credentials = Credentials([Certificate(certificate.chain, remote)], ticket_key=bytes(64))
    client = Client(context, Connection(credentials, [b"http/1.1"]))
    if number % 10:
        client.handshake()
        client.connection.sendall(bytes(50_000))
        client.read()
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024
for number in range(200):
    one(number)
before = resident()
for number in range(500):
    one(number)
print(resident() - before)
"""
    grown_kib = int(run_python(["-c", program]))
    assert grown_kib < 1500, f"{grown_kib} KiB for 500 connections"


def test_lifetimes() -> None:
    """Connections keep the site they were made from; both are gone with the last reference, without a collector run."""
    key = SoftwareKey("p256")
    credentials = Credentials([AUTHORITY.certify(key)], ticket_key=TICKET_KEY)
    clients = [Client(client_context(AUTHORITY), Connection(credentials)) for _ in range(3)]
    gone = weakref.ref(credentials)
    gc.collect()
    gc.disable()
    try:
        del credentials
        for client in clients:
            client.handshake()
            client.write(b"question")
            assert client.received == b"question"
        assert gone() is not None
        clients.clear()
        del client
        assert gone() is None
    finally:
        gc.enable()
