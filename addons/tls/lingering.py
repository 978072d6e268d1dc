"""Last words that arrive: a connection that is ended because of what its peer has sent is ended in two steps.

Closed at once, what the peer has sent meanwhile would have its own system throw away what we have said: a TCP
connection that is closed with bytes unread, or that gets more of them, is reset (RFC 9112 section 9.6 has it for HTTP;
an alert or a GOAWAY is lost the same way). So our direction is ended behind them, and what still comes is dropped until
the peer has ended its own, or for a while.
"""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.tls import TLSLayer

_S = 1.0
_BYTES = 1_048_576
"""For how long, and how much, is dropped before the connection is closed."""


class LastWords(commands.CloseConnection):
    """Close a connection whose peer may still be sending, so that it reads what it was sent last."""


class Lingering(layer.Layer):
    """A layer that may end its client's connection so."""

    _lingers: connection.Connection | None = None
    _left = 0
    _until: commands.RequestWakeup | None = None

    def linger(self, peer: connection.Connection) -> layer.CommandGenerator[None]:
        """Close it, in two steps where there is somebody to listen. Whose layer it is gives `drop` what comes then."""
        if self._lingers is not None:
            return
        if peer.state is not ConnectionState.OPEN:
            yield commands.CloseConnection(peer)
            return
        self._lingers, self._left = peer, _BYTES
        yield commands.CloseTcpConnection(peer, half_close=True)
        self._until = commands.RequestWakeup(_S)
        yield self._until

    def drops(self, event: events.Event) -> bool:
        """Whether `event` is about a connection that lingers."""
        if self._lingers is None:
            return False
        if isinstance(event, events.Wakeup):
            return event.command is self._until
        return isinstance(event, events.ConnectionEvent) and event.connection is self._lingers

    def drop(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Nothing of what comes is of interest; in the end the connection is closed."""
        assert self._lingers is not None
        self._left -= len(event.data) if isinstance(event, events.DataReceived) else self._left
        if self._left <= 0:
            yield commands.CloseConnection(self._lingers)


class LingeringTls(Lingering, TLSLayer):
    """Stands before a layer that speaks TLS with clients. Servers need no last words of ours."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        # No generator of its own: each event of a connection would go through one more.
        return self.drop(event) if self._lingers is not None and self.drops(event) else super()._handle_event(event)

    def fail_handshake(self, err: str) -> layer.CommandGenerator[None]:
        """As TLSLayer's `on_handshake_error`: what has failed ends with an alert."""
        for command in TLSLayer.on_handshake_error(self, err):
            closes = isinstance(command, commands.CloseConnection)
            yield from self.linger(self.conn) if closes else (command,)

    def send_data(self, data: bytes) -> layer.CommandGenerator[None]:
        """As TLSLayer, while there is something to say."""
        return super().send_data(data) if self._lingers is None else _nothing()

    def send_close(self, command: commands.CloseConnection) -> layer.CommandGenerator[None]:
        """As TLSLayer, once."""
        if self._lingers is not None:
            return
        for made in super().send_close(command):
            yield from self.linger(self.conn) if isinstance(made, LastWords) else (made,)


def _nothing() -> layer.CommandGenerator[None]:
    """There is nothing left to say."""
    yield from ()
