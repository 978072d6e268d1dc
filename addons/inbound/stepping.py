"""A client's handshake whose steps are done elsewhere: a layer may not block, a hook may."""

from __future__ import annotations

from typing import Protocol, cast

from mitmproxy.proxy import commands, layer
from mitmproxy.proxy.layers.tls import TLSLayer
from OpenSSL import SSL

from addons.gnutls.connection import Connection
from addons.inbound.handshakes import HandshakeData, InboundHandshakeHook, Step
from addons.records import classes
from addons.records.connections import facts_of
from addons.tls.refusal import INTERNAL_ERROR, Refusal


class Timed(Protocol):
    """Whoever watches the clock."""

    deadline: float
    """On CLOCK_MONOTONIC, in seconds."""


class SteppedHandshake(TLSLayer):
    """Between mitmproxy's ClientTLSLayer, which reads the ClientHello, and its TLSLayer, which does the handshake."""

    listener: Timed
    _step: Step | None = None
    _steps = 0
    _key_was_asked = False
    last_alert = ""
    failure: BaseException | None = None

    @property
    def ours(self) -> Connection | Refusal:
        """`tls`, as the addon made it: mitmproxy takes it for pyOpenSSL's."""
        return cast(Connection | Refusal, self.tls)

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """Have a step run; TLSLayer then asks again, and is told at once what came of it.

        A handshake asks its key once (RFC 8446 section 4.4.3; RFC 5246 sections 7.4.3 and 7.4.7.1): what comes after
        that waits for nothing and needs no thread.
        """
        if data:
            self.tls.bio_write(data)
        if not self._key_was_asked:
            self._steps += 1
            step = self._step = Step(self.ours, self.listener.deadline)
            yield InboundHandshakeHook(HandshakeData(self.context.client, step))
            self._step = None
            self._key_was_asked = step.asked
            facts = facts_of(self.context.client)
            facts.member, facts.sign_ms = step.member or facts.member, step.sign_ms or facts.sign_ms
            self.failure = step.failure.__cause__ if isinstance(step.failure, SSL.Error) else step.failure
            if step.failure is not None and not isinstance(step.failure, SSL.Error):
                self.ours.abort(INTERNAL_ERROR)
        done, error = yield from super().receive_handshake_data(b"")
        if error:
            for command in self.tls_interact():  # mitmproxy closes without the alert
                if isinstance(command, commands.SendData):
                    self.last_alert = classes.alert_in(command.data)
                yield command
            error = self.ours.broken or error
        return done, error
