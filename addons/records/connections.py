"""The one place where the facts of each client connection are: from its first byte, or its refusal, to its record.

They hang on mitmproxy's own object for the client, which is one for a connection, whatever is nested in it: TLS to the
proxy itself and the TLS inside of it have the same facts. So nothing is looked up, and nothing is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from mitmproxy import connection
from mitmproxy.proxy import mode_specs

from addons.modes import InboundMode, InboundTransparentMode
from addons.records.facts import Facts, Mode

_FACTS = "_hsmitm_facts"
"""The attribute; mitmproxy writes a client's dataclass fields into flow files, and no others."""
_MODES: dict[type[mode_specs.ProxyMode], Mode] = {
    mode_specs.Socks5Mode: "socks5",
    mode_specs.TransparentMode: "transparent",
    mode_specs.UpstreamMode: "upstream",
    InboundMode: "inbound",
    InboundTransparentMode: "inbound",
}


def facts_of(client: connection.Client) -> Facts:
    """The facts of `client`'s connection; they are made when they are asked for first."""
    found = client.__dict__.get(_FACTS)
    if found is None:
        found = client.__dict__[_FACTS] = _new(client)
    return cast(Facts, found)


def _new(client: connection.Client) -> Facts:
    mode, address = client.proxy_mode, client.peername if client.peername else ("", 0)
    return Facts(
        id=client.id,
        began=client.timestamp_start,
        began_monotonic=time.monotonic(),
        listener=_listener(client),
        mode=_MODES.get(type(mode), "explicit"),
        client_ip=address[0],
        client_port=address[1],
    )


def _listener(client: connection.Client) -> str:
    """Where the client came in, as the configuration has it: host:port. Redirected traffic has its server's address."""
    mode, default = client.proxy_mode, client.sockname if client.sockname else ("", 0)
    host = mode.listen_host(default[0])
    port = mode.listen_port(default[1]) or 0
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connections:
    """The addon: first in the chain, so that the facts are there for all others, and last to let go of them."""

    name = "connections"

    def __init__(self, ended: Callable[[Facts], None] | None = None) -> None:
        """`ended` is called once for each connection, with all that is known of it at its end."""
        self._ended = ended
        self._open: dict[str, connection.Client] = {}

    def client_connected(self, client: connection.Client) -> None:
        """A connection begins."""
        facts_of(client)
        self._open[client.id] = client

    def client_disconnected(self, client: connection.Client) -> None:
        """A connection is over."""
        if self._open.pop(client.id, None) is not None:
            self._end(client)

    def turned_away(self, client: connection.Client) -> None:
        """A connection that was closed before anything could come of it (`EdgeHandler`)."""
        self._end(client)

    def done(self) -> None:
        """The worker ends, and with it the connections that are still open."""
        for client in list(self._open.values()):
            self.client_disconnected(client)

    def _end(self, client: connection.Client) -> None:
        if self._ended is not None:
            self._ended(facts_of(client))
