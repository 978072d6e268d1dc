"""TLS to servers: mitmproxy's addon must work as ever, and nothing of its certificate authority may be left.

The limit in time for handshakes (`addons/handshake_timeout.py`) is tested at the end: it watches the same hooks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import connection, tls
from mitmproxy.addons import tlsconfig
from mitmproxy.exceptions import OptionsError
from mitmproxy.hooks import RunningHook
from mitmproxy.net import tls as net_tls
from mitmproxy.proxy import context, layer
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.layers.quic import QuicStartClientHook, QuicTlsData
from mitmproxy.proxy.layers.tls import (
    ClientTLSLayer,
    ServerTLSLayer,
    TlsClienthelloHook,
    TlsStartClientHook,
    TlsStartServerHook,
)
from mitmproxy.proxy.server import ConnectionIO
from mitmproxy.test import taddons, tflow
from mitmproxy.tls import ClientHello
from OpenSSL import SSL

from addons.handshake_timeout import HandshakeTimeout
from addons.upstream_tls import UpstreamTls
from tests.waiting import until


@pytest.fixture
async def tctx(tmp_path: Path) -> taddons.context:
    """mitmproxy's options and hooks, with our addon and an empty directory where mitmproxy keeps its files."""
    made = taddons.context()
    made.options.confdir = str(tmp_path / "confdir")
    made.master.addons.add(UpstreamTls())
    return made


def _arrived(tctx: taddons.context) -> context.Context:
    client = connection.Client(
        peername=("192.0.2.9", 1234),
        sockname=("192.0.2.1", 8080),
        timestamp_start=time.time(),
        state=connection.ConnectionState.OPEN,
    )
    arrived = context.Context(client, tctx.options)
    arrived.server.address = ("www.example.com", 443)
    arrived.server.peername = ("192.0.2.80", 443)
    return arrived


# nothing of a software CA


def _files(tctx: taddons.context) -> list[Path]:
    return list(Path(tctx.options.confdir).parent.rglob("*"))


async def test_no_file_is_made(tctx: taddons.context) -> None:
    """From the start to a client's handshake no CA key is written anywhere."""
    arrived = _arrived(tctx)
    tctx.options.update(key_size=4096, tls_version_client_min="TLS1_2")
    await tctx.master.addons.trigger_event(RunningHook())
    await tctx.master.addons.trigger_event(TlsStartClientHook(tls.TlsData(arrived.client, arrived)))
    assert _files(tctx) == []


async def test_mitmproxys_own_addon_would_have_made_files(tmp_path: Path) -> None:
    """The test above would notice: with mitmproxy's own addon a CA key is there after the start."""
    tctx = taddons.context()
    tctx.options.confdir = str(tmp_path / "confdir")
    tctx.master.addons.add(tlsconfig.TlsConfig())
    await tctx.master.addons.trigger_event(RunningHook())
    assert "mitmproxy-ca.pem" in [path.name for path in _files(tctx)]


@pytest.mark.parametrize(("option", "value"), [("certs", ["*=/some/certificate.pem"]), ("cert_passphrase", "secret")])
async def test_options_of_a_software_ca_are_refused(tctx: taddons.context, option: str, value: object) -> None:
    """An operator who sets certs or cert_passphrase is told that leaves are signed on the HSM."""
    with pytest.raises(OptionsError, match=f"'{option}' is not available: leaves are signed on the HSM") as caught:
        tctx.options.update(**{option: value})
    assert "secret" not in str(caught.value)
    assert _files(tctx) == []


async def test_a_client_that_nobody_provided_for_gets_no_certificate(tctx: taddons.context) -> None:
    """Where forward set nothing, no certificate of a software key takes its place: the connection fails."""
    arrived = _arrived(tctx)
    data, quic = tls.TlsData(arrived.client, arrived), QuicTlsData(arrived.client, arrived)
    await tctx.master.addons.trigger_event(TlsStartClientHook(data))
    await tctx.master.addons.trigger_event(QuicStartClientHook(quic))
    assert data.ssl_conn is None
    assert quic.settings is None


async def test_no_revocation_list_is_served(tctx: taddons.context) -> None:
    """A request whose path looks like mitmproxy's CRL goes to its server like any other."""
    flow = tflow.tflow()
    flow.request.path = "/mitmproxy-0.crl"
    await tctx.master.addons.trigger_event(HttpRequestHook(flow))
    assert flow.response is None
    assert not callable(UpstreamTls.request)


async def test_it_has_the_place_of_mitmproxys_addon(tctx: taddons.context) -> None:
    """Scripts that look for mitmproxy's addon find ours, and there can be only one of the two."""
    assert isinstance(tctx.master.addons.get("tlsconfig"), UpstreamTls)


# what mitmproxy's addon does still holds


async def test_options_of_tls_are_checked_as_ever(tctx: taddons.context) -> None:
    """A curve that does not exist is refused by name, as mitmproxy does."""
    with pytest.raises(OptionsError, match="Invalid ECDH curve: 'secp1'"):
        tctx.options.update(tls_ecdh_curve_server="secp1")
    tctx.options.update(tls_ecdh_curve_server="secp384r1")
    assert net_tls.get_curve(tctx.options.tls_ecdh_curve_server) is not None


@pytest.mark.parametrize("insecure", [False, True])
async def test_servers_are_verified_by_name(tctx: taddons.context, insecure: bool) -> None:
    """A server's handshake carries its name, what the client speaks, and verification unless that was turned off."""
    tctx.options.ssl_insecure = insecure
    arrived = _arrived(tctx)
    arrived.client.alpn_offers = [b"h2", b"http/1.1"]
    data = tls.TlsData(arrived.server, arrived)
    await tctx.master.addons.trigger_event(TlsStartServerHook(data))
    assert data.ssl_conn is not None
    assert arrived.server.sni == "www.example.com"
    assert arrived.server.alpn_offers == (b"h2", b"http/1.1")
    wanted = SSL.VERIFY_NONE if insecure else SSL.VERIFY_PEER
    assert data.ssl_conn.get_context().get_verify_mode() == wanted


# the limit in time


class _Proxyserver:
    """Stands where mitmproxy's list of connections is."""

    name = "proxyserver"

    def __init__(self) -> None:
        self.connections: dict[str, Any] = {}


class _Watched:
    """One client's connection, whose tasks the addon may cut."""

    def __init__(self, client_s: float = 60, server_s: float = 60) -> None:
        self.addon = HandshakeTimeout(client_s, server_s)
        proxyserver = _Proxyserver()
        self.tctx = taddons.context(proxyserver, self.addon)
        self.context = _arrived(self.tctx)
        self.client, self.server = self.context.client, self.context.server
        self.tasks = {one.id: asyncio.create_task(asyncio.Event().wait()) for one in (self.client, self.server)}
        transports = {one: ConnectionIO(handler=self.tasks[one.id]) for one in (self.client, self.server)}
        proxyserver.connections[self.client.id] = SimpleNamespace(transports=transports)

    def client_begins(self) -> None:
        """mitmproxy has decided that the client speaks TLS."""
        ServerTLSLayer(self.context)
        ClientTLSLayer(self.context)
        self.addon.next_layer(layer.NextLayer(self.context))

    def data(self, conn: connection.Connection) -> tls.TlsData:
        return tls.TlsData(conn, self.context)

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_a_server_that_stays_silent_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    """A server that accepts and says nothing is cut after its time, the client is not, and one line names it."""
    watched = _Watched(server_s=0.05)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        watched.addon.tls_start_server(watched.data(watched.server))
        await until(watched.tasks[watched.server.id].cancelled, "the server was not cut")
    assert not watched.tasks[watched.client.id].done()
    assert caplog.messages == ["server 192.0.2.80:443 did not complete its TLS handshake in 0.05 s"]
    await watched.end()


async def test_a_client_that_stays_silent_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    """A client that sends half a ClientHello is cut after its time, and one line names it."""
    watched = _Watched(client_s=0.05)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        watched.client_begins()
        await until(watched.tasks[watched.client.id].cancelled, "the client was not cut")
    assert caplog.messages == ["client 192.0.2.9:1234 did not complete its TLS handshake in 0.05 s"]
    await watched.end()


@pytest.mark.parametrize("ending", ["tls_established_server", "tls_failed_server"])
async def test_a_servers_handshake_that_ended_is_not_watched(ending: str) -> None:
    """A connection lives on after its handshake, however long: established or failed, the clock is stopped."""
    watched = _Watched()
    watched.addon.tls_start_server(watched.data(watched.server))
    (timer,) = watched.addon._timers.values()
    getattr(watched.addon, ending)(watched.data(watched.server))
    assert timer.cancelled()
    assert watched.addon._timers == {}
    await watched.end()


@pytest.mark.parametrize("ending", ["tls_established_client", "client_disconnected"])
async def test_a_clients_handshake_that_ended_is_not_watched(ending: str) -> None:
    """A client that is through, or gone, has no clock any more."""
    watched = _Watched()
    watched.client_begins()
    (timer,) = watched.addon._timers.values()
    given = watched.client if ending == "client_disconnected" else watched.data(watched.client)
    getattr(watched.addon, ending)(given)
    assert timer.cancelled()
    assert watched.addon._timers == {}
    await watched.end()


async def test_a_client_that_a_script_lets_through_is_not_watched() -> None:
    """A script that sets ignore_connection passes the TLS through unopened: that handshake is not ours to end."""
    watched = _Watched()
    watched.client_begins()
    hello = ClientHello(b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0")
    passed = tls.ClientHelloData(watched.context, hello, ignore_connection=True)
    await watched.tctx.master.addons.trigger_event(TlsClienthelloHook(passed))
    assert watched.addon._timers == {}
    await watched.end()


async def test_a_client_without_tls_is_not_watched() -> None:
    """A plain HTTP client may think for as long as it likes."""
    watched = _Watched()
    watched.addon.next_layer(layer.NextLayer(watched.context))
    assert watched.addon._timers == {}
    await watched.end()
