"""TLS to servers: mitmproxy's own addon, less its certificate authority.

mitmproxy's TlsConfig verifies servers and mirrors ALPN, which is what we want of it. It also makes a CA key in a file
at start, signs leaves with it and answers requests for its CRL: all of that is taken out here, so that a client
connection which `forward` does not provide for fails, instead of being served from a software key.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

from mitmproxy import connection, ctx, tls
from mitmproxy.addons import tlsconfig
from mitmproxy.exceptions import OptionsError
from mitmproxy.net import tls as net_tls
from mitmproxy.proxy.layers import quic
from OpenSSL import SSL

from addons.modes import Modes
from addons.policy.settings import ClientCertificate, Profile
from addons.records.connections import facts_of
from addons.tls.protocol import Suites, suites
from addons.tls.suites import of_profile, towards_servers, unknown
from addons.upstream.connection import ServerConnection
from addons.upstream.judging import Judging, demand, is_vouched, profile_for
from addons.upstream.own import Wanted, context
from addons.upstream.repeated import Roots
from addons.upstream.settings import Own
from addons.upstream.stated import ask_for
from hsm.errors import MisconfiguredError

_BUILT_IN = Profile()
_HERE = Path()
_OF_THE_CA = {"certs", "cert_passphrase", "key_size", "confdir"}


class UpstreamTls(tlsconfig.TlsConfig):
    """Takes the place of mitmproxy's TlsConfig, under its name."""

    name = "tlsconfig"

    def __init__(
        self,
        suites: Suites = "modern",
        base: Path = _HERE,
    ) -> None:
        """`suites` are what servers are offered, unless a profile, mitmproxy's option ciphers_server or a script says
        others. Paths of the policy's certificates for servers start from `base`.

        Raises MisconfiguredError for a list with what OpenSSL does not have."""
        super().__init__()
        if missing := unknown(suites):
            raise MisconfiguredError(f"proxy.suites: OpenSSL has no {', '.join(missing)}; 'openssl ciphers' lists some")
        self._suites = suites
        self._judging = Judging()
        self._base = base

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

    def _warn_unsupported_version(self, attribute: str, warn_unbound: bool) -> None:  # mitmproxy's
        """TlsConfig asks OpenSSL for each version that there ever was, and an OpenSSL without SSL 3.0 answers with an
        error, which would keep the worker from starting."""

    def running(self) -> None:
        """TlsConfig makes its certificate store here; we have none."""

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """The server comes first, whatever connection_strategy says: a leaf vouches for a server that has proved
        itself. Clients of our own sites get a certificate that vouches for nobody else, so there it holds."""
        super().tls_clienthello(data)
        if not isinstance(data.context.client.proxy_mode, Modes):
            data.establish_server_tls_first = data.context.server.tls

    def tls_start_server(self, tls_start: tls.TlsData) -> None:
        """As TlsConfig, and as the profile in force has it: versions, suites, our certificate. What OpenSSL has to say
        of the server's certificate is heard and judged (`judge_server`)."""
        if tls_start.ssl_conn is not None:  # a script's, or our own sites'
            if is_vouched(tls_start):
                tls_start.ssl_conn.set_verify(SSL.VERIFY_PEER)
            return
        if tls_start.is_dtls:
            super().tls_start_server(tls_start)
            return
        client, server = tls_start.context.client, tls_start.conn
        assert isinstance(server, connection.Server)
        assert server.address
        server.sni = server.sni or client.sni or server.address[0]
        if not server.alpn_offers:
            server.alpn_offers = tuple(one for one in client.alpn_offers if ctx.options.http2 or one != b"h2")
        profile = profile_for(tls_start.context, server)
        minimum, maximum = self.versions(profile)
        made = ServerConnection(self._context(client, server, profile, minimum, maximum))
        ask_for(made, server.sni)
        if server.alpn_offers:
            made.set_alpn_protos(list(server.alpn_offers))
        made.set_connect_state()
        made.note_certificate_request()
        if profile.status_wait_s is not None and ctx.master.addons.get("status") is not None:
            made.request_ocsp()
        strict = minimum not in net_tls.INSECURE_TLS_MIN_VERSIONS
        made.watch(demand(tls_start, profile, server.sni, _roots(), strict=strict))
        tls_start.ssl_conn = made

    def judge_server(self, data: tls.TlsData) -> Awaitable[None] | None:
        """Judge a server between its handshake and its use."""
        return self._judging.judge(data)

    def _context(
        self,
        client: connection.Client,
        server: connection.Server,
        profile: Profile,
        minimum: net_tls.Version,
        maximum: net_tls.Version,
    ) -> SSL.Context:
        roots, options, own = _roots(), ctx.options, self._own(client, profile)
        return context(
            Wanted(
                minimum,
                maximum,
                self._ciphers(server, profile, minimum),
                options.tls_ecdh_curve_server,
                roots.directory,
                roots.file,
                options.ssl_insecure,
                _client_certs(server) if own is None else None,
                own,
            )
        )

    def _own(self, client: connection.Client, profile: Profile) -> Own | None:
        """The certificate that the profile has us present."""
        kind, _, which = profile.client_certificate.partition(":")
        if kind != "present":
            return None
        written: ClientCertificate = facts_of(client).policy.certificates[which]
        return Own(self._base / written.certificate, self._base / (written.key or written.certificate))

    @staticmethod
    def versions(profile: Profile) -> tuple[net_tls.Version, net_tls.Version]:
        """The oldest and the newest version for a server: the profile's, or mitmproxy's options where the profile has
        what it has of itself."""
        if profile.versions != _BUILT_IN.versions:
            return of_profile(profile.versions)
        options = ctx.options
        return net_tls.Version[options.tls_version_server_min], net_tls.Version[options.tls_version_server_max]

    def _ciphers(self, server: connection.Server, profile: Profile, minimum: net_tls.Version) -> tuple[str, ...]:
        """A script's, mitmproxy's option, or the profile's; [proxy] suites where that has what it has of itself."""
        if server.cipher_list or ctx.options.ciphers_server:
            return tuple(server.cipher_list or ctx.options.ciphers_server.split(":"))
        if profile.suites != _BUILT_IN.suites:
            return towards_servers(suites(profile.suites), minimum)
        return towards_servers(self._suites, minimum)

    def offered(self) -> tuple[str, ...]:
        """What servers of our own sites are offered, as OpenSSL has it."""
        return towards_servers(self._suites, net_tls.Version[ctx.options.tls_version_server_min])

    def tls_start_client(self, tls_start: tls.TlsData) -> None:
        """Clients are `forward`'s; what it left alone gets no certificate."""

    def quic_start_client(self, tls_start: quic.QuicTlsData) -> None:
        """QUIC clients get no certificate: their handshake fails, and they fall back to TCP."""


def _roots() -> Roots:
    options = ctx.options
    return Roots(options.ssl_verify_upstream_trusted_confdir, options.ssl_verify_upstream_trusted_ca)


def _client_certs(server: connection.Server) -> str | None:
    """What mitmproxy's option client_certs has for a server: its file, or one of a directory."""
    if not ctx.options.client_certs:
        return None
    given = Path(ctx.options.client_certs).expanduser()
    file = given if given.is_file() else given / f"{server.sni}.pem"
    return str(file) if file.is_file() else None
