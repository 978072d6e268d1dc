"""mitmproxy's Proxyserver without its own guess at what is a connection to itself.

It compares spellings of the host (`localhost`, `127.0.0.1`, what we listen on), which `Localhost`, `127.1` and every
name of ours pass, and answers 502. `destinations` looks at the address.
"""

from __future__ import annotations

from mitmproxy.addons import proxyserver
from mitmproxy.proxy import server_hooks


class Proxyserver(proxyserver.Proxyserver):
    """Takes the place of mitmproxy's, under its name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Connect from the address that the option connect_addr gives."""
        if data.server.sockname is None:
            data.server.sockname = self._connect_addr
