"""All requests of one client's connection: where mitmproxy has its HttpLayer, which keeps what is over.

It keeps every connection to a server that it ever had for a client, with its layers and its TLS: with HTTP/2 in front
of a server of HTTP/1 that is one for each request.
"""

from __future__ import annotations

from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

_BEYOND = 16
"""Connections more than requests, before any is looked at."""


class Exchanges(HttpLayer):
    """Stands in for HttpLayer."""

    def __init__(self, context: Context, mode: HTTPMode) -> None:
        super().__init__(context, mode)
        self._look_at = _BEYOND

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.ConnectionEvent) and self._forgotten(event.connection):
            return
        yield from super()._handle_event(event)
        if len(self.connections) > self._look_at:
            self._forget()

    def _forgotten(self, connection: Connection) -> bool:
        return connection not in self.connections and connection is not self.context.server

    def _forget(self) -> None:
        """Drop the connections that are over and that no request goes by."""
        needed = {stream.context.server for stream in self.streams.values()} | {self.context.server}
        for one in list(self.connections):
            # One that is still to be opened is closed as well; a layer within may have asked for it.
            ended = one.state is ConnectionState.CLOSED and (one.timestamp_end is not None or one.error is not None)
            if ended and one is not self.context.client and one not in needed:
                del self.connections[one]
        self._look_at = _BEYOND + 2 * len(self.connections)
