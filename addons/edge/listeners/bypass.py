"""A connection whose TLS is not opened: the client's ClientHello goes on as it came, and from there bytes are copied.

`Bypass` stands where TLS with the client would. It connects to the server, sends what has come, and asks the handler
to take both sockets out of the layers' hands (`HandOver`, `relay`): then a byte that passes costs nothing here. Where
the sockets do not carry the client's bytes as they are (a client that reaches the proxy by TLS or HTTP/2, a parent
proxy that is reached by TLS), and until the handler has them, the layer passes what comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import connection
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, context, events, layer, layers
from mitmproxy.proxy.layers.http._upstream_proxy import HttpUpstreamProxy

from addons.addresses import same_address
from addons.policy import asked
from addons.records.connections import facts_of
from addons.tls.refusal import alert


@dataclass
class BypassBegunHook(commands.StartHook):
    """A client's TLS is not opened, by the policy's decision. Not blocking."""

    client: connection.Client
    blocking = False


class Probing:
    """Whether a client's ClientHello may go to `server`: `refused` says why not."""

    def __init__(self, client: connection.Client, server: connection.Server) -> None:
        self.client, self.server, self.refused = client, server, ""


@dataclass
class ProbeHook(commands.StartHook):
    """A server is about to get a ClientHello that nobody opens: whether it may (`addons.edge.proving`). Blocking."""

    probing: Probing
    name = "policy_probe"


class HandOver(commands.RequestWakeup):
    """Take these two sockets and pass on between them what comes; wake me up when that is over."""

    def __init__(self, client: connection.Client, server: connection.Server) -> None:
        super().__init__(0)
        self.client = client
        self.server = server


class Bypass(layer.Layer):
    """All that is left of TLS with a client that is not inspected."""

    def __init__(self, made: context.Context, begun: bytes, *, probed: bool = True) -> None:
        """`begun` is what has come from the client, as it came: its ClientHello. A server can be `probed` where TLS is
        what it speaks from the first byte on."""
        super().__init__(made)
        self._begun = begun
        self._probed = probed
        self._handing: HandOver | None = None

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield from self._begin()
        elif isinstance(event, events.DataReceived):
            yield commands.SendData(self._other(event.connection), event.data)
        elif isinstance(event, events.ConnectionClosed):
            yield from self._ended(event.connection)
        elif isinstance(event, events.Wakeup) and event.command is self._handing:
            self._handing = None
            yield from self._close()

    def _begin(self) -> layer.CommandGenerator[None]:
        client, server = self.context.client, self.context.server
        facts = facts_of(client)
        facts.event = "bypassed"
        yield BypassBegunHook(client)
        if server.timestamp_start is None:
            if error := (yield commands.OpenConnection(server)):
                facts.fail("connect-failed", "server", error)
                yield from self._close()
                return
        elif not self._as_judged():
            facts.fail("internal", "server", "the server that is connected is none of those that were judged")
            yield commands.Log("a bypassed connection is cut: its server is none of the addresses that were judged")
            yield from self._close()
            return
        if self._probed and not (yield from self._may_go()):
            return
        yield commands.SendData(server, self._begun)
        self._begun = b""
        socket = _carrier(self.context)
        if socket is not None and server.state & ConnectionState.CAN_WRITE:
            self._handing = HandOver(client, socket)
            yield self._handing

    def _may_go(self) -> layer.CommandGenerator[bool]:
        """Ask the probe; a client whose server is refused hears so."""
        probing = Probing(self.context.client, self.context.server)
        yield ProbeHook(probing)
        if probing.refused:
            yield commands.SendData(self.context.client, alert(asked.ACCESS_DENIED))
            yield from self._close()
        return not probing.refused

    def _as_judged(self) -> bool:
        """Whether the server that was connected to before is at an address that the decision was made on."""
        judged, peer = facts_of(self.context.client).addresses, self.context.server.peername
        return judged is None or peer is None or any(same_address(one, peer[0]) for one in judged)

    def _other(self, one: connection.Connection) -> connection.Connection:
        return self.context.server if one is self.context.client else self.context.client

    def _ended(self, one: connection.Connection) -> layer.CommandGenerator[None]:
        """One side sends no more. While the sockets are about to be handed over, that is told there."""
        other = self._other(one)
        if self._handing is None or one.state is ConnectionState.CLOSED:
            yield from self._end_if_over()
            if other.state is not ConnectionState.CLOSED:
                yield commands.CloseTcpConnection(other, half_close=one.state is not ConnectionState.CLOSED)

    def _end_if_over(self) -> layer.CommandGenerator[None]:
        sides = (self.context.client, self.context.server)
        if not any(one.state & ConnectionState.CAN_READ for one in sides):
            yield from self._close()

    def _close(self) -> layer.CommandGenerator[None]:
        for side in (self.context.server, self.context.client):
            if side.state is not ConnectionState.CLOSED:
                yield commands.CloseConnection(side)


def pass_by(
    tls: layers.ClientTLSLayer, begun: bytes, *, probed: bool = True
) -> layer.CommandGenerator[tuple[bool, str | None]]:
    """Have a bypass stand in for `tls`, whose ClientHello has come, and the layer of the server's TLS around it, as
    mitmproxy does it for connections that scripts ignore: they look at events of connections that are none. The answer
    is what `receive_handshake_data` is to return."""
    yield from ()
    made = tls.context
    tls.conn = tls.tunnel_connection = connection.Client(peername=("passed-by", 0), sockname=("passed-by", 0))
    around = made.layers[made.layers.index(tls) - 1]
    if isinstance(around, layers.ServerTLSLayer):
        around.conn = around.tunnel_connection = connection.Server(address=None)
    tls.child_layer = Bypass(made, begun, probed=probed)
    return True, None


def _carrier(made: context.Context) -> connection.Server | None:
    """The connection on whose socket the server's bytes are as they are, where the client's are on its own socket as
    well; None where a layer stands between that changes them."""
    carrier = made.server
    for one in made.layers:
        if isinstance(one, layers.ClientTLSLayer) and one.tunnel_connection is made.client:
            return None  # with HTTP/2 in it, perhaps, which has other bytes as well
        if isinstance(one, layers.ServerTLSLayer) and one.tunnel_connection.state is not ConnectionState.CLOSED:
            return None
        if isinstance(one, HttpUpstreamProxy):
            carrier = one.tunnel_connection
    return carrier
