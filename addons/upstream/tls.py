"""TLS to servers: mitmproxy's own addon, less its certificate authority.

mitmproxy's TlsConfig verifies servers and mirrors ALPN, which is what we want of it. It also makes a CA key in a file
at start, signs leaves with it and answers requests for its CRL: all of that is taken out here, so that a client
connection which `forward` does not provide for fails, instead of being served from a software key.
"""

from __future__ import annotations

from mitmproxy import ctx, tls
from mitmproxy.addons import tlsconfig
from mitmproxy.exceptions import OptionsError
from mitmproxy.net import tls as net_tls
from mitmproxy.proxy.layers import quic
from OpenSSL import SSL

from addons.modes import Modes
from addons.tls.pieces import PiecewiseConnection
from addons.tls.protocol import Suites
from addons.tls.suites import towards_servers, unknown
from hsm.errors import MisconfiguredError

_OF_THE_CA = {"certs", "cert_passphrase", "key_size", "confdir"}


class UpstreamTls(tlsconfig.TlsConfig):
    """Takes the place of mitmproxy's TlsConfig, under its name."""

    name = "tlsconfig"

    def __init__(self, suites: Suites = "modern") -> None:
        """`suites` are what servers are offered, unless mitmproxy's option ciphers_server or a script says others.

        Raises MisconfiguredError for a list with what OpenSSL does not have."""
        super().__init__()
        if missing := unknown(suites):
            raise MisconfiguredError(f"proxy.suites: OpenSSL has no {', '.join(missing)}; 'openssl ciphers' lists some")
        self._suites = suites

    request = None  # type: ignore[assignment]  # no CRL of a software CA is served

    def configure(self, updated: set[str]) -> None:
        """Check options as TlsConfig does, without making a certificate store."""
        for name in ("certs", "cert_passphrase"):
            if name in updated and getattr(ctx.options, name):
                raise OptionsError(f"the option '{name}' is not available: leaves are signed on the HSM")
        for name in ("ciphers_client", "ciphers_server"):
            if name in updated and (ciphers := getattr(ctx.options, name)):
                try:
                    SSL.Context(SSL.TLS_METHOD).set_cipher_list(ciphers.encode())
                except SSL.Error as error:
                    raise OptionsError(f"the option '{name}' names no cipher that OpenSSL knows: {ciphers}") from error
        super().configure(set(updated) - _OF_THE_CA)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated

    def running(self) -> None:
        """TlsConfig makes its certificate store here; we have none."""

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """The server comes first, whatever connection_strategy says: a leaf vouches for a server that has proved
        itself. Clients of our own sites get a certificate that vouches for nobody else, so there it holds."""
        super().tls_clienthello(data)
        if not isinstance(data.context.client.proxy_mode, Modes):
            data.establish_server_tls_first = data.context.server.tls

    def tls_start_server(self, tls_start: tls.TlsData) -> None:
        """As TlsConfig, with cipher suites of our own, and what is to be sent taken out in one piece."""
        server = tls_start.conn
        if tls_start.ssl_conn is None and not server.cipher_list and not ctx.options.ciphers_server:
            server.cipher_list = self.offered()
            super().tls_start_server(tls_start)
            server.cipher_list = []  # what scripts see, and what they may set
        else:
            super().tls_start_server(tls_start)
        if type(tls_start.ssl_conn) is SSL.Connection:  # TlsConfig has no place to say which class it makes
            tls_start.ssl_conn.__class__ = PiecewiseConnection
            tls_start.ssl_conn.note_certificate_request()
            tls_start.ssl_conn.request_ocsp()

    def offered(self) -> tuple[str, ...]:
        """What servers are offered, as OpenSSL has it."""
        return towards_servers(self._suites, net_tls.Version[ctx.options.tls_version_server_min])

    def tls_start_client(self, tls_start: tls.TlsData) -> None:
        """Clients are `forward`'s; what it left alone gets no certificate."""

    def quic_start_client(self, tls_start: quic.QuicTlsData) -> None:
        """QUIC clients get no certificate: their handshake fails, and they fall back to TCP."""
