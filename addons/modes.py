"""The proxy modes of our own sites, beside mitmproxy's."""

from __future__ import annotations

from mitmproxy.proxy import mode_specs


class InboundMode(mode_specs.ProxyMode):
    """A listener of our own sites."""

    description = "inbound inspection"
    transport_protocol = "tcp"

    def __post_init__(self) -> None:
        """Raises ValueError for a mode without the listener's number."""
        int(self.data)


class InboundTransparentMode(mode_specs.TransparentMode):
    """The same for redirected traffic: the client's original destination is the server."""

    description = "transparent inbound inspection"

    def __post_init__(self) -> None:
        """Raises ValueError for a mode without the listener's number."""
        int(self.data)


Modes = (InboundMode, InboundTransparentMode)
