"""An SNI is proved by our own resolver, or by what the destination shows to us, and by nothing else."""

from __future__ import annotations

import pytest
from mitmproxy import connection
from prometheus_client import CollectorRegistry

from addons.edge.connecting.resolver import Found
from addons.edge.proving.probe import Finding, Probe, Question
from addons.edge.proving.proof import Proof
from addons.policy.rules import compiled
from addons.policy.settings import Policy
from addons.records.connections import facts_of
from addons.records.facts import Facts, Mode

_BANK = "192.0.2.80"


class _World:
    """A resolver that knows the bank, and servers that show its certificate."""

    def __init__(self, *shows: str) -> None:
        self.asked: list[str] = []
        self.looked_up: list[str] = []
        self._shows = shows
        probe = Probe(self._shake, lambda *_: None, 5, CollectorRegistry())
        self.proof = Proof(self._lookup, probe)

    async def _lookup(self, name: str, _account: str) -> tuple[Found, ...]:
        self.looked_up.append(name)
        if name != "bank.test":
            raise OSError("no such name")
        return ((2, (_BANK, 0)), (10, ("2001:db8::80", 0, 0, 0)))

    async def _shake(self, _client: connection.Client, question: Question) -> Finding:
        self.asked.append(question.address)
        return Finding(proved=question.address in self._shows)

    async def proves(self, sni: str, *, destination: str = "", host: str = "", mode: Mode = "transparent") -> bool:
        """Whether that is the SNI's."""
        client = connection.Client(peername=("192.0.2.9", 1234), sockname=("192.0.2.1", 8080), timestamp_start=0)
        facts: Facts = facts_of(client)
        facts.policy, facts.mode = compiled(Policy()), mode
        facts.sni, facts.destination, facts.host, facts.port = sni, destination, host, 443
        await self.proof.prove(client, facts)
        assert facts.sni_proved is not None
        return facts.sni_proved


@pytest.mark.parametrize("sni", ["bank.test", "BANK.test", "bank.test."])
@pytest.mark.parametrize("address", [_BANK, f"::ffff:{_BANK}", "2001:db8::80", "2001:0DB8:0::80"])
async def test_our_resolver_proves(sni: str, address: str) -> None:
    """An address that it gives for the name is the name's, in each spelling of both; nobody is asked."""
    world = _World()
    assert await world.proves(sni, destination=address)
    assert not world.asked


@pytest.mark.parametrize("sni", ["", "evil.test", "192.0.2.66", "bank.test.evil.test", "b\0nk.test", "x" * 300])
async def test_what_is_no_proof(sni: str) -> None:
    """No name, another name, an address, what is no name: none of them is proved by an address alone."""
    assert not await _World().proves(sni, destination=_BANK)


async def test_a_certificate_proves() -> None:
    """Where our resolver has other addresses, as with big sites, the certificate tells."""
    world = _World("198.51.100.7")
    assert await world.proves("bank.test", destination="198.51.100.7")
    assert not await world.proves("bank.test", destination="198.51.100.8")
    assert world.asked == ["198.51.100.7", "198.51.100.8"]


async def test_where_the_client_was_connected_counts() -> None:
    """Not what it has asked for: by the time of its ClientHello a name server may say something else."""
    world = _World()
    assert not await world.proves("bank.test", destination="198.51.100.8", host=_BANK, mode="explicit")
    assert await world.proves("bank.test", destination="", host=_BANK, mode="explicit")
    assert await world.proves("bank.test", destination="", host="[2001:db8::80]", mode="explicit")


async def test_behind_a_parent_proxy() -> None:
    """There the address that the parent is asked for counts, and nothing is known of a name's."""
    world = _World()
    assert await world.proves("bank.test", destination="198.51.100.8", host=_BANK, mode="upstream")
    assert not await world.proves("bank.test", destination=_BANK, host="evil.test", mode="upstream")
