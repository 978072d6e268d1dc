"""A worker's leaves, with mints that are counted, held up and made to fail. Under both of asyncio's task factories:
mitmproxy sets the eager one, and a mint may then have ended before its task is known."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from addons.forward import leaf_cache
from addons.forward.leaf_cache import RENEW_AT, RENEWAL_PAUSE_S, Leaf, LeafCache, LeafKey
from hsm.certificates.settings import BACKDATED, LeafProfile
from hsm.errors import TryLaterError
from hsm.wire.worker import Minted
from tests.waiting import until

_LIFE_S = 1000.0


@functools.cache
def _certificate() -> crypto.X509:
    """Any certificate: the cache does not look into it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + dt.timedelta(days=30))
    return crypto.X509.from_cryptography(builder.sign(key, SHA256()))


def _key(*hosts: str) -> LeafKey:
    return LeafKey("trust", "p256", hosts or ("www.example.com",))


class _World:
    """A cache, the time that it sees, and the signer that it asks."""

    def __init__(self, limit: int = 10) -> None:
        self.now = 1_800_000_000.0
        self.mints: Counter[LeafKey] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.answering = asyncio.Event()
        self.answering.set()
        self.error: Exception | None = None
        self.cache = LeafCache(self._mint, limit, lambda outcome: self.outcomes.update([outcome]))

    async def _mint(self, key: LeafKey) -> Leaf:
        self.mints[key] += 1
        if not self.answering.is_set():
            await self.answering.wait()
        if self.error is not None:
            raise self.error
        return Leaf(_certificate(), self.now + _LIFE_S, self.now + RENEW_AT * _LIFE_S)

    async def settled(self) -> None:
        """Until no mint is in flight, and what waited for the last one's end has run."""
        await until(lambda: not self.cache._minting, "a mint never ended")
        ended = asyncio.Event()
        asyncio.get_running_loop().call_soon(ended.set)
        await ended.wait()


@pytest.fixture(params=[None, asyncio.eager_task_factory], ids=["plain tasks", "eager tasks"])
async def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> _World:
    """A world under each of the task factories."""
    asyncio.get_running_loop().set_task_factory(request.param)
    made = _World()
    monkeypatch.setattr(leaf_cache, "time", SimpleNamespace(time=lambda: made.now))
    return made


async def test_a_leaf_is_minted_once(world: _World) -> None:
    """The second connection to a host needs no signature."""
    first = await world.cache.leaf(_key())
    assert await world.cache.leaf(_key()) is first
    assert world.mints == {_key(): 1}
    assert world.outcomes == {"miss": 1, "hit": 1}
    assert len(world.cache) == 1


async def test_what_differs_in_authority_kind_or_names_is_another_leaf(world: _World) -> None:
    """A client that needs RSA, or a server that did not verify, never gets another connection's leaf."""
    keys = [
        LeafKey("trust", "p256", ("a.example",)),
        LeafKey("untrust", "p256", ("a.example",)),
        LeafKey("trust", "rsa-2048", ("a.example",)),
        LeafKey("trust", "p256", ("a.example", "b.example")),
    ]
    leaves = {id(await world.cache.leaf(key)) for key in keys}
    assert len(leaves) == len(keys)
    assert world.mints == dict.fromkeys(keys, 1)


async def test_the_least_recently_used_leaf_is_forgotten(world: _World) -> None:
    """A full cache keeps the hosts that are in use, and never grows."""
    hosts = [_key(f"h{number}.example") for number in range(11)]
    for key in hosts[:10]:
        await world.cache.leaf(key)
    await world.cache.leaf(hosts[0])
    await world.cache.leaf(hosts[10])
    assert len(world.cache) == 10
    await world.cache.leaf(hosts[0])
    await world.cache.leaf(hosts[1])
    assert world.mints[hosts[0]] == 1
    assert world.mints[hosts[1]] == 2


async def test_an_expired_leaf_is_never_handed_out(world: _World) -> None:
    """A host that nobody visited for a month gets a new leaf at once, not an expired one."""
    old = await world.cache.leaf(_key())
    world.now = old.not_after
    new = await world.cache.leaf(_key())
    assert new is not old
    assert new.not_after > world.now
    assert world.outcomes == {"miss": 2}
    assert len(world.cache) == 1


async def test_renewal_happens_behind_the_clients_back(world: _World) -> None:
    """Past four fifths of its life a leaf is still handed out at once, while one new one is minted."""
    old = await world.cache.leaf(_key())
    world.now = old.renew_at
    world.answering.clear()
    for _ in range(5):
        assert await world.cache.leaf(_key()) is old
    await until(lambda: world.mints[_key()] == 2, "no renewal began")
    world.answering.set()
    await world.settled()
    new = await world.cache.leaf(_key())
    assert new is not old
    assert new.not_after == world.now + _LIFE_S
    assert world.mints[_key()] == 2
    assert world.outcomes == {"miss": 1, "hit": 6}


async def test_before_its_time_a_leaf_is_not_renewed(world: _World) -> None:
    """A leaf in the first four fifths of its life costs no signature."""
    old = await world.cache.leaf(_key())
    world.now = old.renew_at - 1
    await world.cache.leaf(_key())
    await world.settled()
    assert world.mints[_key()] == 1


async def test_a_slow_renewal_is_not_doubled(world: _World) -> None:
    """A renewal that takes longer than the pause between two is not begun a second time."""
    old = await world.cache.leaf(_key())
    world.now = old.renew_at
    world.answering.clear()
    await world.cache.leaf(_key())
    await until(lambda: world.mints[_key()] == 2, "no renewal began")
    world.now += 2 * RENEWAL_PAUSE_S
    assert await world.cache.leaf(_key()) is old
    world.answering.set()
    await world.settled()
    assert world.mints[_key()] == 2


async def test_a_failed_renewal_is_tried_again_after_a_pause(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    """While the signer is away known hosts go on, it is asked once a minute for each, and the log says so."""
    old = await world.cache.leaf(_key())
    world.now = old.renew_at
    world.error = TryLaterError("no member is in service")
    with caplog.at_level(logging.WARNING, "hsmitm.leaf_cache"):
        for _ in range(3):
            assert await world.cache.leaf(_key()) is old
            await world.settled()
    assert world.mints[_key()] == 2
    assert [record.getMessage() for record in caplog.records] == [
        "a leaf could not be renewed yet, the old one goes on: no member is in service"
    ]
    world.now += RENEWAL_PAUSE_S - 1
    await world.cache.leaf(_key())
    await world.settled()
    assert world.mints[_key()] == 2
    world.now += 1
    world.error = None
    await world.cache.leaf(_key())
    await world.settled()
    assert world.mints[_key()] == 3
    assert await world.cache.leaf(_key()) is not old


async def test_a_bug_in_a_renewal_is_not_silent(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    """A renewal that fails for a reason nobody thought of leaves a line too: the leaf would expire unexplained."""
    old = await world.cache.leaf(_key())
    world.now = old.renew_at
    world.error = ValueError("error parsing asn1 value")
    with caplog.at_level(logging.WARNING, "hsmitm.leaf_cache"):
        assert await world.cache.leaf(_key()) is old
        await world.settled()
    assert "error parsing asn1 value" in caplog.text


async def test_a_leaf_that_expires_during_its_renewal_is_waited_for(world: _World) -> None:
    """A client that comes after the expiry joins the renewal in flight instead of asking once more."""
    old = await world.cache.leaf(_key())
    world.now = old.renew_at
    world.answering.clear()
    await world.cache.leaf(_key())
    world.now = old.not_after
    waiting = asyncio.create_task(world.cache.leaf(_key()))
    await until(lambda: world.outcomes["joined"] == 1, "the client did not join")
    world.answering.set()
    assert (await waiting).not_after > old.not_after
    assert world.mints[_key()] == 2


async def test_a_hundred_clients_at_once_cost_one_signature(world: _World) -> None:
    """A page with a hundred connections to a new host asks the HSM once."""
    world.answering.clear()
    waiting = [asyncio.create_task(world.cache.leaf(_key())) for _ in range(100)]
    await until(lambda: world.outcomes.total() == 100, "not every client looked up")
    world.answering.set()
    leaves = await asyncio.gather(*waiting)
    assert len({id(leaf) for leaf in leaves}) == 1
    assert world.mints == {_key(): 1}
    assert world.outcomes == {"miss": 1, "joined": 99}


async def test_a_client_that_goes_away_takes_nothing_from_the_others(world: _World) -> None:
    """The first client's disconnect, which cancels its hook, does not cancel the mint that others wait for."""
    world.answering.clear()
    first = asyncio.create_task(world.cache.leaf(_key()))
    others = [asyncio.create_task(world.cache.leaf(_key())) for _ in range(3)]
    await until(lambda: world.outcomes.total() == 4, "not every client looked up")
    first.cancel()
    others[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.answering.set()
    assert await others[1] is await others[2]
    assert world.mints == {_key(): 1}


async def test_a_mint_that_everybody_left_is_kept(world: _World) -> None:
    """A signature that was paid for is used by the next client, though nobody waited for it in the end."""
    world.answering.clear()
    only = asyncio.create_task(world.cache.leaf(_key()))
    await until(lambda: world.mints[_key()] == 1, "no mint began")
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    world.answering.set()
    await world.settled()
    await world.cache.leaf(_key())
    assert world.mints == {_key(): 1}


async def test_a_failed_mint_that_everybody_left_makes_no_noise(world: _World) -> None:
    """Nobody waited, so there is nobody to tell: asyncio must not report an exception that was never retrieved."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    world.answering.clear()
    world.error = TryLaterError("no member is in service")
    only = asyncio.create_task(world.cache.leaf(_key()))
    await until(lambda: world.mints[_key()] == 1, "no mint began")
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    world.answering.set()
    await world.settled()
    del only
    assert reported == []


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "after a while"])
async def test_a_failed_mint_is_everybodys_error_and_then_forgotten(world: _World, at_once: bool) -> None:
    """All clients that waited learn why; the next one asks anew and is served."""
    world.error = TryLaterError("no member is in service")
    if not at_once:
        world.answering.clear()
    waiting = [asyncio.create_task(world.cache.leaf(_key())) for _ in range(5)]
    await until(lambda: world.outcomes.total() == 5, "not every client looked up")
    world.answering.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in errors] == ["no member is in service"] * 5
    assert len(world.cache) == 0
    await world.settled()
    world.error = None
    assert (await world.cache.leaf(_key())).certificate is _certificate()


async def test_covers_tells_whether_a_host_could_be_served_without_the_signer(world: _World) -> None:
    """Hosts of a valid leaf, by name or by wildcard, are let through while the signer is away; expired ones are not."""
    leaf = await world.cache.leaf(_key("example.com", "*.example.com"))
    await world.cache.leaf(_key("192.0.2.1"))
    covered = {host: world.cache.covers(host) for host in ("example.com", "a.example.com", "192.0.2.1")}
    assert covered == dict.fromkeys(covered, True)
    assert not world.cache.covers("a.b.example.com")
    assert not world.cache.covers("other.example")
    world.now = leaf.not_after
    assert not world.cache.covers("example.com")


async def test_a_forgotten_leaf_covers_nothing(world: _World) -> None:
    """A host whose leaf made room for others is not let through while the signer is away; those that are kept are."""
    hosts = [f"h{number}.example" for number in range(11)]
    for host in hosts:
        await world.cache.leaf(_key(host, f"*.{host}"))
    assert [host for host in hosts if not world.cache.covers(host)] == ["h0.example"]
    assert not world.cache.covers("www.h0.example")
    assert world.cache.covers("www.h1.example")


async def test_a_host_is_covered_by_what_is_left_of_two_leaves(world: _World) -> None:
    """Where a host's older leaf is forgotten, the newer one, of a changed upstream certificate, still covers it."""
    await world.cache.leaf(_key("www.example.com", "old.example.com"))
    await world.cache.leaf(_key("www.example.com", "new.example.com"))
    for number in range(9):
        await world.cache.leaf(_key(f"h{number}.example"))
    assert world.cache.covers("www.example.com")
    assert world.cache.covers("new.example.com")
    assert not world.cache.covers("old.example.com")


async def test_clear_forgets_every_leaf(world: _World) -> None:
    """After a change of CA no leaf of the old one is handed out."""
    await world.cache.leaf(_key())
    world.cache.clear()
    assert len(world.cache) == 0
    assert not world.cache.covers("www.example.com")
    await world.cache.leaf(_key())
    assert world.mints == {_key(): 2}


def test_the_life_of_a_leaf_counts_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves are dated back by a day: a leaf of two days is renewed after four fifths of the time that it has left."""
    now = 1_800_000_000.0
    monkeypatch.setattr(leaf_cache, "time", SimpleNamespace(time=lambda: now))
    der = crypto.dump_certificate(crypto.FILETYPE_ASN1, _certificate())
    made = leaf_cache.leaf(Minted(der, now - 86400, now + 1000))
    assert (made.not_after, made.renew_at) == (now + 1000, now + 800)
    assert crypto.dump_certificate(crypto.FILETYPE_ASN1, made.certificate) == der


def test_a_leaf_from_a_clock_ahead_of_ours_is_renewed_in_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf that begins later than now (its CA does) is renewed at four fifths from its beginning."""
    now = 1_800_000_000.0
    monkeypatch.setattr(leaf_cache, "time", SimpleNamespace(time=lambda: now))
    made = leaf_cache.leaf(Minted(crypto.dump_certificate(crypto.FILETYPE_ASN1, _certificate()), now + 500, now + 1500))
    assert made.renew_at == now + 1300


@pytest.mark.parametrize(("days", "margin_h"), [(1, 4.8), (LeafProfile().days, 33.6), (45, 216)])
def test_a_leaf_is_renewed_in_time(days: int, margin_h: float) -> None:
    """Whatever an operator says of a leaf's life, from the shortest over the default to the longest, it is renewed
    after four fifths of it, hours before it ends, and not sooner because it is dated back."""
    profile, now = LeafProfile(days=days), time.time()
    raw = crypto.dump_certificate(crypto.FILETYPE_ASN1, _certificate())
    made = leaf_cache.leaf(Minted(raw, now - BACKDATED.total_seconds(), now + profile.ahead.total_seconds()))
    assert made.renew_at - now == pytest.approx(0.8 * days * 86400, abs=5)
    assert made.not_after - made.renew_at == pytest.approx(margin_h * 3600, abs=5)
