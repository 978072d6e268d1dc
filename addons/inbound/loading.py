"""Our own sites as the data path serves them: configuration and certificate files -> TLS credentials, by listener.

Read at start and at each reload. What is wrong in a file raises MisconfiguredError naming the site and the file, and
nothing is taken over. Keys are not here: a key is its certificate's public half, and the signer to ask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from addons.gnutls.connection import Connection
from addons.gnutls.credentials import Certificate, ClientCertificates, Credentials
from addons.inbound.signer_keys import SignerKeys
from addons.inbound.sites import Site, Sites, TlsConnection
from addons.revocation.staples import Source
from addons.tls.protocol import Protocol
from addons.upstream.stated import Upstream
from hsm import names
from hsm.certificates.files import inbound_name, load_chain
from hsm.errors import MisconfiguredError
from hsm.wire.worker import InboundTerms
from proxy.config.file import Config
from proxy.config.inbound import InboundSection, ServerAddress, SiteSection


class Loaded(Struct):
    """What a worker serves: the sites of each listener, and where their OCSP responses come from."""

    listeners: list[Sites]
    staples: list[Source]


def load(config: Config, keys: SignerKeys, terms: InboundTerms | None) -> Loaded:
    """Everything anew. `terms` are what the signer told; None where it cannot be asked: then there are no tickets.

    Raises MisconfiguredError.
    """
    loaded = Loaded([], [])
    for section in config.file.inbound:
        made = [_site(config, section, one, keys, terms, loaded.staples) for one in section.sites]
        loaded.listeners.append(Sites(made))
    return loaded


def _site(  # one step of `load`
    config: Config,
    listener: InboundSection,
    section: SiteSection,
    keys: SignerKeys,
    terms: InboundTerms | None,
    staples: list[Source],
) -> Site:
    title = section.names[0]
    chains = [load_chain(title, config.base / one) for one in section.certificates]
    certificates = []
    for chain in chains:
        public: Any = chain[0].public_key()
        schemes = terms.keys.get(inbound_name(public)) if terms else None
        key = keys.key(public, schemes, decrypts=section.rsa_key_exchange)
        certificates.append(Certificate([_der(one) for one in chain], key))
    ticketed = terms is not None and listener.tickets
    credentials = Credentials(
        certificates,
        protocol=Protocol(
            minimum=listener.minimum_version,
            maximum=listener.maximum_version,
            ciphers=tuple(listener.ciphers),
            rsa_key_exchange=section.rsa_key_exchange,
        ),
        client_certificates=_client_certificates(config, section),
        ticket_key=terms.ticket_key if ticketed and terms else None,
    )
    for index, where in enumerate(section.staples):
        put = functools.partial(credentials.staple, index)
        staples.append(staple_source(section.names[0], chains[index], where, config.base, put))

    def connect(alpn: Any) -> TlsConnection:
        return Connection(credentials, alpn)

    return Site(
        names=tuple(map(names.check, section.names)),
        upstream=_upstream(config, section),
        connect=connect,
        default=section.default,
        only_tls_1_3=listener.minimum_version == "TLS1.3",
    )


def staple_source(
    title: str, chain: Sequence[x509.Certificate], where: str, base: Path, put: Callable[[bytes | None], None]
) -> Source:
    """Where the OCSP response of the site's certificate comes from, as the configuration has it."""
    place: Path | Literal["fetch"] = "fetch" if where == "fetch" else base / where
    return Source(title, _der(chain[0]), next(map(_der, chain[1:]), None), place, put)


def _upstream(config: Config, section: SiteSection) -> Upstream:
    name = names.to_ascii(section.upstream_name) if section.upstream_name else None
    ca = config.base / section.upstream_ca if section.upstream_ca else None
    if ca is not None:
        pem_certificates(f"inbound site {section.names[0]}: upstream_ca", ca)
    pinned = None
    if section.upstream_certificate is not None:
        file = config.base / section.upstream_certificate
        pinned = pem_certificates(f"inbound site {section.names[0]}: upstream_certificate", file)[0]
    if section.upstream is None:
        return Upstream(tls=True, name=name, ca=ca, pinned=pinned)
    server = ServerAddress.parse(section.upstream)
    return Upstream(server.tls, (server.host, server.port), name, ca, pinned)


def _client_certificates(config: Config, section: SiteSection) -> ClientCertificates | None:
    if section.client_ca is None:
        return None
    authorities = pem_certificates(f"inbound site {section.names[0]}: client_ca", config.base / section.client_ca)
    return ClientCertificates(tuple(authorities), required=section.client_certificates == "require")


def pem_certificates(what: str, file: Path) -> list[bytes]:
    """The certificates (DER) of a PEM file. Raises MisconfiguredError, saying `what` it is for."""
    try:
        return [_der(one) for one in x509.load_pem_x509_certificates(file.read_bytes())]
    except OSError as error:
        raise MisconfiguredError(f"{what}: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise MisconfiguredError(f"{what}: {file} holds no PEM certificate: {error}") from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
