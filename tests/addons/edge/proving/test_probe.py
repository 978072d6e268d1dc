"""What is found of a server is remembered, asked for once, and bounded: in time, in number, for each client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from mitmproxy import connection
from prometheus_client import CollectorRegistry

from addons.edge.listeners.bypass import Probing
from addons.edge.proving import probe as room
from addons.edge.proving.probe import Finding, Probe, Question
from addons.policy.rules import compiled
from addons.policy.settings import Policy
from addons.policy.settings import Probe as Mode
from addons.records.connections import facts_of
from addons.records.facts import Decision
from tests.waiting import until

_GOOD = Finding(proved=True)
_BAD = Finding("server-expired", "bank.test did not prove who it is")


def _client(mode: Mode = "before", address: str = "192.0.2.9", *, alpn: tuple[str, ...] = ()) -> connection.Client:
    made = connection.Client(peername=(address, 1234), sockname=("192.0.2.1", 8080), timestamp_start=0)
    facts = facts_of(made)
    facts.policy = compiled(Policy(probe=mode))
    facts.policy_version = facts.policy.version
    facts.decision = Decision("bank", "bypass")
    facts.sni, facts.port, facts.alpn, facts.event = "bank.test", 443, alpn, "bypassed"
    return made


def _probing(client: connection.Client, address: str = "192.0.2.80") -> Probing:
    server = connection.Server(address=("bank.test", 443))
    server.peername = (address, 443)
    return Probing(client, server)


class _World:
    """A probe whose handshakes end when a test says so."""

    def __init__(self, finding: Finding = _GOOD, *, at_once: bool = True, within_s: float = 5) -> None:
        self.finding = finding
        self.asked: list[Question] = []
        self.cut: list[tuple[connection.Client, str]] = []
        self.go = asyncio.Event()
        if at_once:
            self.go.set()
        registry = CollectorRegistry()
        self.probe = Probe(self._shake, lambda *one: self.cut.append(one), within_s, registry)
        self.count: Callable[[str], float | None] = lambda result: registry.get_sample_value(
            "hsmitm_probes_total", {"result": result}
        )

    async def _shake(self, _client: connection.Client, question: Question) -> Finding:
        self.asked.append(question)
        await self.go.wait()
        return self.finding

    async def asks(self, probing: Probing) -> str:
        """Why it is refused."""
        waiting = self.probe.policy_probe(probing)
        if waiting is not None:
            await waiting
        return probing.refused


async def test_a_server_is_asked_once() -> None:
    """Clients that come meanwhile wait for the same answer, later ones have it at once."""
    world = _World(at_once=False)
    waiting = [asyncio.create_task(world.asks(_probing(_client()))) for _ in range(20)]
    await until(lambda: world.asked, "it is asked")
    world.go.set()
    assert await asyncio.gather(*waiting) == [""] * 20
    assert world.probe.policy_probe(_probing(_client())) is None
    assert len(world.asked) == 1
    assert world.count("good") == 1


async def test_what_makes_it_another_question() -> None:
    """Another address, another policy, another ALPN: none of them has the answer of the others."""
    world = _World()
    other = _client()
    facts_of(other).policy_version = "another"
    for one in (
        _probing(_client()), _probing(_client(), "192.0.2.81"), _probing(_client(alpn=("odd",))), _probing(other),
    ):  # fmt: skip
        await world.asks(one)
    assert len(set(world.asked)) == 4


async def test_the_same_name_in_other_letters() -> None:
    """A name is one name, however a client writes it."""
    world = _World()
    for name in ("bank.test", "BANK.test", "bank.test."):
        client = _client()
        facts_of(client).sni = name
        await world.asks(_probing(client))
    assert [one.name for one in world.asked] == ["bank.test"]


async def test_a_bad_server_is_refused_before() -> None:
    """The client's facts say why, and it is not counted as bypassed."""
    world = _World(_BAD)
    probing = _probing(_client())
    assert await world.asks(probing) == _BAD.sentence
    facts = facts_of(probing.client)
    assert facts.failure is not None
    assert (facts.failure.kind, facts.failure.side, facts.event) == ("server-expired", "server", "failed")
    assert world.count("refused") == 1
    assert await world.asks(_probing(_client())) == _BAD.sentence
    assert len(world.asked) == 1


async def test_a_bad_server_is_cut_beside() -> None:
    """The client goes on meanwhile; the next one is refused at once."""
    world = _World(_BAD, at_once=False)
    probing = _probing(_client("beside"))
    assert world.probe.policy_probe(probing) is None
    assert not probing.refused
    world.go.set()
    await until(lambda: world.cut, "it is cut")
    assert world.cut == [(probing.client, _BAD.sentence)]
    again = _probing(_client("beside"))
    assert world.probe.policy_probe(again) is None
    assert again.refused == _BAD.sentence


async def test_beside_a_server_that_could_not_be_asked_nobody_is_cut() -> None:
    """The client has its connection: that ours came to nothing is nothing against the server."""
    world = _World(Finding("connect-failed", "no"))
    assert world.probe.policy_probe(_probing(_client("beside"))) is None
    await until(lambda: world.count("unreached"), "it was asked")
    assert not world.cut


async def test_off_asks_nobody() -> None:
    """Neither for a bypass nor for a proof."""
    world = _World()
    client = _client("off")
    assert world.probe.policy_probe(_probing(client)) is None
    assert not await world.probe.proved(client, facts_of(client), "192.0.2.80")
    assert not world.asked


async def test_a_policy_that_only_warns_asks_nobody() -> None:
    """What it would have done is told as far as that is known without a byte to any server."""
    world, client = _World(), _client()
    facts_of(client).policy = compiled(Policy(mode="warn"))
    assert not await world.probe.proved(client, facts_of(client), "192.0.2.80")
    assert not world.asked


async def test_a_server_that_says_nothing() -> None:
    """It has its time, and no more; and it is soon asked again."""
    world = _World(at_once=False, within_s=0.05)
    assert "within 0.05 s" in await world.asks(_probing(_client()))
    assert world.count("unreached") == 1


async def test_findings_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered has an end, in time and in number."""
    world = _World()
    monkeypatch.setattr(room, "KNOWN_S", -1.0)
    for _ in range(2):
        await world.asks(_probing(_client()))
    assert len(world.asked) == 2
    monkeypatch.setattr(room, "KNOWN_S", 600.0)
    monkeypatch.setattr(room, "REMEMBERED", 3)
    for last in range(10):
        await world.asks(_probing(_client(), f"192.0.2.{last}"))
    assert len(world.probe._known) == 3


async def test_one_client_keeps_nobody_from_an_answer() -> None:
    """A client has so many handshakes in progress and waiting; what goes beyond is refused at once, and another client
    has its own."""
    world = _World(at_once=False)
    many = [
        asyncio.create_task(world.asks(_probing(_client(), f"198.51.{number}.1")))
        for number in range(room.PER_CLIENT + room._WAITING + 5)
    ]
    await until(lambda: sum(one.done() for one in many) == 5, "those beyond are refused")
    assert len(world.asked) == room.PER_CLIENT
    assert all("too many" in one.result() for one in many if one.done())
    other = asyncio.create_task(world.asks(_probing(_client(address="192.0.2.10"))))
    await until(lambda: len(world.asked) == room.PER_CLIENT + 1, "another one is asked for")
    world.go.set()
    assert await other == ""
    assert (await asyncio.gather(*many)).count("") == room.PER_CLIENT + room._WAITING
    assert not world.probe._running


async def test_who_goes_away_leaves_it_to_others() -> None:
    """A client that is gone does not take the answer of others along."""
    world = _World(at_once=False)
    first, second = (asyncio.create_task(world.asks(_probing(_client()))) for _ in range(2))
    await until(lambda: world.asked, "it is asked")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    world.go.set()
    assert await second == ""
