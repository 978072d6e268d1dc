"""A connection that is to end while its peer still sends: closed at once, what is unread would have the peer's own
system throw away the answer that it got (RFC 9112 section 9.6). So what comes is dropped, for a while."""

from __future__ import annotations

from mitmproxy.proxy import commands, events, layer

from addons.edge.http1.connection import Http1Connection, Phase

_S = 1.0
_BYTES = 1_048_576
"""For how long, and how much of what a message goes on with, is dropped before the connection is closed."""


class Lingering(Http1Connection):
    """What a connection with clients has of it."""

    lingering = 0
    """Bytes that are still dropped; 0: the connection is as any other."""

    def _drop(self, event: events.Event) -> layer.CommandGenerator[None]:
        if not self.lingering:
            return
        if isinstance(event, events.DataReceived):
            self.lingering -= min(len(event.data), self.lingering)
            if not self.lingering:
                yield commands.CloseConnection(self.conn)
        elif isinstance(event, events.Wakeup | events.ConnectionClosed):
            self.lingering = 0
            yield commands.CloseConnection(self.conn)

    def linger(self) -> layer.CommandGenerator[None]:
        """End the connection when the peer has had time to read what it was sent."""
        self.phase, self._body = Phase.OVER, None
        self.lingering = _BYTES
        self._handle_event = self._drop  # type: ignore[method-assign]  # as mitmproxy's layers change their state
        yield commands.RequestWakeup(_S)
