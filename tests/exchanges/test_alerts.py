"""What a client hears when its TLS fails, by each way and over real connections: an alert, and the end."""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import ExitStack, suppress

import pytest

from tests.addons.edge import wire2
from tests.addons.edge.hellos import built, records
from tests.addons.edge.listeners.test_alerts import HELLOS
from tests.addons.tls.ends import spoilt
from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import FORWARD, WAYS, Scene

pytestmark = pytest.mark.alone
_SOON_S = 2.0
_UNRECOGNIZED_NAME = 112
_OTHERWISE = {
    "TLS 1.3 without schemes": 40,
    "an empty list of groups": 40,
    "a body that is cut short": _UNRECOGNIZED_NAME,
}
"""What our own sites' clients hear: GnuTLS has names of its own for some of it, and without a name there is no site."""


def _named(said: bytes) -> bytes:
    """With the site's name, if it is a ClientHello in which one can be told."""
    suites = 5 + 4 + 2 + 32 + 1  # record, message, version, random, no session
    extensions = suites + 2 + int.from_bytes(said[suites : suites + 2]) + 2
    if said[:1] + said[5:6] != b"\x16\1" or len(said) - extensions - 2 != int.from_bytes(said[extensions:][:2]):
        return said
    if said[extensions + 2 : extensions + 4] == b"\0\0":
        return said  # it says one
    name = HOST.encode()
    sni = b"\0\0" + (len(name) + 5).to_bytes(2) + (len(name) + 3).to_bytes(2) + b"\0" + len(name).to_bytes(2) + name
    listed = sni + said[extensions + 2 :]
    body = said[9:extensions] + len(listed).to_bytes(2) + listed
    return records(b"\1" + len(body).to_bytes(3) + body, 16384)


def _heard(connection: socket.socket) -> bytes:
    """All that comes until the end, which is soon."""
    connection.settimeout(_SOON_S)
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", HELLOS)
def test_a_hello_that_leads_nowhere_gets_its_alert(scene: Scene, way: str, what: str) -> None:
    """The alert's name says what was wrong, however the client has come."""
    said, alert = HELLOS[what]
    if way == "inbound":
        said, alert = _named(said), _OTHERWISE.get(what, alert)
    with scene.open(way, scene.servers.ports["h2"]) as connection:
        connection.sendall(said)
        heard = _heard(connection)
    assert (heard[:1], heard[3:]) == (b"\x15", bytes((0, 2, 2, alert)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_record_that_is_wrong_ends_the_connection(scene: Scene, way: str, version: ssl.TLSVersion) -> None:
    """A record that was changed on its way: the client hears bad_record_mac, and does not wait until it is idle."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with scene.open(way, scene.servers.ports["http/1.1"]) as connection:
        while True:
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(65536))
        connection.sendall(outgoing.read())
        tls.write(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        connection.sendall(spoilt(outgoing.read()))
        incoming.write(_heard(connection))
        assert time.monotonic() - began < _SOON_S
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        tls.read()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["an alert", "no cipher suite of ours"])
def test_an_alert_arrives_although_the_client_goes_on_sending(scene: Scene, way: str, what: str) -> None:
    """A connection that is closed with bytes unread is reset, and with it goes what was said last: here comes an alert,
    and then an end."""
    with scene.open(way, scene.servers.ports["h2"]) as connection:
        for piece in (_named(HELLOS[what][0]), *[bytes(60_000)] * 8):
            connection.sendall(piece)
        assert connection.recv(7)[:1] == b"\x15"
        connection.sendall(bytes(60_000))
        assert connection.recv(1) == b""


@pytest.mark.parametrize("way", WAYS)
def test_a_goaway_arrives_although_the_client_goes_on_sending(scene: Scene, way: str) -> None:
    """The same of HTTP/2's own last words, and of close_notify behind them."""
    with scene.tls(way, scene.servers.ports["h2"], "h2") as tls:
        tls.sendall(wire2.MAGIC + wire2.settings() + wire2.frame(wire2.SETTINGS, bytes(5)))
        for _ in range(8):
            tls.sendall(bytes(60_000))
        heard = b""
        while data := tls.recv(65536):
            heard += data
    assert wire2.GOAWAY in [kind for kind, *_ in wire2.frames(heard)]


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_arrives_although_the_client_goes_on_sending(scene: Scene, way: str) -> None:
    """And of HTTP/1: a request that is none gets its 400, whatever comes behind it."""
    with scene.tls(way, scene.servers.ports["http/1.1"], "http/1.1") as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        for _ in range(8):
            tls.sendall(bytes(60_000))
        heard = b""
        while data := tls.recv(65536):
            heard += data
        with socket.socket(fileno=os.dup(tls.fileno())) as plain:
            plain.settimeout(5)
            assert plain.recv(1) == b"", "it was not reset"
    assert heard.startswith(b"HTTP/1.1 400 ")


def test_half_a_hello_gets_an_alert(scene: Scene) -> None:
    """Clients that stop in the middle are told so when their time is up, which is seconds here."""
    with ExitStack() as stack:
        waiting = [stack.enter_context(scene.open(way, scene.servers.ports["h2"])) for way in FORWARD]
        for one in waiting:
            one.sendall(built(b"\x13\1")[:20])
            one.settimeout(15)
        assert [one.recv(100)[:1] for one in waiting] == [b"\x15"] * len(FORWARD)
