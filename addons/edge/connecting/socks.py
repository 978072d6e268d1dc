"""SOCKS5 with the reply for a destination that is denied or blocked (RFC 1928 section 6): mitmproxy says "host
unreachable" to all. What the policy has settled by the destination alone is not connected to."""

from __future__ import annotations

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import modes

from addons.edge.answers import Sentence
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.policy import asked

_HOST_UNREACHABLE = b"\x05\x04"
_NOT_ALLOWED = b"\x05\x02"
"""Connection not allowed by ruleset."""
_FORBIDDEN = 403


class Socks5(modes.Socks5Proxy):
    """Stands in for Socks5Proxy."""

    _blocked = False

    def finish_start(self) -> layer.CommandGenerator[str | None]:
        """As Socks5Proxy, for who may go there."""
        decision = yield from asked.at_destination(self.context)
        if decision is None or decision.acts != "block":
            return (yield from super().finish_start())
        if not decision.settled:  # a name may still change it, and until then nobody is connected to
            self._handle_event = self.child_layer.handle_event
            yield from self.child_layer.handle_event(events.Start())
            return None
        yield EdgeRefusedHook(EdgeRefusal(self.context.client, "blocked-by-policy", decision.reason))
        self._blocked = True
        self._handle_event = self.done
        return decision.reason

    def state_connect(self) -> layer.CommandGenerator[None]:
        """As Socks5Proxy; its reply to a destination that is denied or blocked says that."""
        following = super().state_connect()
        answer = None
        while True:
            try:
                command = following.send(answer)
            except StopIteration:
                return
            error = self.context.server.error
            denied = self._blocked or (isinstance(error, Sentence) and error.status == _FORBIDDEN)
            if denied and isinstance(command, commands.SendData) and command.data[:2] == _HOST_UNREACHABLE:
                command.data = _NOT_ALLOWED + command.data[2:]
            answer = yield command
