"""[[inbound]] of hsmitm.toml: listeners for our own sites, and the sites."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from addons.inbound.settings import (
    MAX_CERTIFICATES,
    MAX_NAMES,
    MAX_PROXIES,
    ListenerSettings,
    ServerAddress,
    SiteCertificate,
    SiteSettings,
    Style,
)
from addons.tls.protocol import Cipher, Version
from hsm import names, uri
from hsm.effect import AtReload, AtStart
from proxy.config.section import Address, Section, named

_LISTENER = AtStart("[[inbound]] listen or transparent")
_TAKEN_OVER = AtReload("[[inbound]]")
_Names = Annotated[list[str], Meta(min_length=1, max_length=MAX_NAMES)]
_Several = Annotated[list[str], Meta(min_length=1, max_length=MAX_CERTIFICATES)]
_DEFAULTS = ListenerSettings(place="", sites=())
_SITE = SiteSettings(names=(), certificates=())


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
    forwarded: Style = _SITE.forwarded
    trusted_proxies: Annotated[list[str], Meta(max_length=MAX_PROXIES)] = field(default_factory=list)
    proxy_protocol: bool = _SITE.proxy_protocol
    half_close: bool = _SITE.half_close

    def __post_init__(self) -> None:
        for name in self.names:
            named("names", _site_name, name)
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
        for network in self.trusted_proxies:
            named("trusted_proxies", ipaddress.ip_network, network)
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

    def settings(self, base: Path) -> SiteSettings:
        """What a worker needs of it; files start from `base`."""

        def path(file: str | None) -> Path | None:
            return base / file if file is not None else None

        return SiteSettings(
            names=tuple(map(names.check, self.names)),
            certificates=tuple(
                SiteCertificate(base / file, "fetch" if staple == "fetch" else path(staple))
                for file, staple in zip_longest(self.certificates, self.staples)
            ),
            server=ServerAddress.parse(self.upstream) if self.upstream is not None else None,
            upstream_name=names.to_ascii(self.upstream_name) if self.upstream_name is not None else None,
            upstream_ca=path(self.upstream_ca),
            upstream_certificate=path(self.upstream_certificate),
            default=self.default,
            client_ca=path(self.client_ca),
            client_required=self.client_certificates == "require",
            rsa_key_exchange=self.rsa_key_exchange,
            forwarded=self.forwarded,
            trusted_proxies=tuple(self.trusted_proxies),
            proxy_protocol=self.proxy_protocol,
            half_close=self.half_close,
        )


class InboundSection(Section, frozen=True):
    """[[inbound]]: a listener, and the sites behind it."""

    listen: Annotated[str, _LISTENER]
    sites: Annotated[list[SiteSection], Meta(min_length=1), _TAKEN_OVER]
    transparent: Annotated[bool, _LISTENER] = _DEFAULTS.transparent
    minimum_version: Annotated[Version, _TAKEN_OVER] = _DEFAULTS.minimum
    maximum_version: Annotated[Version, _TAKEN_OVER] = _DEFAULTS.maximum
    ciphers: Annotated[list[Cipher], Meta(min_length=1), _TAKEN_OVER] = field(
        default_factory=lambda: list(_DEFAULTS.ciphers)
    )
    tickets: Annotated[bool, _TAKEN_OVER] = _DEFAULTS.tickets

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

    def settings(self, base: Path) -> ListenerSettings:
        """What a worker needs of it; files start from `base`."""
        return ListenerSettings(
            place=self.listen,
            sites=tuple(one.settings(base) for one in self.sites),
            transparent=self.transparent,
            minimum=self.minimum_version,
            maximum=self.maximum_version,
            ciphers=tuple(self.ciphers),
            tickets=self.tickets,
        )


def _site_name(text: str) -> str:
    if "_" in (name := names.check(text)):
        raise ValueError(
            f"{name!r} has an underscore: no client could connect, for GnuTLS, which serves sites, refuses such a name "
            "in a handshake (SNI). Give the site a name without"
        )
    return name
