"""A limit in time for handshakes: who stays silent is cut, who is done is left alone."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import connection, tls
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.tls import (
    ClientTLSLayer,
    ServerTLSLayer,
    TlsClienthelloHook,
)
from mitmproxy.proxy.server import ConnectionIO
from mitmproxy.test import taddons
from mitmproxy.tls import ClientHello

from addons.edge.listeners.bypass import BypassBegunHook
from addons.tls.handshake_timeout import HandshakeTimeout
from tests.addons.forward.arrivals import arrival
from tests.waiting import until


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
        self.context = arrival(self.tctx)
        self.client, self.server = self.context.client, self.context.server
        self.tasks = {one.id: asyncio.create_task(asyncio.Event().wait()) for one in (self.client, self.server)}
        self.said: dict[str, bytes] = {}
        transports = {
            one: ConnectionIO(handler=self.tasks[one.id], writer=self._writer(one))
            for one in (self.client, self.server)
        }
        proxyserver.connections[self.client.id] = SimpleNamespace(transports=transports)

    def _writer(self, conn: connection.Connection) -> Any:
        def write(data: bytes) -> None:
            self.said[conn.id] = data

        return SimpleNamespace(write=write, is_closing=lambda: False, close=lambda: None)

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
    """A client that sends half a ClientHello is cut after its time, with an alert, and one line names it."""
    watched = _Watched(client_s=0.05)
    with caplog.at_level(logging.WARNING, "hsmitm"):
        watched.client_begins()
        await until(watched.tasks[watched.client.id].cancelled, "the client was not cut")
    assert watched.said == {watched.client.id: b"\x15\3\3\0\2\2\x50"}  # internal_error (80)
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


async def test_a_bypassed_client_is_not_watched() -> None:
    """Nor is a handshake that the policy passes by: it would be cut in the middle of its stream."""
    watched = _Watched()
    watched.client_begins()
    await watched.tctx.master.addons.trigger_event(BypassBegunHook(watched.client))
    assert watched.addon._timers == {}
    await watched.end()


async def test_a_client_without_tls_is_not_watched() -> None:
    """A plain HTTP client may think for as long as it likes."""
    watched = _Watched()
    watched.addon.next_layer(layer.NextLayer(watched.context))
    assert watched.addon._timers == {}
    await watched.end()
