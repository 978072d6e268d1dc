"""Inbound inspection in the signer: which keys workers may use and for what, and the ticket key that they share.

Here alone it is decided that a worker's digest is signed or its ciphertext decrypted. Only keys of sites are looked up,
and a key is checked once more against the CAs' before each use.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs

from hsm.errors import BadNews, HsmitmError, RefusedError
from hsm.group.group import Group
from hsm.member.key import Key
from hsm.schemes import SCHEMES, Scheme
from hsm.signer.configuration import ConfigurationNumber
from hsm.signer.premasters import Premasters
from hsm.signer.quotas import Allowance
from hsm.signer.sites import Site, Sites
from hsm.wire.frames import Decrypted
from hsm.wire.worker import InboundKeys, InboundTerms, Reply, TlsDecrypt, TlsSign, TlsSigned

logger = logging.getLogger("hsmitm.inbound")

TICKET_KEY_BYTES = 64
"""GNUTLS_TICKET_KEY_SIZE: 16 bytes of name, 32 for AES, 16 for the HMAC."""
TICKET_KEY_S = 24 * 3600.0
"""GnuTLS derives a new key from it every 18 hours, but whoever steals it has them all: replacing it bounds what it
opens. Each replacement costs each returning client one signature."""
REMOVED_STAYS_S = 10.0
"""A removed key is still served so long: workers take over a new configuration at their next report, a second later at
most, and handshakes that they began before end."""
_THERE = "it is there, and clients are refused no more"

Refuse = Callable[[str], RefusedError]
"""Notes a worker's request that is refused, with the reason; the error to raise."""


class InboundService:
    """The sites, their keys, and what goes to all workers alike."""

    def __init__(self, group: Group, sites: Sites, cas: Collection[bytes], state: Path, allowance: Allowance) -> None:
        """`group` has the keys of `sites` already; `cas` are the CAs' public keys (DER SPKI). `state` is the directory
        that remembers the configuration's number; `allowance` bounds what a worker may have decrypted."""
        self.sites = sites
        self._group = group
        self._cas = frozenset(cas)
        self._served = dict(sites.keys)
        self._premasters = Premasters(group, allowance)
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._configuration = ConfigurationNumber(state)
        self._terms = secrets.randbits(31)  # so that a signer that is started again differs
        self._changes_seen = -1
        self._schemes: dict[str, list[str]] = {}
        self._told: dict[str, str] = {}
        self._refused: set[str] = set()
        self._refused_before: set[str] = set()
        self._ticket_key = secrets.token_bytes(TICKET_KEY_BYTES)
        self._ticket_key_since = time.monotonic()

    @property
    def configuration(self) -> int:
        """Another number after each reload, and for no other reason: workers read their files again."""
        return self._configuration.current

    @property
    def terms(self) -> int:
        """Another number whenever `inbound_terms` are others: after a reload, with a new ticket key, where an inbound
        key can be asked for other schemes, and after a start of the signer."""
        self._refresh()
        return self._terms

    def inbound_terms(self) -> InboundTerms:
        """What workers may ask for."""
        self._refresh()
        return InboundTerms(self._schemes, self._ticket_key, self._terms, self.configuration, keeps_staples=True)

    def _refresh(self) -> None:
        if time.monotonic() - self._ticket_key_since >= TICKET_KEY_S:
            self._ticket_key = secrets.token_bytes(TICKET_KEY_BYTES)
            self._ticket_key_since = time.monotonic()
            self._terms += 1
            logger.info("the key of session tickets was replaced")
        if self._changes_seen != self._group.changes:
            self._changes_seen = self._group.changes
            schemes = {name: self._offered(name) for name in self.sites.keys}
            if schemes != self._schemes:
                self._schemes = schemes
                self._terms += 1
            self._tell_of_refusals()
            self._tell_of_decryption()

    def _offered(self, name: str) -> list[str]:
        """The schemes that workers may ask for; none where that is without hope, and workers refuse the clients of a
        site that has no other key."""
        return [] if self._group.hopeless(name) else [one.name for one in self._group.schemes(name)]

    # what is refused

    def tell(self) -> None:
        """Say what is to be said of the keys now; later that is done whenever a worker asks."""
        self._refresh()

    def refused(self, key: str) -> bool:
        """Whether clients of sites that have this key alone are turned away."""
        return key in self.sites.keys and self._group.hopeless(key)

    def refused_sites(self) -> Iterator[str]:
        """The sites with a certificate that is not served; a site with another one is served with that."""
        return (site.name for site in self.sites.sites if self.refused(site.key))

    def _tell_of_refusals(self) -> None:
        now = {name for name in self.sites.keys if self.refused(name)}
        for name in sorted(now - self._refused):
            why = "; ".join(f"{member}: {problem}" for member, problem in self._group.problems(name).items())
            logger.error(
                "no member can serve the %s (%s): clients of its sites are refused until one can",
                self.sites.keys[name].title, why,
            )  # fmt: skip
        before, self._refused = self._refused, now
        for key in self._back(before):
            logger.info("the %s: %s", key.title, _THERE)

    def _back(self, before: set[str]) -> list[Key]:
        """Of keys that were refused before, those that are not now."""
        return [self.sites.keys[name] for name in sorted(before - self._refused) if name in self.sites.keys]

    # what does not decrypt

    def decryption_problems(self, key: str) -> dict[str, str]:
        """For each member that serves `key` and does not decrypt as it should, why not. It signs all the same."""
        if key not in self._served or not self._served[key].decrypts:
            return {}
        return {
            member.name: "it signs, but does not decrypt: CKA_DECRYPT is false, or it has or allows no CKM_RSA_PKCS"
            for member in self._group.members
            if member.serves(key) and not member.found[key].decrypts
        }

    def _tell_of_decryption(self) -> None:
        told = {
            f"member {member}: {key.title}": problem
            for name, key in self.sites.keys.items()
            for member, problem in self.decryption_problems(name).items()
        }
        for who in told.keys() - self._told.keys():
            logger.error("%s: %s", who, told[who])
        self._told = told

    # what workers ask

    async def serve(
        self, process: int, request: TlsSign | TlsDecrypt | InboundKeys, deadline: float, refuse: Refuse
    ) -> Reply:
        """Answer a worker's process. Raises what `refuse` makes of a request that is not allowed, or as `Group.sign`
        and `Premasters.decrypt`."""
        match request:
            case TlsSign():
                return await self._sign(process, request, deadline, refuse)
            case TlsDecrypt():
                return await self._decrypt(process, request, deadline, refuse)
            case InboundKeys():
                return self.inbound_terms()

    async def _sign(self, process: int, request: TlsSign, deadline: float, refuse: Refuse) -> TlsSigned:
        key = self._inbound_key(request.key, refuse)
        scheme = self._scheme(key, request, refuse)
        signature = await self._group.sign(key.name, None, request.digest, deadline, "tls", scheme, asker=process)
        return TlsSigned(bytes(signature), signature.member, signature.ms)

    async def _decrypt(self, process: int, request: TlsDecrypt, deadline: float, refuse: Refuse) -> Decrypted:
        key = self._inbound_key(request.key, refuse)
        if not key.decrypts or not isinstance(key.public, rsa.RSAPublicKey):
            raise refuse(f"the {key.title} may not decrypt: no site of it turns that on")
        size = (key.public.key_size + 7) // 8
        if len(request.ciphertext) != size:
            raise refuse(f"{len(request.ciphertext)} bytes to decrypt with the {key.title}; it takes {size}")
        return Decrypted(await self._premasters.decrypt(process, key.name, request.ciphertext, deadline))

    def _inbound_key(self, name: str, refuse: Refuse) -> Key:
        key = self._served.get(name)
        if key is None:
            raise refuse(f"there is no inbound key {name[:64]!r}")
        if not key.inbound or key.spki in self._cas:  # it was checked at start and at each reload
            raise refuse(f"{name[:64]!r} is no inbound key")
        return key

    @staticmethod
    def _scheme(key: Key, request: TlsSign, refuse: Refuse) -> Scheme:
        scheme = SCHEMES.get(request.scheme)
        if scheme is None or scheme not in key.schemes:
            raise refuse(f"the {key.title} does not sign {request.scheme[:64]!r}")
        if len(request.digest) != scheme.digest_size:
            raise refuse(f"a digest of {len(request.digest)} bytes for {scheme.name} by the {key.title}")
        return scheme

    # other sites

    def expect(self, sites: Sites) -> None:
        """Serve the keys of `sites` beside those of before: members may `learn` them. `take` comes next."""
        self._refused_before = set(self._refused)
        both = {name: _held_by_both(self._served.get(name), key) for name, key in sites.keys.items()}
        self._serve(self._served | both)

    def take(self, sites: Sites, failed: Mapping[str, HsmitmError]) -> list[str]:
        """These are the sites from now on; keys of none of them are served a little longer. `failed` are members that
        could not look for new keys. In lines, what changed."""
        before, self.sites = self.sites, sites
        for name in [one for one in self._leaving if one in sites.keys]:
            self._leaving.pop(name).cancel()
        removed = before.keys.keys() - sites.keys.keys()
        loop = asyncio.get_running_loop()
        for name in removed:
            self._leaving[name] = loop.call_later(REMOVED_STAYS_S, self._drop, name)
        self._serve({name: key for name, key in self._served.items() if name in self._leaving} | dict(sites.keys))
        self._configuration.move()  # always: workers look for themselves what it means to them
        self._terms += 1
        self._changes_seen = -1
        self._refresh()
        return [
            *(self._added(key, failed) for name, key in sites.keys.items() if name not in before.keys),
            *_differences(before, sites),
            *(f"inbound {one.title}: {_THERE}" for one in self._back(self._refused_before)),
            *(f"inbound {key.title} removed" for name, key in before.keys.items() if name in removed),
        ]

    def _drop(self, name: str) -> None:
        del self._leaving[name]
        self._serve({one: key for one, key in self._served.items() if one != name})

    def _serve(self, keys: dict[str, Key]) -> None:
        self._served = keys
        self._premasters.forget(keys.__contains__)
        self._group.assign({name: self._group.keys[name] for name in self._group.authorities} | keys)

    def _added(self, key: Key, failed: Mapping[str, HsmitmError]) -> str:
        problems = self._group.problems(key.name)
        problems |= {
            member: f"it cannot look for new keys: {failed[member]}" for member in problems if member in failed
        }
        by = ", ".join(self._group.proved_by(key.name)) or "no member"
        listed = "".join(f"; not by {member}: {problem}" for member, problem in problems.items())
        line = f"inbound {key.title} added: served by {by}{listed}"
        return line if self._group.proved_by(key.name) else BadNews(line, lasting=self._group.hopeless(key.name))

    def close(self) -> None:
        """Forget the keys that are leaving."""
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()


def _held_by_both(before: Key | None, key: Key) -> Key:
    """`key`, which its holders of before may serve until the new ones do."""
    if before is None or before.members is None or key.members is None:
        return key
    return structs.replace(key, members=before.members | key.members)


def _differences(before: Sites, now: Sites) -> Iterator[str]:
    """In words, what is new about keys that stay."""
    for name in (one for one in now.keys if one in before.keys):
        old, new = before.keys[name], now.keys[name]
        for added in [one for one in new.sites if one not in old.sites]:
            yield f"inbound site {added} added, with the key of {', '.join(old.sites)}"
        for removed in [one for one in old.sites if one not in new.sites]:
            yield f"inbound site {removed} removed; its key still serves {', '.join(new.sites)}"
        if (old.uri, old.members) != (new.uri, new.members):
            yield f"inbound {new.title} is now {new.uri}" + (
                f" of {', '.join(sorted(new.members))}" if new.members else ""
            )
        if old.decrypts != new.decrypts:
            yield f"inbound {new.title}: RSA key exchange is now {'on' if new.decrypts else 'off'}"
    chains = {(site.name, site.key): _der(site) for site in before.sites}
    for site in now.sites:
        if chains.get((site.name, site.key), _der(site)) != _der(site):
            leaf = site.chain[0]
            yield (
                f"inbound site {site.name}: a new certificate of the same key, '{leaf.subject.rfc4514_string()}', "
                f"valid until {leaf.not_valid_after_utc:%Y-%m-%d}"
            )


def _der(site: Site) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in site.chain]
