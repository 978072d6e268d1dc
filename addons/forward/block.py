"""Who may use the forward proxy: mitmproxy's own addon, which refuses clients from public addresses, but not at our
own sites: those are there for the public."""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.addons import block

from addons.modes import Modes


class Block(block.Block):
    """Takes the place of mitmproxy's Block, under its name."""

    def client_connected(self, client: connection.Client) -> None:
        """Leave clients of our own sites alone."""
        if not isinstance(client.proxy_mode, Modes):
            super().client_connected(client)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
