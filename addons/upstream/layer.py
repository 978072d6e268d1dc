"""mitmproxy's TLS layer towards a server, whose end is heard of: with an alert, with a reason, and at once.

In TLS 1.3 a server that misses a client certificate says so after our handshake is complete (RFC 8446 section 4.4.2.4),
so the request is on its way already, and whoever waits for its answer must be told.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.tls import TlsEstablishedServerHook
from mitmproxy.tls import TlsData
from mitmproxy.utils import human
from OpenSSL import SSL

from addons.edge.answers import Sentence
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.records import classes, legs
from addons.records.connections import facts_of
from addons.records.facts import ErrorClass
from addons.revocation.named import STRANGE
from addons.tls.goodbye import Goodbye
from addons.upstream.connection import ServerConnection
from addons.upstream.judging import cut, note_wish, profile_for, wishes

_ABOUT_CERTIFICATES = (
    "certificate required",
    "bad certificate",
    "unsupported certificate",
    "certificate revoked",
    "certificate expired",
    "certificate unknown",
    "unknown ca",
    "access denied",
    "handshake failure",
)
"""Alerts, in OpenSSL's words, with which servers answer a client certificate or the want of one (RFC 8446 section 6.2).
TLS 1.2 has no alert of its own for it."""

_NOTHING_IN_COMMON = ("alert handshake failure", "alert insufficient security")
"""Alerts of servers that have no cipher suite, or group, of ours (RFC 8446 section 6.2, RFC 5246 section 7.2.2)."""


_NO_VERSION = (
    "alert protocol version",
    "unsupported protocol",
    "wrong ssl version",
    "no protocols available",
    "cannot agree on a TLS version",
)
"""What OpenSSL and mitmproxy say where there is none in common, whoever notices it."""


@dataclass
class JudgeServerHook(commands.StartHook):
    """A server's handshake is complete, and nothing was asked of it yet. Blocking: what is known of its certificate may
    have to be waited for. Afterwards its connection has a judgement."""

    data: TlsData


class ServerTls(Goodbye, layers.ServerTLSLayer):
    """Stands in for ServerTLSLayer."""

    _asked = False
    _answered = False
    _refused: ErrorClass | None = None

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """As `Goodbye`; between the handshake and its use the server is judged. One that is refused hears goodbye
        before it is asked for anything, and for scripts its handshake is one that has failed."""
        steps = super().receive_handshake_data(data)
        answer = None
        while True:
            try:
                command = steps.send(answer)
            except StopIteration as done:
                result: tuple[bool, str | None] = done.value
                return result
            except STRANGE as error:  # mitmproxy reads all that was sent, also what OpenSSL has no use for
                yield from self._part()
                self._refused = "server-untrusted"
                return False, Sentence("server-untrusted", f"{self._name} shows what is no certificate: {error}")
            if isinstance(command, TlsEstablishedServerHook) and (refused := (yield from self._judged(command.data))):
                steps.close()
                yield from self._part()
                return False, refused
            answer = yield command

    def _judged(self, data: TlsData) -> layer.CommandGenerator[str]:
        """Why the server is refused; empty where it is not."""
        if not isinstance(self.tls, ServerConnection) or self.tls.demand is None:
            return ""
        yield JudgeServerHook(data)
        judgement = self.tls.judgement
        if judgement is None:  # whoever should have judged it has failed, and said so
            return Sentence("internal", f"{self._name} could not be judged")
        if judgement.outcome != "block":
            return ""
        return Sentence(judgement.kind or "internal", judgement.sentence)

    def _part(self) -> layer.CommandGenerator[None]:
        self._said = True
        with suppress(SSL.Error):
            self.tls.shutdown()
        yield from self.tls_interact()
        self.conn.timestamp_tls_setup = None

    def on_handshake_error(self, err: str) -> layer.CommandGenerator[None]:
        """As ServerTLSLayer, with words for a server that wants a client certificate: TLS 1.2 says it here."""
        made, facts = self.tls, facts_of(self.context.client)
        why = self.broken or err
        if self._refused is not None:
            facts.fail(self._refused, "server", err)
        if isinstance(made, ServerConnection) and made.judgement is not None:
            if made.judgement.kind == "server-wants-client-certificate":
                yield EdgeRefusedHook(EdgeRefusal(self.context.client, "server-wants-client-certificate", err))
        elif self._refused is not None:
            pass
        elif isinstance(made, ServerConnection) and made.cut:
            err = cut(made, facts, self.last_alert)
        elif self._about_certificates(err):
            err = self._wish()
            note_wish(self.context, self.conn, profile_for(self.context, self.conn))
            yield EdgeRefusedHook(EdgeRefusal(self.context.client, "server-wants-client-certificate", err))
        elif any(one in err or one in why for one in _NO_VERSION):
            err = (
                f"{self._name} and this proxy have no TLS version in common ({why}): a profile's versions say which "
                "are spoken with servers"
            )
        elif any(one in err for one in _NOTHING_IN_COMMON):
            err = (
                f"{self._name} refuses the handshake ({why}): it may have no cipher suite in common "
                "with this proxy, see [proxy] suites and a profile's suites"
            )
        elif err.startswith("OpenSSL "):
            err = why
        self._note(why, err)
        yield from super().on_handshake_error(err)

    def on_broken(self, why: str) -> layer.CommandGenerator[None]:
        """The reason goes into the page of who waits for an answer (`conn.error`), and into the log."""
        if self._about_certificates(why):
            yield from self._tell_wish()
            return
        self.conn.error = f"the TLS connection to {self._name} broke: {why}"
        self._note(why, self.conn.error)
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "broken-tls", self.conn.error))

    def receive_close(self) -> layer.CommandGenerator[None]:
        """As `Goodbye`. Some servers that miss a client certificate only close, or their alert is lost behind what the
        network says of a closed socket: who asked for one, got a request and never said a word is such a server."""
        if not self._over and self._certificate_wanted and self._asked and not self._answered:
            yield from self._tell_wish()
        yield from super().receive_close()

    def send_data(self, data: bytes) -> layer.CommandGenerator[None]:
        """As `Goodbye`; the server is asked for something."""
        self._asked = True
        return super().send_data(data)

    def send_close(self, command: commands.CloseConnection) -> layer.CommandGenerator[None]:
        """As `Goodbye`, but for HTTP: its requests say themselves where they end, and a goodbye is a packet more for
        each connection."""
        behind = self.context.layers[self.context.layers.index(self) + 1 :]
        if any(isinstance(one, http.HttpLayer | http.HttpClient) for one in behind):
            yield from super(Goodbye, self).send_close(command)
        else:
            yield from super().send_close(command)

    def event_to_child(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As ServerTLSLayer, with a look at whether the server has said a word."""
        if isinstance(event, events.DataReceived) and event.connection is self.conn:
            self._answered = True
        return super().event_to_child(event)

    def _note(self, why: str, err: str) -> None:
        """`why` in the library's words, `err` for people. The chain that a server has shown is told of first."""
        facts = facts_of(self.context.client)
        found = facts.server_leg.verification or legs.verification(self.tls)
        if found is not None and found.code:
            facts.server_leg.verification = found
            if "certificate verify failed" in why.lower():
                facts.fail(classes.of_verification(found.code), "server", err, self.last_alert)
        kind = classes.of_server(why, certificate_wanted=self._certificate_wanted)
        facts.fail(kind, "server", err, classes.alert(why) or self.last_alert)

    def _tell_wish(self) -> layer.CommandGenerator[None]:
        self.conn.error = self._wish()
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "server-wants-client-certificate", self.conn.error))

    @property
    def _certificate_wanted(self) -> bool:
        return bool(getattr(self.tls, "certificate_wanted", False))

    def _about_certificates(self, why: str) -> bool:
        return self._certificate_wanted and "alert" in why and any(one in why for one in _ABOUT_CERTIFICATES)

    def _wish(self) -> Sentence:
        if self.tls.get_certificate() is not None:
            why = f"{self._name} does not accept the client certificate that this proxy has for it"
        else:
            why = wishes(self._name)
        return Sentence("server-wants-client-certificate", why)

    @property
    def _name(self) -> str:
        return self.conn.sni or human.format_address(self.context.server.address)
