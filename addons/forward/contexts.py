"""TLS contexts towards clients: OpenSSL's objects, made once for each kind of connection and shared."""

from __future__ import annotations

import functools

from mitmproxy import certs
from mitmproxy.addons.tlsconfig import alpn_select_callback
from mitmproxy.net import tls as net_tls
from OpenSSL import SSL

from addons.tls import client_hello
from hsm.wire.worker import Authority


@functools.cache
def ecdsa_suites(ciphers: tuple[str, ...]) -> frozenset[int]:
    """Those of ECDSA_SUITES among `ciphers`, in OpenSSL's syntax."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    made.set_cipher_list(":".join(ciphers).encode())
    offered = SSL.Connection(made).get_cipher_list()
    return frozenset(number for name, number in client_hello.ECDSA_SUITES.items() if name in offered)


def make_context(  # noqa: PLR0917  # a cache's key
    authority: Authority,
    key: object,
    method: net_tls.Method,
    minimum: net_tls.Version,
    maximum: net_tls.Version,
    ciphers: tuple[str, ...],
    curve: str | None,
    request_client_cert: bool,  # a cache's key
    chain: tuple[certs.Cert, ...],
) -> SSL.Context:
    """A TLS context with the leaf key in it. Connections share it and set their certificate alone: parsing the key
    again for every connection costs more than the rest of the set-up.

    mitmproxy's own cache is passed by: its contexts hold no key and would be shared by both kinds of leaf.
    """
    made: SSL.Context = net_tls.create_client_proxy_context.__wrapped__(
        method=method,
        min_version=minimum,
        max_version=maximum,
        cipher_list=ciphers,
        ecdh_curve=net_tls.get_curve(curve),
        chain_file=None,
        alpn_select_callback=alpn_select_callback,
        request_client_cert=request_client_cert,
        extra_chain_certs=chain,
        dhparams=None,
    )
    # A context for each authority: a session resumed shows no certificate, and must not carry a client that was served
    # as trusted past an untrusted leaf. The id is needed where client certificates are asked for (SSL_VERIFY_PEER).
    made.set_session_id(f"hsmitm-{authority}".encode())
    made.use_privatekey(key)  # type: ignore[arg-type]
    return made
