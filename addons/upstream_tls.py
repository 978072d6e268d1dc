"""TLS to servers: mitmproxy's own addon, less its certificate authority, plus a limit in time.

mitmproxy's TlsConfig verifies servers and mirrors ALPN, which is what we want of it. It also makes a CA key in a file
at start, signs leaves with it and answers requests for its CRL: all of that is taken out here, so that a client
connection which `forward` does not provide for fails, instead of being served from a software key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from mitmproxy import ctx, tls
from mitmproxy.addons import tlsconfig
from mitmproxy.exceptions import OptionsError
from mitmproxy.proxy.layers import quic

logger = logging.getLogger("hsmitm.upstream")

_OF_THE_CA = {"certs", "cert_passphrase", "key_size", "confdir"}


class UpstreamTls(tlsconfig.TlsConfig):
    """Takes the place of mitmproxy's TlsConfig, under its name."""

    name = "tlsconfig"
    request = None  # type: ignore[assignment]  # no CRL of a software CA is served

    def __init__(self, handshake_timeout_s: float) -> None:
        """`handshake_timeout_s`: how long a server may take for its side of a TLS handshake."""
        self._timeout_s = handshake_timeout_s
        self._watched: dict[str, asyncio.TimerHandle] = {}

    def configure(self, updated: set[str]) -> None:
        """Check options as TlsConfig does, without making a certificate store."""
        for name in ("certs", "cert_passphrase"):
            if name in updated and getattr(ctx.options, name):
                raise OptionsError(f"the option '{name}' is not available: leaves are signed on the HSM")
        super().configure(set(updated) - _OF_THE_CA)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def running(self) -> None:
        """TlsConfig makes its certificate store here; we have none."""

    def tls_start_client(self, tls_start: tls.TlsData) -> None:
        """Clients are `forward`'s; what it left alone gets no certificate."""

    def quic_start_client(self, tls_start: quic.QuicTlsData) -> None:
        """QUIC clients get no certificate: their handshake fails, and they fall back to TCP."""

    def tls_start_server(self, tls_start: tls.TlsData) -> None:
        """As TlsConfig does; a server that does not finish its handshake in time is disconnected."""
        super().tls_start_server(tls_start)
        loop = asyncio.get_running_loop()
        self._watched[tls_start.conn.id] = loop.call_later(self._timeout_s, self._give_up, tls_start)

    def _give_up(self, data: tls.TlsData) -> None:
        self._watched.pop(data.conn.id, None)
        handlers: dict[Any, Any] = ctx.master.addons.get("proxyserver").connections
        handler = handlers.get(data.context.client.id)
        transport = handler.transports.get(data.conn) if handler else None
        if transport is None or transport.handler is None:
            return
        address = data.context.server.address
        logger.warning("server %s did not complete its TLS handshake in %g s", address, self._timeout_s)
        transport.handler.cancel("TLS handshake timed out")

    def _forget(self, data: tls.TlsData) -> None:
        if timer := self._watched.pop(data.conn.id, None):
            timer.cancel()

    tls_established_server: Callable[[UpstreamTls, tls.TlsData], None] = _forget
    tls_failed_server: Callable[[UpstreamTls, tls.TlsData], None] = _forget
