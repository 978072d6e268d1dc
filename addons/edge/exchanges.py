"""All requests of one client's connection: where mitmproxy has its HttpLayer, which keeps what is over.

It keeps every connection to a server that it ever had for a client, with its layers and its TLS: with HTTP/2 in front
of a server of HTTP/1 that is one for each request.
"""

from __future__ import annotations

from mitmproxy.connection import Connection, ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    HttpLayer,
    HTTPMode,
    HttpStream,
    RegisterHttpConnection,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpCommand, ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders

_BEYOND = 16
"""Connections more than requests, before any is looked at."""


class Exchanges(HttpLayer):
    """Stands in for HttpLayer."""

    def __init__(self, context: Context, mode: HTTPMode) -> None:
        super().__init__(context, mode)
        self._look_at = _BEYOND

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        # No generator of its own: each event of a connection would go through one more.
        if len(self.connections) > self._look_at:
            self._forget()
        if isinstance(event, events.ConnectionEvent) and self._forgotten(event.connection):
            return _nothing()
        return super()._handle_event(event)  # type: ignore[no-any-return]  # mitmproxy's, unannotated

    def event_to_child(self, child: layer.Layer | HttpStream, event: events.Event) -> layer.CommandGenerator[None]:
        """As HttpLayer, which asks each command eight times what it is; most are what a peer is sent."""
        for command in child.handle_event(event):
            if type(command) is commands.SendData:
                yield command
                continue
            if command.blocking or isinstance(command, commands.RequestWakeup):
                self.command_sources[command] = child
            if isinstance(command, HttpCommand):
                yield from self._followed(command)
                continue
            if isinstance(command, commands.OpenConnection):
                self.connections[command.connection] = child
            yield command

    def _followed(self, command: HttpCommand) -> layer.CommandGenerator[None]:
        if isinstance(command, ReceiveHttp):
            if isinstance(command.event, RequestHeaders):
                yield from self.make_stream(command.event.stream_id)
            stream = self.streams.get(command.event.stream_id)
            if stream is not None:  # else it is over, and this came behind it
                yield from self.event_to_child(stream, command.event)
        elif isinstance(command, SendHttp):
            yield from self.event_to_child(self.connections[command.connection], command.event)
        elif isinstance(command, DropStream):
            self.streams.pop(command.stream_id, None)
        elif isinstance(command, GetHttpConnection):
            yield from self.get_connection(command)
        elif isinstance(command, RegisterHttpConnection):
            yield from self.register_connection(command)
        else:
            raise AssertionError(f"Not a command: {command}")  # noqa: TRY004  # as mitmproxy's layers do

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


def _nothing() -> layer.CommandGenerator[None]:
    """An event of a connection that is over brings nothing about."""
    yield from ()
