"""One line for each connection that fails, towards clients and servers. Those that succeed are counted (`metrics`)."""

from __future__ import annotations

import logging

from mitmproxy import tls
from mitmproxy.proxy import server_hooks
from mitmproxy.utils import human

from addons.modes import Modes

logger = logging.getLogger("hsmitm.connections")


class ConnectionLog:
    """The addon: it writes, and keeps nothing."""

    def tls_failed_server(self, data: tls.TlsData) -> None:
        """A server that does not verify, or speaks no TLS that we do."""
        server = data.context.server
        logger.warning("server %s (%s): TLS handshake failed: %s", server.sni, _where(server.address), data.conn.error)

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """A client that does not trust the CA is the commonest trouble of an inspecting proxy. One that gives up before
        it was shown a certificate has no trouble with that; and at our own sites anybody may fail, and does."""
        client = data.context.client
        unseen = data.ssl_conn is None
        level = logging.INFO if unseen or isinstance(client.proxy_mode, Modes) else logging.WARNING
        logger.log(level, "client %s for %s: %s", _where(client.peername), client.sni, data.conn.error)

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        """The client gets a 502 page."""
        logger.warning("cannot connect to %s: %s", _where(data.server.address), data.server.error)


def _where(address: tuple[str, int] | tuple[str, int, int, int] | None) -> str:
    return human.format_address(address) if address else "unknown"
