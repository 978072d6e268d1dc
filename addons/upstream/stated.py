"""TLS to the server of one of our sites, where that site says how it is to be verified.

Sites that say nothing are verified as any server is, by `tls`. Here are those with roots of their own or a
pinned certificate. The option ssl_insecure does not reach them: a site that names its server's roots means it.
"""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path

from mitmproxy import ctx, tls
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS
from mitmproxy.connection import Server
from mitmproxy.net import tls as net_tls
from msgspec import Struct
from OpenSSL import SSL, crypto

from addons.tls.pieces import PiecewiseConnection
from hsm import reading


def connection(upstream: Upstream, data: tls.TlsData) -> SSL.Connection:
    """A client's connection for `data.conn`, whose name is its `sni`."""
    server = data.conn
    assert isinstance(server, Server)
    offers = server.alpn_offers or data.context.client.alpn_offers
    server.alpn_offers = [one for one in offers if ctx.options.http2 or one != b"h2"]
    made = PiecewiseConnection(
        _context(
            upstream.ca,
            upstream.pinned,
            net_tls.Version[ctx.options.tls_version_server_min],
            net_tls.Version[ctx.options.tls_version_server_max],
            _suites(),
        )
    )
    assert server.sni is not None
    ask_for(made, server.sni, verify=upstream.pinned is None)
    if server.alpn_offers:
        made.set_alpn_protos(list(server.alpn_offers))
    made.set_connect_state()
    made.note_certificate_request()
    return made


def _suites() -> tuple[str, ...]:
    if ctx.options.ciphers_server:
        return tuple(ctx.options.ciphers_server.split(":"))
    offered: tuple[str, ...] = ctx.master.addons.get("tlsconfig").offered()
    return offered


def forget() -> None:
    """Files of roots are read again from now on."""
    _context.cache_clear()


def ask_for(made: SSL.Connection, host: str, *, verify: bool = True) -> None:
    """Ask for `host`, and have OpenSSL verify it."""
    param = SSL._lib.SSL_get0_param(made._ssl)  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface
    SSL._lib.X509_VERIFY_PARAM_set_hostflags(param, DEFAULT_HOSTFLAGS)  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        packed = ipaddress.ip_address(host).packed
    except ValueError:
        given = host.removesuffix(".").encode("idna")  # RFC 6066 section 3: without the dot at the end
        made.set_tlsext_host_name(given)
        ok = SSL._lib.X509_VERIFY_PARAM_set1_host(param, given, len(given)) if verify else 1  # type: ignore[attr-defined]  # noqa: SLF001
    else:
        ok = SSL._lib.X509_VERIFY_PARAM_set1_ip(param, packed, len(packed)) if verify else 1  # type: ignore[attr-defined]  # noqa: SLF001
    SSL._openssl_assert(ok == 1)  # noqa: SLF001


@functools.lru_cache(maxsize=256)
def _context(
    ca: Path | None, pinned: bytes | None, minimum: net_tls.Version, maximum: net_tls.Version, ciphers: tuple[str, ...]
) -> SSL.Context:
    made: SSL.Context = net_tls.create_proxy_server_context.__wrapped__(
        method=net_tls.Method.TLS_CLIENT_METHOD,
        min_version=minimum,
        max_version=maximum,
        cipher_list=ciphers,
        ecdh_curve=net_tls.get_curve(ctx.options.tls_ecdh_curve_server),
        verify=net_tls.Verify.VERIFY_PEER,
        ca_path=None,
        ca_pemfile=str(reading.for_libraries(ca)) if ca else None,
        client_cert=None,
        legacy_server_connect=False,
    )
    if pinned is not None:
        _pin(made, pinned)
    return made


def _pin(made: SSL.Context, pinned: bytes) -> None:
    """Accept one certificate and no other. It is a trusted end of its chain, whoever issued it; public roots in the
    store do no harm, since the leaf is compared."""
    store = made.get_cert_store()
    assert store is not None
    store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, pinned))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)

    def verified(_: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, ok: int) -> bool:
        return bool(ok) and (depth > 0 or crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) == pinned)

    made.set_verify(SSL.VERIFY_PEER, verified)


class Upstream(Struct, frozen=True):
    """A site's server, and how it proves itself.

    `address` is None where the client's original destination is meant (transparent). `name` is what its certificate
    must carry and the SNI it gets; None: what the client asked for. `ca` holds the roots to verify it with; None: those
    of all servers (proxy.upstream_ca). `pinned` is the one certificate (DER) that it must present, whatever its issuer.
    """

    tls: bool
    address: tuple[str, int] | None = None
    name: str | None = None
    ca: Path | None = None
    pinned: bytes | None = None

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        if self.address is None:
            return f"{scheme}://(original destination)"
        host, port = self.address
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
