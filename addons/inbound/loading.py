"""Our own sites as the data path serves them: settings and certificate files -> TLS credentials, by listener.

Read at start and at each reload. What is wrong in a file raises MisconfiguredError naming the site and the file, and
nothing is taken over. Keys are not here: a key is its certificate's public half, and the signer to ask. What the signer
tells of them is applied without a file being read.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from addons.gnutls.credentials import Certificate, ClientCertificates, Credentials
from addons.gnutls.key import RemoteKey
from addons.inbound.settings import Forwarded, ListenerSettings, SiteSettings
from addons.inbound.signer_keys import SignerKeys
from addons.inbound.sites import Site, Sites
from addons.revocation.staples import Source
from addons.tls.protocol import Protocol
from addons.upstream.stated import Upstream
from hsm import reading
from hsm.certificates.files import inbound_name, load_chain, public_key_of
from hsm.errors import MisconfiguredError
from hsm.wire.worker import InboundTerms


class Loaded(Struct):
    """What a worker serves: the sites of each listener, where their OCSP responses come from, each one's keys by name,
    and the credentials of sites that resume by tickets."""

    listeners: list[Sites]
    staples: list[Source]
    keys: list[list[tuple[str, RemoteKey]]]
    ticketed: list[Credentials]

    def apply(self, terms: InboundTerms) -> None:
        """New handshakes use these schemes and this ticket key. A key that the signer does not name stays as it is."""
        for keys in self.keys:
            told = [(key, terms.keys[name]) for name, key in keys if name in terms.keys]
            for key, schemes in told:
                if schemes or any(others for _, others in told):
                    key.offer(schemes)
                else:
                    key.withhold()
        for credentials in self.ticketed:
            credentials.use_ticket_key(terms.ticket_key)


def load(listeners: Iterable[ListenerSettings], keys: SignerKeys) -> Loaded:
    """Everything anew. Until the signer's terms are applied, every scheme that fits a key is offered, and there are no
    tickets. Raises MisconfiguredError."""
    loaded = Loaded([], [], [], [])
    for listener in listeners:
        loaded.listeners.append(Sites([_site(listener, one, keys, loaded) for one in listener.sites]))
    return loaded


def _site(listener: ListenerSettings, site: SiteSettings, keys: SignerKeys, loaded: Loaded) -> Site:
    """One step of `load`: the site, and beside it in `loaded` what is done with it later."""
    chains = [load_chain(site.title, one.file) for one in site.certificates]
    certificates = []
    named: list[tuple[str, RemoteKey]] = []
    for chain in chains:
        public = public_key_of(chain[0])
        key = keys.key(public, decrypts=site.rsa_key_exchange)
        named.append((inbound_name(public), key))
        certificates.append(Certificate([_der(one) for one in chain], key))
    loaded.keys.append(named)
    protocol = Protocol(
        minimum=listener.minimum,
        maximum=listener.maximum,
        ciphers=listener.ciphers,
        rsa_key_exchange=site.rsa_key_exchange,
    )
    credentials = Credentials(certificates, protocol=protocol, client_certificates=_client_certificates(site))
    if listener.tickets:
        loaded.ticketed.append(credentials)
    for index, certificate in enumerate(site.certificates):
        if certificate.ocsp is not None:
            put = functools.partial(credentials.staple, index)
            loaded.staples.append(staple_source(site.title, chains[index], certificate.ocsp, put))
    return Site(
        names=site.names,
        upstream=_upstream(site),
        credentials=credentials,
        default=site.default,
        only_tls_1_3=listener.minimum == "TLS1.3",
        keys=tuple(one.key for one in certificates),
        forwarded=Forwarded(site.forwarded, tuple(map(ipaddress.ip_network, site.trusted_proxies))),
        proxy_protocol=site.proxy_protocol,
        half_close=site.half_close,
    )


def staple_source(
    title: str,
    chain: Sequence[x509.Certificate],
    where: Path | Literal["fetch"],
    put: Callable[[bytes | None], None],
) -> Source:
    """Where the OCSP response of the site's certificate comes from, and `put`, which takes it."""
    return Source(title, _der(chain[0]), next(map(_der, chain[1:]), None), where, put)


def _upstream(site: SiteSettings) -> Upstream:
    if site.upstream_ca is not None:
        pem_certificates(f"inbound site {site.title}: upstream_ca", site.upstream_ca)
    pinned = None
    if site.upstream_certificate is not None:
        pinned = pem_certificates(f"inbound site {site.title}: upstream_certificate", site.upstream_certificate)[0]
    server = site.server
    return Upstream(
        tls=server is None or server.tls,
        address=(server.host, server.port) if server else None,
        name=site.upstream_name,
        ca=site.upstream_ca,
        pinned=pinned,
    )


def _client_certificates(site: SiteSettings) -> ClientCertificates | None:
    if site.client_ca is None:
        return None
    authorities = pem_certificates(f"inbound site {site.title}: client_ca", site.client_ca)
    return ClientCertificates(tuple(authorities), required=site.client_required)


def pem_certificates(what: str, file: Path) -> list[bytes]:
    """The certificates (DER) of a PEM file. Raises MisconfiguredError, saying `what` it is for."""
    try:
        return [_der(one) for one in x509.load_pem_x509_certificates(reading.contents(file))]
    except OSError as error:
        raise MisconfiguredError(f"{what}: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise MisconfiguredError(f"{what}: {file} holds no PEM certificate: {error}") from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
