"""What a client of the forward proxy hears when its TLS fails, over real connections: an alert, and the end."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from proxy.demo.origin import OriginCA
from tests.addons.edge.hellos import built
from tests.addons.edge.listeners.test_alerts import HELLOS
from tests.addons.tls.ends import spoilt
from tests.integration.harness import OriginThread, System
from tests.integration.test_forward import tunnel
from tests.integration.test_uninspected_modes import socks

_SOON_S = 2.0
_NAME = "alerts.test"
Reach = Callable[[], socket.socket]


@pytest.fixture(scope="module")
def socks5(softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxy for clients that speak SOCKS5."""
    made = System.make(
        tmp_path_factory.mktemp("socks") / "s", upstream_ca=origin_ca.pem, workers="1", mode='"socks5"',
        client_handshake_timeout_s="2.0",
    )  # fmt: skip
    with made as system:
        yield system


@pytest.fixture(params=["explicit", "SOCKS5"])
def reach(request: pytest.FixtureRequest, system: System, origin: OriginThread) -> Reach:
    """A connection to the origin, through a proxy."""
    if request.param == "explicit":
        return lambda: tunnel(system, _NAME, origin.port)
    other: System = request.getfixturevalue("socks5")
    return lambda: socks(other, _NAME, origin.port)


def _heard(connection: socket.socket) -> bytes:
    """All that comes until the end, which is soon."""
    connection.settimeout(_SOON_S)
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


@pytest.mark.parametrize("what", HELLOS)
def test_a_hello_that_leads_nowhere_gets_its_alert(reach: Reach, what: str) -> None:
    """The alert's name says what was wrong, however the client has come."""
    said, alert = HELLOS[what]
    with reach() as connection:
        connection.sendall(said)
        heard = _heard(connection)
    assert (heard[:1], heard[3:]) == (b"\x15", bytes((0, 2, 2, alert)))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_record_that_is_wrong_ends_the_connection(reach: Reach, system: System, version: ssl.TLSVersion) -> None:
    """A record that was changed on its way: the client hears bad_record_mac, and does not wait until it is idle."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=_NAME)
    with reach() as connection:
        connection.settimeout(10)
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


def test_half_a_hello_gets_an_alert(reach: Reach) -> None:
    """A client that stops in the middle is told so when its time is up, which is seconds here."""
    with reach() as connection:
        connection.sendall(built(b"\x13\1")[:20])
        connection.settimeout(20)
        assert connection.recv(100)[:1] == b"\x15"
