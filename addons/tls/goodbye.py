"""How a TLS layer of mitmproxy's ends: with the alert that says why, or with close_notify, and at once.

mitmproxy closes a connection whose handshake has failed without the alert that OpenSSL has made for it; it keeps one
whose record was wrong until it has been idle for minutes; and it passes over the end of a peer that has said a fatal
alert before: whoever waits for an answer of that peer waits for ever (RFC 8446 section 6).
"""

from __future__ import annotations

from contextlib import suppress

from mitmproxy.proxy import commands, events, layer, tunnel
from mitmproxy.proxy.layers.tls import TLSLayer
from OpenSSL import SSL

from addons.records.classes import alert_in


class Goodbye(TLSLayer):
    """Stands before mitmproxy's ClientTLSLayer or ServerTLSLayer, whose `tls` is a PiecewiseConnection; with a
    connection that a script has made, or that GnuTLS has, what that tells of itself is taken."""

    _over = False
    _said = False
    last_alert = ""
    """What we said when a handshake failed, as far as it could be read on the wire (RFC 8446 section 6)."""

    @property
    def broken(self) -> str:
        """Why nothing passes any more; empty while all is well."""
        return getattr(self.tls, "broken", "") if self.tls is not None else ""

    def event_to_child(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As mitmproxy's, with a generator less for each command that is not for this layer's connection."""
        establishing = self.tunnel_state is tunnel.TunnelState.ESTABLISHING and not self.command_to_reply_to
        if establishing or getattr(self, "wait_for_clienthello", False):
            yield from super().event_to_child(event)
            return
        for command in self.child_layer.handle_event(event):
            if isinstance(command, commands.ConnectionCommand) and command.connection == self.conn:
                yield from self._handle_command(command)
            else:
                yield command

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """As mitmproxy's, with the alert of a handshake that has failed."""
        done, error = yield from super().receive_handshake_data(data)
        if error and self.tls is not None:
            self._said = True
            for command in self.tls_interact():
                if isinstance(command, commands.SendData):
                    self.last_alert = alert_in(command.data)
                yield command
        return done, error

    def _handshake_finished(self, err: str | None) -> layer.CommandGenerator[None]:
        yield from super()._handshake_finished(err)  # what came behind the handshake was read within it
        yield from self._end_if_broken()

    def receive_data(self, data: bytes) -> layer.CommandGenerator[None]:
        """As mitmproxy's; a connection that is broken ends now."""
        if self._over:
            return
        yield from super().receive_data(data)
        if self.broken:
            yield from self._end_if_broken()

    def _end_if_broken(self) -> layer.CommandGenerator[None]:
        if self._over or not self.broken or self.tunnel_state is not tunnel.TunnelState.OPEN:
            return
        self._over = True
        yield from self.on_broken(self.broken)
        yield from self.end_broken()
        yield from self.event_to_child(events.ConnectionClosed(self.conn))

    def end_broken(self) -> layer.CommandGenerator[None]:
        """Close the connection that is broken: a server's at once."""
        yield commands.CloseConnection(self.conn)

    def on_broken(self, why: str) -> layer.CommandGenerator[None]:
        """The connection is broken, `why` in OpenSSL's words: say so."""
        raise NotImplementedError

    def receive_close(self) -> layer.CommandGenerator[None]:
        """As mitmproxy's; the child has been told already where the connection was broken."""
        if not self._over:
            yield from super().receive_close()

    def send_data(self, data: bytes) -> layer.CommandGenerator[None]:
        """As mitmproxy's, while there is somebody to send it to."""
        return _nothing() if self._over or self._said else super().send_data(data)

    def send_close(self, command: commands.CloseConnection) -> layer.CommandGenerator[None]:
        """Say goodbye first: without close_notify a peer cannot tell an end from a cut (RFC 8446 section 6.1)."""
        if self.tls is not None and self.tunnel_state is tunnel.TunnelState.OPEN and not self._over and not self._said:
            self._said = True
            with suppress(SSL.Error):
                self.tls.shutdown()
            yield from self.tls_interact()
        yield from super().send_close(command)


def _nothing() -> layer.CommandGenerator[None]:
    """There is nobody left to send it to."""
    yield from ()
