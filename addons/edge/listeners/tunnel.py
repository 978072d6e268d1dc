"""A stream that is neither TLS nor HTTP: passed on, watched for TLS that begins later, and kept by nobody.

STARTTLS of SMTP, IMAP and LDAP, AUTH TLS of FTP, PostgreSQL's and MySQL's own requests all end in a ClientHello in the
middle of a stream. It is looked for at any byte, not in protocols: what a client says before it does not matter. From
there on the stream is inspected as any other, with a leaf of its own; where that cannot be it is refused.
"""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers.tcp import TcpEndHook, TCPLayer

from addons.edge.listeners.client_tls import ClientTls
from addons.edge.listeners.hello import HelloWatch
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.engine.onlookers import looked_at
from addons.upstream.layer import ServerTls

_HELD_S = 1.0
"""What could be the beginning of a ClientHello is kept back for so long: a client that sends it byte by byte is
inspected, and a protocol whose message happens to end like this waits no longer."""
_KEPT_BYTES, _KEPT = 1_048_576, 1024
"""Of a flow's messages, and how many, where a script looks at them: mitmproxy keeps all."""


class Tunnel(TCPLayer):
    """mitmproxy's TCPLayer: the same flow and hooks."""

    def __init__(self, made: context.Context, bounds: Bounds) -> None:
        super().__init__(made)
        self._bounds = bounds
        self._watches = {True: HelloWatch(), False: HelloWatch()}
        self._kept = _KEPT_BYTES if looked_at("tcp_message", "tcp_end", "tcp_error") else 0
        self._tls: layer.Layer | None = None
        self._answered = False
        self._timer: commands.RequestWakeup | None = None

    def relay_messages(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As TCPLayer, with both directions watched."""
        if isinstance(event, events.Wakeup) and event.command is self._timer:
            self._timer = None
            if self._tls is None:
                yield from self._pass(self._watches[True].release(), from_client=True)
        elif self._tls is not None:
            yield from self._inspected(event)
        elif isinstance(event, events.DataReceived):
            yield from self._watched(event.data, event.connection is self.context.client)
        else:
            if isinstance(event, events.ConnectionClosed) and event.connection is self.context.client:
                yield from self._pass(self._watches[True].release(), from_client=True)
            yield from super().relay_messages(event)
            yield from self._forget()

    def done(self, _event: events.Event) -> layer.CommandGenerator[None]:
        """Nothing is of interest any more."""
        yield from ()

    def _watched(self, data: bytes, from_client: bool) -> layer.CommandGenerator[None]:
        watch = self._watches[from_client]
        yield from self._pass(watch.feed(data), from_client=from_client)
        if watch.found and from_client:
            yield from self._inspect(watch.held)
        elif watch.found or watch.lost:
            yield from self._refuse("TLS" + ("" if from_client else " begun by the server") + " in a passed stream")
        elif watch.held and not from_client:
            yield from self._pass(watch.release(), from_client=False)
        elif watch.held and not self._timer:
            self._timer = commands.RequestWakeup(_HELD_S)
            yield self._timer

    def _pass(self, data: bytes, *, from_client: bool) -> layer.CommandGenerator[None]:
        if data:
            source = self.context.client if from_client else self.context.server
            yield from super().relay_messages(events.DataReceived(source, data))
            yield from self._forget()

    def _forget(self) -> layer.CommandGenerator[None]:
        """Keep no more of the flow's messages than was asked for: the latest ones."""
        yield from ()
        messages = self.flow.messages if self.flow else []
        if not self._kept:
            messages.clear()
            return
        size = sum(len(one.content) for one in messages)
        while len(messages) > 1 and (size > self._kept or len(messages) > _KEPT):
            size -= len(messages.pop(0).content)

    def _inspect(self, data: bytes) -> layer.CommandGenerator[None]:
        """A client's ClientHello, `data`, stands at the end of what was passed."""
        if not self.context.server.state & connection.ConnectionState.CAN_WRITE:
            yield from self._refuse("TLS in a passed stream whose server is gone")
            return
        if self.flow:
            yield TcpEndHook(self.flow)
            self.flow.live = False
        server_tls = ServerTls(self.context)
        server_tls.child_layer = ClientTls(self.context, self._bounds, begun=True)
        self._tls = server_tls
        yield from server_tls.handle_event(events.Start())
        yield from server_tls.handle_event(events.DataReceived(self.context.client, data))

    def _inspected(self, event: events.Event) -> layer.CommandGenerator[None]:
        """The stream is TLS from here on, but for what its server said before it knew."""
        assert self._tls is not None
        if isinstance(event, events.DataReceived) and event.connection is self.context.server and not self._answered:
            # "220 go ahead", where the client did not wait for it: plain, and still the client's to read.
            begins = next((i for i, one in enumerate(event.data) if one in {21, 22}), len(event.data))
            if begins:
                yield commands.SendData(self.context.client, event.data[:begins])
            self._answered = begins < len(event.data)
            if not self._answered:
                return
            event = events.DataReceived(event.connection, event.data[begins:])
        yield from self._tls.handle_event(event)

    def _refuse(self, why: str) -> layer.CommandGenerator[None]:
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "not-tls", f"{why}: {_place(self.context.server)}"))
        self._handle_event = self.done
        for side in (self.context.server, self.context.client):
            if side.state is not connection.ConnectionState.CLOSED:
                yield commands.CloseConnection(side)
        if self.flow:
            yield TcpEndHook(self.flow)
            self.flow.live = False


def _place(server: connection.Server) -> str:
    return f"{server.address[0]}:{server.address[1]}" if server.address else "unknown"
