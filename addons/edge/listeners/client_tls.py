"""TLS with a client, begun by a ClientHello that has a bound: in each mode of the forward proxy, at our own sites.

mitmproxy's own layer parses what has come from its start at each read and reads without end. Here the hello is read
once and handed on; what is no hello, or too much of one, gets an alert and a class.
"""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import connection
from mitmproxy.proxy import commands, context, layer, layers
from mitmproxy.proxy.layers.tls import TlsClienthelloHook
from mitmproxy.tls import ClientHello, ClientHelloData
from mitmproxy.utils import human

from addons.edge.listeners.bypass import pass_by
from addons.edge.listeners.hello import ILLEGAL_PARAMETER, HelloError, HelloReader, names_one, normal
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.policy import asked
from addons.records import classes, greeting
from addons.records.connections import destined, facts_of
from addons.records.facts import Decision
from addons.tls.failures import sentence
from addons.tls.goodbye import Goodbye
from addons.tls.lingering import LingeringTls
from addons.tls.refusal import INTERNAL_ERROR, alert


@dataclass
class HelloBegunHook(commands.StartHook):
    """The first bytes of a ClientHello are here, or of what should be one. Not blocking."""

    client: connection.Client
    blocking = False


class ClientTls(LingeringTls, Goodbye, layers.ClientTLSLayer):
    """mitmproxy's, whose ClientHello is read by `HelloReader`.

    `begun` is a connection in which something else went before: its server is connected to already, so its handshake
    comes first, and where it fails there is nobody to whom a page could be shown.
    """

    def __init__(
        self, made: context.Context, bounds: Bounds, hello: ClientHello | None = None, *, begun: bool = False
    ) -> None:
        """`hello` is one that was read already: the bytes that come next hold it."""
        super().__init__(made)
        self._hello = hello
        self._begun = begun
        self._refused = False
        self._reader = HelloReader(bounds.hello_bytes, bounds.hello_records)

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """As ClientTLSLayer, which would read the ClientHello anew at each call."""
        if self.client_hello_parsed:
            return (yield from super().receive_handshake_data(data))
        if data and not self._reader.raw:
            yield HelloBegunHook(self.context.client)
        if self._hello is None:
            try:
                self._hello = self._reader.feed(data)
            except HelloError as error:
                said = alert(error.alert)
                facts_of(self.context.client).fail(error.kind, "client", str(error), classes.alert_in(said))
                yield EdgeRefusedHook(EdgeRefusal(self.context.client, error.kind, str(error)))
                yield commands.SendData(self.conn, said)
                return False, f"Cannot parse ClientHello: {error}"
            if self._hello is None:
                return False, None
            data = bytes(self._reader.raw)
            self._reader.raw.clear()
        return (yield from self._greet(self._hello, data))

    def _greet(self, hello: ClientHello, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """The hello is whole: what follows from it, and then the handshake."""
        self.conn.sni, self.conn.alpn_offers = hello.sni, hello.alpn_protocols
        facts = facts_of(self.context.client)
        greeting.note(facts, hello)
        destined(facts, self.context.server.address)
        decision = yield from asked.at_hello(self.context)
        if decision is not None and decision.acts == "block":
            return (yield from self._block(decision))
        if decision is not None and decision.acts == "bypass":
            return (yield from self._pass_by(hello, data))
        greeted = ClientHelloData(self.context, hello)
        yield TlsClienthelloHook(greeted)
        if greeted.ignore_connection:
            facts.event = "bypassed"
            return (yield from let_through(super().receive_handshake_data(data)))
        self.client_hello_parsed = True
        first = greeted.establish_server_tls_first and not self.context.server.tls_established
        if first or self._begun:
            error = yield from self.start_server_tls()
            if error and self._begun:
                yield EdgeRefusedHook(
                    EdgeRefusal(self.context.client, "server-unproven", f"no TLS with the server: {error}")
                )
                yield commands.SendData(self.conn, alert(INTERNAL_ERROR))
                self._refused = True
                return False, f"no TLS with the server: {error}"
            if error:
                yield commands.Log(f"no TLS with the server ({error}); the client is told in HTTP")
        yield from self.start_tls()
        if not self.conn.connected:
            return False, "connection closed early"
        return (yield from super().receive_handshake_data(normal(data)))

    def _pass_by(self, hello: ClientHello, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """Not opened; a hello that its server may read in another way than we do is refused."""
        if names_one(hello):
            return (yield from pass_by(self, data, probed=not self._begun))
        why = "a ClientHello that names its host in more than one way"
        facts_of(self.context.client).fail("malformed-hello", "client", why, "illegal_parameter")
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "malformed-hello", why))
        yield commands.SendData(self.conn, alert(ILLEGAL_PARAMETER))
        self._refused = True
        return False, why

    def _block(self, decision: Decision) -> layer.CommandGenerator[tuple[bool, str | None]]:
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "blocked-by-policy", decision.reason))
        yield commands.SendData(self.conn, alert(asked.ACCESS_DENIED))
        self._refused = True
        return False, decision.reason

    def on_handshake_error(self, err: str) -> layer.CommandGenerator[None]:
        """As ClientTLSLayer, whose words are about clients that do not trust a CA."""
        facts = facts_of(self.context.client)
        why = self.broken or err
        kind = classes.of_client(why, ech=facts.ech, groups=facts.groups)
        if self.client_hello_parsed and not self._refused:
            doubt = getattr(self.tls, "doubt", "")
            err = sentence(why, self.conn.sni or human.format_address(self.context.server.address), doubt)
            if doubt and err == doubt:
                facts.fail("no-common-cipher", "client", err, self.last_alert)
                yield EdgeRefusedHook(EdgeRefusal(self.context.client, "no-common-signature", err))
        facts.fail(kind, "client", err, classes.alert(why) or self.last_alert)
        yield from self.fail_handshake(err)
        self.event_to_child = self.errored  # type: ignore[method-assign]

    def end_broken(self) -> layer.CommandGenerator[None]:
        """As `Goodbye`, behind the alert."""
        yield from self.linger(self.conn)

    def on_broken(self, why: str) -> layer.CommandGenerator[None]:
        """A record that was wrong, or the client's fatal alert."""
        self.conn.error = why
        facts = facts_of(self.context.client)
        facts.fail(
            classes.of_client(why, ech=facts.ech), "client", f"its TLS connection broke: {why}", classes.alert(why)
        )
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "broken-tls", f"its TLS connection broke: {why}"))


def let_through(
    steps: layer.CommandGenerator[tuple[bool, str | None]],
) -> layer.CommandGenerator[tuple[bool, str | None]]:
    """What mitmproxy's layer does for a connection that a script does not want opened, without asking the script again:
    `steps` begin with the hook that was answered already."""
    answer = None
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as done:
            result: tuple[bool, str | None] = done.value
            return result
        if isinstance(command, TlsClienthelloHook):
            command.data.ignore_connection = True
            answer = None
        else:
            answer = yield command
