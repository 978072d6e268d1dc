"""A limit in time for TLS handshakes, towards clients and servers. mitmproxy has none but its idle timeout of minutes.

A client that sends half a ClientHello, or a server that accepts and says nothing, would hold its connection until then.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mitmproxy import connection, ctx, tls
from mitmproxy.proxy import layer
from mitmproxy.proxy.server import ConnectionHandler, ConnectionIO
from mitmproxy.utils import human

from addons.modes import Modes
from addons.records.connections import facts_of
from addons.tls.refusal import INTERNAL_ERROR, alert

logger = logging.getLogger("hsmitm.handshake")


class HandshakeTimeout:
    """The addon. It stands behind mitmproxy's NextLayer, whose decision that a client speaks TLS starts the clock."""

    def __init__(self, client_s: float, server_s: float) -> None:
        """A client's time contains its server's and a mint: what it waits for must fit into it."""
        self._client_s = client_s
        self._server_s = server_s
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def next_layer(self, chosen: layer.NextLayer) -> None:
        """A client's handshake begins with the first bytes of its ClientHello, not with the connection."""
        client = chosen.context.client
        if client.tls and client.timestamp_tls_setup is None:
            self._start(client, client, self._client_s)

    def hello_begun(self, client: connection.Client) -> None:
        """The same, where it begins in the middle of a stream. At our own sites there is a clock for it already."""
        if not isinstance(client.proxy_mode, Modes):
            self._start(client, client, self._client_s)

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """A script lets this client's TLS through unopened: mitmproxy sees no handshake that could end."""
        if data.ignore_connection:
            self._stop(data.context.client)

    def bypass_begun(self, client: connection.Client) -> None:
        """The policy does: its handshake is its server's to wait for."""
        self._stop(client)

    def tls_start_server(self, data: tls.TlsData) -> None:
        """A server's handshake begins with ours."""
        self._start(data.conn, data.context.client, self._server_s)

    def _start(self, of: connection.Connection, client: connection.Client, limit_s: float) -> None:
        if of.id not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[of.id] = loop.call_later(limit_s, self._give_up, of, client, limit_s)

    def _give_up(self, of: connection.Connection, client: connection.Client, limit_s: float) -> None:
        self._timers.pop(of.id, None)
        transport = _transport(of, client)
        if transport is None or transport.handler is None:
            return
        side, address = ("client", client.peername) if of is client else ("server", of.peername)
        where = human.format_address(address) if address else "unknown"
        logger.warning("%s %s did not complete its TLS handshake in %g s", side, where, limit_s)
        text = f"{where} did not complete its TLS handshake in {limit_s:g} s"
        facts_of(client).fail("too-slow", "client" if of is client else "server", text)
        if of is client and transport.writer is not None and not transport.writer.is_closing():
            # OpenSSL makes no alert for want of time; one that has keys by now takes a plain record for a failure, too.
            transport.writer.write(alert(INTERNAL_ERROR))
        transport.handler.cancel("TLS handshake timed out")

    def _stop(self, of: connection.Connection) -> None:
        if timer := self._timers.pop(of.id, None):
            timer.cancel()

    def tls_established_client(self, data: tls.TlsData) -> None:
        """The client's handshake was completed in time."""
        self._stop(data.conn)

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """The client's handshake is over: mitmproxy closes its connection."""
        self._stop(data.conn)

    def client_disconnected(self, client: connection.Client) -> None:
        """The client is gone. mitmproxy 12.2 forgets to close the socket where a handshake fails in the moment in which
        the client's own end arrives (its handler is cancelled outside of the block that closes): the peer would wait
        for ever."""
        self._stop(client)
        transport = _transport(client, client)
        if transport is not None and transport.writer is not None and not transport.writer.is_closing():
            transport.writer.close()

    def tls_established_server(self, data: tls.TlsData) -> None:
        """The server's handshake was completed in time."""
        self._stop(data.conn)

    def tls_failed_server(self, data: tls.TlsData) -> None:
        """The server's handshake is over: mitmproxy closes its connection."""
        self._stop(data.conn)


def _transport(of: connection.Connection, client: connection.Client) -> ConnectionIO | None:
    """mitmproxy's handle on the socket of a client's or one of its servers' connections, while it has one."""
    handlers: dict[Any, ConnectionHandler] = ctx.master.addons.get("proxyserver").connections
    handler = handlers.get(client.id)
    return handler.transports.get(of) if handler else None
