"""SOCKS5 with the reply for a denied destination (RFC 1928 section 6): mitmproxy says "host unreachable" to all."""

from __future__ import annotations

from mitmproxy.proxy import commands, layer
from mitmproxy.proxy.layers import modes

from addons.edge.answers import Sentence

_HOST_UNREACHABLE = b"\x05\x04"
_NOT_ALLOWED = b"\x05\x02"
"""Connection not allowed by ruleset."""
_FORBIDDEN = 403


class Socks5(modes.Socks5Proxy):
    """Stands in for Socks5Proxy."""

    def state_connect(self) -> layer.CommandGenerator[None]:
        """As Socks5Proxy; its reply to a destination that is denied says that."""
        following = super().state_connect()
        answer = None
        while True:
            try:
                command = following.send(answer)
            except StopIteration:
                return
            error = self.context.server.error
            denied = isinstance(error, Sentence) and error.status == _FORBIDDEN
            if denied and isinstance(command, commands.SendData) and command.data[:2] == _HOST_UNREACHABLE:
                command.data = _NOT_ALLOWED + command.data[2:]
            answer = yield command
