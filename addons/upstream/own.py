"""Certificates of ours, for servers that ask for one: which files they are in, and contexts that present them.

mitmproxy's option client_certs names one file, or a directory with a file for each host, and knows no rule. A profile
that says `client_certificate = "present:NAME"` means one identity for what its rule matches: so each has a name, and
a key may stay in a file of its own. They are keys in files: who becomes a worker may use them, as with that option.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

from mitmproxy.net import tls as net_tls
from msgspec import Struct
from OpenSSL import SSL

from addons.tls.pieces import reason
from addons.upstream.settings import Own
from hsm import reading
from hsm.errors import MisconfiguredError


def put_in(own: Own, made: SSL.Context) -> None:
    """Have `made` present it. Raises MisconfiguredError with a sentence."""
    try:
        made.use_certificate_chain_file(str(reading.for_libraries(own.certificate)))
        made.use_privatekey_file(str(reading.for_libraries(own.key)))
        made.check_privatekey()
    except OSError as error:
        raise MisconfiguredError(f"a client certificate's file cannot be read: {error}") from error
    except SSL.Error as error:
        raise MisconfiguredError(
            f"{own.certificate} and {own.key} are no certificate in PEM with its key: {reason(error)}"
        ) from error
    SSL._lib.SSL_CTX_set_post_handshake_auth(made._context, 1)  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface


def check(certificates: Mapping[str, Own]) -> None:
    """Raises MisconfiguredError for one that cannot be used."""
    for name, own in certificates.items():
        try:
            put_in(own, SSL.Context(SSL.TLS_CLIENT_METHOD))
        except MisconfiguredError as error:
            raise MisconfiguredError(f"upstream.client_certificates '{name}': {error}") from error


logger = logging.getLogger("hsmitm.upstream")


class Wanted(Struct, frozen=True):
    """What a context towards servers has, beside what mitmproxy's own function takes."""

    minimum: net_tls.Version
    maximum: net_tls.Version
    ciphers: tuple[str, ...]
    curve: str | None
    directory: str | None
    file: str | None
    insecure: bool
    client_certs: str | None = None
    own: Own | None = None


@functools.lru_cache(maxsize=256)
def context(wanted: Wanted) -> SSL.Context:
    """A context, shared by the connections that want the same. A certificate of ours that was renewed into something
    that cannot be used is not presented, which the log says."""
    made: SSL.Context = net_tls.create_proxy_server_context.__wrapped__(
        method=net_tls.Method.TLS_CLIENT_METHOD,
        min_version=wanted.minimum,
        max_version=wanted.maximum,
        cipher_list=wanted.ciphers,
        ecdh_curve=net_tls.get_curve(wanted.curve),
        verify=net_tls.Verify.VERIFY_NONE if wanted.insecure else net_tls.Verify.VERIFY_PEER,
        ca_path=wanted.directory,
        ca_pemfile=wanted.file,
        client_cert=wanted.client_certs,
        legacy_server_connect=wanted.insecure,
    )
    if wanted.own is not None:
        try:
            put_in(wanted.own, made)
        except MisconfiguredError as error:
            logger.error("servers are shown no client certificate: %s", error)  # noqa: TRY400  # an operator's sentence
    return made


def forget() -> None:
    """Files are read again from now on."""
    context.cache_clear()
