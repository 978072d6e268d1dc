"""[[inbound]] of hsmitm.toml: listeners for our own sites, and the sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from addons.tls.protocol import Cipher, Version
from hsm import names, uri
from hsm.effect import AtReload, AtStart
from proxy.config.section import Address, Section, named

_LISTENER = AtStart("[[inbound]] listen or transparent")
_TAKEN_OVER = AtReload("[[inbound]]")
_Names = Annotated[list[str], Meta(min_length=1, max_length=100)]
_Several = Annotated[list[str], Meta(min_length=1, max_length=4)]


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


class SiteSection(Section, frozen=True):
    """[[inbound.sites]]: one of our servers: its names, certificates with a key each, and where it is."""

    names: _Names
    certificate: str | _Several
    key: str | _Several
    upstream: str | None = None
    upstream_name: str | None = None
    upstream_ca: str | None = None
    upstream_certificate: str | None = None
    default: bool = False
    client_certificates: Literal["off", "request", "require"] = "off"
    client_ca: str | None = None
    rsa_key_exchange: bool = False
    ocsp: str | _Several | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            named("names", names.check, name)
        for key in self.keys:
            named("key", uri.parse, key)
        if len(self.keys) != len(self.certificates):
            raise ValueError(f"key: {len(self.certificates)} certificates and {len(self.keys)} keys; give one for each")
        if len(self.staples) not in (0, len(self.certificates)):
            raise ValueError(f"ocsp: {len(self.certificates)} certificates and {len(self.staples)} responses")
        if (self.client_ca is not None) != (self.client_certificates != "off"):
            raise ValueError(
                'client_ca: the CAs whose certificates clients may show go with client_certificates = "request" or '
                '"require", and neither goes without the other'
            )
        self._check_upstream()

    def _check_upstream(self) -> None:
        tls = True
        if self.upstream is not None:
            named("upstream", ServerAddress.parse, self.upstream)
            tls = ServerAddress.parse(self.upstream).tls
        verification = ("upstream_name", "upstream_ca", "upstream_certificate")
        given = [one for one in verification if getattr(self, one) is not None]
        if given and not tls:
            raise ValueError(f"{given[0]}: an http:// upstream proves nothing; use https://")
        if self.upstream_certificate is not None and self.upstream_ca is not None:
            raise ValueError("upstream_certificate: that very certificate is accepted, so upstream_ca says nothing")
        if self.upstream_name is not None:
            named("upstream_name", names.to_ascii, self.upstream_name)

    @property
    def certificates(self) -> Sequence[str]:
        """The PEM files."""
        return [self.certificate] if isinstance(self.certificate, str) else self.certificate

    @property
    def keys(self) -> Sequence[str]:
        """The keys' PKCS#11 URIs, one for each certificate."""
        return [self.key] if isinstance(self.key, str) else self.key

    @property
    def staples(self) -> Sequence[str]:
        """Where OCSP responses come from ("fetch" or a file), one for each certificate, or none."""
        return [] if self.ocsp is None else [self.ocsp] if isinstance(self.ocsp, str) else self.ocsp


class InboundSection(Section, frozen=True):
    """[[inbound]]: a listener, and the sites behind it."""

    listen: Annotated[str, _LISTENER]
    sites: Annotated[list[SiteSection], Meta(min_length=1), _TAKEN_OVER]
    transparent: Annotated[bool, _LISTENER] = False
    minimum_version: Annotated[Version, _TAKEN_OVER] = "TLS1.2"
    maximum_version: Annotated[Version, _TAKEN_OVER] = "TLS1.3"
    ciphers: Annotated[list[Cipher], Meta(min_length=1), _TAKEN_OVER] = field(
        default_factory=lambda: ["AES-256-GCM", "CHACHA20-POLY1305", "AES-128-GCM"]
    )
    tickets: Annotated[bool, _TAKEN_OVER] = True

    def __post_init__(self) -> None:
        named("listen", Address.parse, self.listen)
        if self.minimum_version > self.maximum_version:
            raise ValueError(f"minimum_version: {self.minimum_version} is above {self.maximum_version}")
        claimed: dict[str, str] = {}
        for site in self.sites:
            title = site.names[0]
            for name in map(names.check, site.names):
                if name in claimed:
                    raise ValueError(f"sites: {name} is a name of {claimed[name]} and of {title}")
                claimed[name] = title
            if self.transparent and site.upstream is not None:
                raise ValueError(f"sites: {title} has an upstream; with transparent it is the original destination")
            if not self.transparent and site.upstream is None:
                raise ValueError(f"sites: {title} has no upstream; write where its server is, https://host:port")
            if site.rsa_key_exchange and self.minimum_version == "TLS1.3":
                raise ValueError(f"sites: {title} turns on rsa_key_exchange, which TLS 1.3 does not have")
        defaults = [site.names[0] for site in self.sites if site.default]
        if len(defaults) > 1:
            raise ValueError(f"sites: {' and '.join(defaults)} are both the default")
