"""Which of our own sites a client asks for, what that site presents, and where its server is. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from addons.gnutls.credentials import Credentials
from addons.gnutls.key import RemoteKey
from addons.inbound.settings import Forwarded
from addons.upstream.stated import Upstream
from hsm import names
from hsm.errors import MisconfiguredError


class Site(Struct, frozen=True):
    """One of our sites. `names` are checked (`hsm.names`) and may begin with a wildcard; the first one is its title.

    `only_tls_1_3` has older clients refused with the right alert; GnuTLS would say handshake_failure. `keys` are those
    of `credentials`. `half_close`: clients may end their direction before they have read the answer. `proxy_protocol`:
    its server reads a PROXY header (version 2) in front of each connection.
    """

    names: tuple[str, ...]
    upstream: Upstream
    credentials: Credentials
    default: bool = False
    only_tls_1_3: bool = False
    keys: tuple[RemoteKey, ...] = ()
    forwarded: Forwarded = Forwarded()
    proxy_protocol: bool = False
    half_close: bool = False

    @property
    def title(self) -> str:
        """What logs and the status call it."""
        return self.names[0]

    @property
    def served(self) -> bool:
        """Whether there is a key to sign with, as far as the signer tells."""
        return not self.keys or any(key.served for key in self.keys)


class Sites:
    """The sites of one listener."""

    def __init__(self, sites: Iterable[Site]) -> None:
        """Raises MisconfiguredError for a name that two sites claim, or a second default."""
        self.all = tuple(sites)
        self._exact: dict[str, Site] = {}
        self._wildcards: dict[str, Site] = {}
        self.default: Site | None = None
        for site in self.all:
            for name in site.names:
                table, key = (self._wildcards, name[2:]) if name.startswith("*.") else (self._exact, name)
                if key in table:
                    raise MisconfiguredError(f"two sites have the name {name}")
                table[key] = site
            if site.default:
                if self.default is not None:
                    raise MisconfiguredError(f"{self.default.title} and {site.title} are both the default site")
                self.default = site

    def find(self, sni: str | None) -> Site | None:
        """The site that a client means: by its exact name, by a wildcard for one label (RFC 9525 section 6.3), or the
        default; None where there is none."""
        if sni:
            try:
                name = names.check(sni)
            except ValueError:
                return self.default
            if found := self._exact.get(name) or self._wildcards.get(name.partition(".")[2]):
                return found
        return self.default
