"""What a worker needs to know to serve our own sites: types without services, their defaults, and their bounds.

`proxy/config/inbound.py` makes them of hsmitm.toml: paths are whole, and what could be checked is checked.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from addons.edge.settings import Bounds
from addons.tls.protocol import Cipher, Protocol, Version
from hsm import names

MAX_NAMES = 100
"""Of one site."""
MAX_CERTIFICATES = 4
"""Of one site: an RSA and an ECDSA one, and both again while they are replaced."""
MAX_PROXIES = 256
"""Networks of trusted proxies, of one site."""


Style = Literal["x-forwarded", "rfc7239", "off"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A client's address as a socket has it; an IPv4 one where it is written as IPv6, as a listener on [::] sees it."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


class Forwarded(Struct, frozen=True):
    """How a site's server is told where clients are; `trusted` are the proxies whose word about their own clients
    counts."""

    style: Style = "x-forwarded"
    trusted: tuple[Network, ...] = ()

    def believes(self, address: str) -> bool:
        """Whether what a client at `address` says of others goes on."""
        peer = client_address(address)
        return any(peer in one for one in self.trusted)


class ServerAddress(Struct, frozen=True):
    """An upstream URL: its scheme, host and port."""

    tls: bool
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """From "https://host[:port]" or "http://host[:port]". Raises ValueError."""
        advice = f"'{text}' is no upstream; write https://host:port or http://host:port"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{advice} ({error})") from None
        if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
            raise ValueError(advice)
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{advice}; paths are the client's")
        tls = parts.scheme == "https"
        return cls(tls, names.to_ascii(parts.hostname), port or (443 if tls else 80))


class SiteCertificate(Struct, frozen=True):
    """A PEM file (the site's certificate, then its chain), and where its OCSP response comes from: a file, the
    responder that the certificate names ("fetch"), or nowhere."""

    file: Path
    ocsp: Path | Literal["fetch"] | None = None


class SiteSettings(Struct, frozen=True, kw_only=True):
    """A site. `names` as they are compared (`hsm.names.check`); the first one is its title.

    `server` is None where the client's original destination is meant. `upstream_name` is what the server's certificate
    must carry and the SNI it gets; `upstream_ca` the roots to verify it with; `upstream_certificate` the one that it
    must present. `client_ca` are the CAs whose certificates clients may show, and must where `client_required`.
    `forwarded` is how the server is told where clients are; of them `trusted_proxies` (networks) are believed what they
    say of their own. `proxy_protocol`: the server reads a PROXY header (version 2). `half_close`: a client that ends
    its direction after its request still gets the answer.
    """

    names: tuple[str, ...]
    certificates: tuple[SiteCertificate, ...]
    server: ServerAddress | None = None
    upstream_name: str | None = None
    upstream_ca: Path | None = None
    upstream_certificate: Path | None = None
    default: bool = False
    client_ca: Path | None = None
    client_required: bool = False
    rsa_key_exchange: bool = False
    forwarded: Style = Forwarded().style
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False
    half_close: bool = False

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.names[0]


class ListenerSettings(Struct, frozen=True, kw_only=True):
    """A listener of our own sites. `place` is the address as the configuration has it.

    With `transparent` the client's original destination is the server. `tickets`: returning clients resume without a
    signature. What is said of versions and ciphers is said of all its sites.
    """

    place: str
    sites: tuple[SiteSettings, ...]
    transparent: bool = False
    minimum: Version = Protocol().minimum
    maximum: Version = Protocol().maximum
    ciphers: tuple[Cipher, ...] = Protocol().ciphers
    tickets: bool = True


class HandshakeSettings(Struct, frozen=True, kw_only=True):
    """How many steps of handshakes run at a time, how long a client may take from its connection to the end of its
    handshake, how long it may wait for one answer of the HSM, and how much of a ClientHello is read."""

    threads: int
    handshake_s: float
    signature_s: float
    bounds: Bounds = Bounds()
