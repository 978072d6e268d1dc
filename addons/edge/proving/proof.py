"""Whether a destination is the host that a client's SNI says, where the client has named it in no other way.

Who asks the proxy for an address, or is redirected to it by the network, chooses address and SNI as it likes: a bank's
name at an address of anybody's. So a rule with "bypass" that an SNI selects matches only where our own resolver gives
that very address for the name, or else where whoever listens there shows a certificate that is valid for it, to us.
What a client's own name server says is nowhere asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mitmproxy import connection

from addons.account import account
from addons.addresses import same_address
from addons.edge.connecting.resolver import Found
from addons.edge.proving.probe import Probe
from addons.policy import domains, networks
from addons.records.facts import Facts

Lookup = Callable[[str, str], Awaitable[Sequence[Found]]]
"""The addresses of a name, on an account (`Resolver.addresses`). Raises OSError."""


class Proof:
    """Answers with `Facts.sni_proved` whether the destination is whom the SNI names."""

    def __init__(self, lookup: Lookup, probe: Probe) -> None:
        self._lookup = lookup
        self._probe = probe

    async def prove(self, client: connection.Client, facts: Facts) -> None:
        """Find out. The time that it takes is bounded by that of a look-up and of a probe."""
        name, address = domains.met(facts.sni).text, _destination(facts)
        facts.sni_proved = bool(name and address) and (
            await self._resolves(client, name, address) or await self._probe.proved(client, facts, address)
        )

    async def _resolves(self, client: connection.Client, name: str, address: str) -> bool:
        try:
            found = await self._lookup(name, account(client.peername[0]))
        except OSError:
            return False
        return any(same_address(str(one[1][0]), address) for one in found)


def _destination(facts: Facts) -> str:
    """The address that the client's bytes go to; empty where it is not known."""
    host = facts.host.strip("[]") if facts.mode == "upstream" else facts.destination or facts.host.strip("[]")
    return host if networks.number(host) is not None else ""
