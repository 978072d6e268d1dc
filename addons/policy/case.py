"""A connection as rules look at it: its facts, canonical, and which name selects. Pure.

Which name that is cannot be chosen by a client that lies about its SNI: where it asked the proxy for a host by name,
that name selects; where it did not (an address, transparent mode, our own sites), its SNI does, and a bypass needs that
proved (`addons.policy.criteria.Honest`).
"""

from __future__ import annotations

from addons.policy import domains, networks
from addons.policy.domains import DomainTable, Name
from addons.policy.networks import Number
from addons.records.facts import Facts

_UNSAID = Name()


class Case:
    """What one decision is about.

    `name` is None while it is not known; `by_sni`: it is what the ClientHello says. `addresses` are the destination's,
    None while nobody has looked; `hello_comes`: there will be a ClientHello, and it has not been read.
    """

    __slots__ = ("addresses", "by_sni", "categories", "faces", "facts", "hello_comes", "name", "sni", "source")

    def __init__(self, facts: Facts, categories: DomainTable[str]) -> None:
        self.facts = facts
        self.hello_comes = not facts.hello and not facts.plain
        self.sni = domains.met(facts.sni)
        self.by_sni = False
        self.name = self._named()
        self.source = networks.number(facts.client_ip)
        self._look_at_addresses()
        found = categories.find(self.name) if self.name else ()
        self.categories: frozenset[str] = frozenset(found)

    def _named(self) -> Name | None:
        facts = self.facts
        asked = facts.host and (facts.plain or facts.mode not in ("transparent", "inbound"))
        if asked and networks.number(facts.host.strip("[]")) is None:
            return domains.met(facts.host)
        if facts.plain:
            return _UNSAID
        if self.hello_comes:
            return None
        self.by_sni = True
        return self.sni

    def _look_at_addresses(self) -> None:
        facts = self.facts
        found: tuple[str, ...] | None = facts.addresses
        host = facts.host.strip("[]")
        if found is None and networks.number(host) is not None:
            found = (host,)
        if found is None and facts.destination and facts.mode != "upstream":  # there it is the other proxy
            found = (facts.destination,)
        self.addresses: tuple[Number, ...] | None = None
        self.faces: tuple[Number, ...] = ()
        if found is not None:
            self.addresses = tuple(one for one in map(networks.number, found) if one)
            self.faces = tuple(face for one in found for face in networks.face_numbers(one))

    @property
    def differs(self) -> bool:
        """Whether the client asked the proxy for one name, and says another in its ClientHello."""
        if not self.facts.sni or self.by_sni or self.name is None:
            return False
        return not self.sni.text or self.sni != self.name
