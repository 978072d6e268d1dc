"""addons/revocation/origins.py: a responder that one worker asks for all of a host."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from cryptography.x509 import ocsp as library

from addons.revocation import keeper, staples
from addons.revocation.keeper import Keeper
from addons.revocation.staples import Staples
from hsm.wire.worker import KeepStaple, StapleFound
from tests.addons.revocation.ocsp_responder import (
    HOUR,
    NOW,
    Authority,
    Responder,
    private_key,
    respond_with,
    unsuccessful,
)
from tests.addons.revocation.stapled import CA, MINUTE, Lines, Site, Time, keeping
from tests.hsm.staple_host import StapleHost, digest_of
from tests.waiting import until

REVOKED = library.OCSPCertStatus.REVOKED


@pytest.fixture
async def host(site: Site, time: Time, tmp_path: Path) -> AsyncIterator[StapleHost]:
    """The signer, which knows the site."""
    made = StapleHost(tmp_path, site.leaf)
    made.clock = time.seconds
    async with made.listening():
        yield made


@asynccontextmanager
async def workers(host: StapleHost, time: Time, site: Site, number: int) -> AsyncIterator[list[list[bytes | None]]]:
    """As many workers that serve the site: what each has stapled."""
    puts: list[list[bytes | None]] = [[] for _ in range(number)]
    async with AsyncExitStack() as stack:
        for put in puts:
            told = Keeper(await stack.enter_async_context(host.worker()))
            told.known = True
            one = Staples([site.source._replace(put=put.append)], told, clock=time.clock, sleep=time.sleep)
            await stack.enter_async_context(one)
        await time.asleep(number)
        yield puts


async def test_once_for_all(host: StapleHost, responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """All workers of a host cost the responder one request at the start and one when a response is to be renewed."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with workers(host, time, site, 3) as stapled:
        await time.pass_by(MINUTE)
        assert stapled == [[good]] * 3
        assert len(responder.asked) == 1
        new = CA.respond(site.leaf, this_update=NOW + 10 * HOUR, next_update=NOW + 72 * HOUR)
        responder.answer = respond_with(new)
        await time.pass_by(24 * HOUR * 0.56)
        assert stapled == [[good, new]] * 3
        assert len(responder.asked) == 2
    said = [text for _, text in lines() if "ECDSA certificate: OCSP response" in text]
    assert [f"fetched from {responder.url}" in text for text in said].count(True) == 2
    assert ["taken over from the signer, valid until" in text for text in said].count(True) == 4
    assert len(said) == 6


@pytest.mark.parametrize("number", [1, 3])
async def test_nothing_new(number: int, host: StapleHost, responder: Responder, site: Site, time: Time) -> None:
    """A responder that goes on giving the old response is asked no more often by several workers than by one."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with workers(host, time, site, number) as stapled:
        await time.pass_by(20 * HOUR)
        assert 3 <= len(responder.asked) <= 5
        assert {put[-1] for put in stapled} == {good}


async def test_responder_fails(host: StapleHost, responder: Responder, site: Site, time: Time) -> None:
    """A responder that fails at the start is asked by one worker for all, then less and less often by each; all staple
    soon after it is back."""
    responder.answer = respond_with(unsuccessful(library.OCSPResponseStatus.TRY_LATER))
    async with workers(host, time, site, 3) as stapled:
        await time.pass_by(4 * MINUTE)
        assert len(responder.asked) == 1
        await time.pass_by(2 * HOUR)
        assert 4 <= len(responder.asked) <= 15
        new = CA.respond(site.leaf, this_update=time.now, next_update=time.now + 24 * HOUR)
        responder.answer = respond_with(new)
        await time.pass_by(HOUR + 2 * MINUTE)
        assert stapled == [[new]] * 3


async def test_another_failed_a_while_ago(host: StapleHost, responder: Responder, site: Site, time: Time) -> None:
    """A worker that asks once an hour is not held up for another one by a failure that is minutes old."""
    responder.answer = respond_with(unsuccessful(library.OCSPResponseStatus.TRY_LATER))
    good = CA.respond(site.leaf)
    async with workers(host, time, site, 1) as [put]:
        await time.pass_by(3 * HOUR)
        asked = len(responder.asked)
        while len(responder.asked) == asked:
            await time.pass_by(MINUTE)
        await time.pass_by(40 * MINUTE)
        async with host.worker() as other:
            await other.call(KeepStaple(digest_of(site.leaf), b""), 5)
        responder.answer = respond_with(good)
        await time.pass_by(21 * MINUTE)
        assert put == [good]


async def test_kept_from_before(host: StapleHost, responder: Responder, site: Site, time: Time) -> None:
    """A worker that starts while there is a good response staples it before it serves its first client, and the
    responder is not asked until it is to be renewed, also by a signer that was started again."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with workers(host, time, site, 1):
        pass
    host.restart(site.leaf)
    time.now += 2 * HOUR
    async with host.worker() as client:
        told = Keeper(client)
        told.known = True
        async with keeping(time, site, keeper=told):
            assert site.put == [good]
            await time.asleep()
            await time.pass_by(9 * HOUR)
            assert len(responder.asked) == 1


async def test_kept_too_long(host: StapleHost, responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """A kept response that expired in the meantime is not stapled: a new one is fetched, by one worker."""
    responder.answer = respond_with(CA.respond(site.leaf))
    async with workers(host, time, site, 1):
        pass
    time.now += 48 * HOUR
    lines()
    new = CA.respond(site.leaf, this_update=time.now, next_update=time.now + 24 * HOUR)
    responder.answer = respond_with(new)
    async with workers(host, time, site, 3) as stapled:
        await time.pass_by(MINUTE)
        assert stapled == [[new]] * 3
    assert len(responder.asked) == 2
    assert lines()[0][1].startswith(
        "site shop, ECDSA certificate: the OCSP response that the signer keeps is not used: the OCSP response expired"
    )


async def test_revoked_for_all(host: StapleHost, responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """That the certificate is revoked is learned by all workers from one request, and by those that start later."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with workers(host, time, site, 3) as stapled:
        await time.pass_by(MINUTE)
        revoked = CA.respond(site.leaf, status=REVOKED, this_update=NOW + HOUR, next_update=NOW + 96 * HOUR)
        responder.answer = respond_with(revoked)
        await time.pass_by(24 * HOUR * 0.45)
        lines()
        await time.pass_by(24 * HOUR * 0.11)
        assert stapled == [[good, None]] * 3
        told = [text for level, text in lines() if level == "ERROR"]
        assert len(told) >= 3
        assert all("the certificate is revoked since" in text for text in told)
    asked = len(responder.asked)
    async with workers(host, time, site, 1) as [put]:
        assert put == []
        assert len(responder.asked) == asked


@pytest.mark.parametrize("bad", ["junk", "of another", "oldest"])
async def test_junk(bad: str, host: StapleHost, responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """What a worker that was taken over hands in is not stapled; one of the others fetches instead, for all."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    stranger = Authority(private_key("stranger"), "stranger")
    junk = {
        "junk": b"junk",
        "of another": stranger.respond(site.leaf, next_update=NOW + 48 * HOUR),
        "oldest": CA.respond(site.leaf, this_update=NOW - 5 * HOUR),
    }[bad]
    async with workers(host, time, site, 3) as stapled:
        await time.pass_by(24 * HOUR * 0.44)
        async with host.worker() as hostile:
            await hostile.call(KeepStaple(digest_of(site.leaf), junk), 5)
        new = CA.respond(site.leaf, this_update=NOW + 10 * HOUR, next_update=NOW + 72 * HOUR)
        responder.answer = respond_with(new)
        lines()
        await time.pass_by(24 * HOUR * 0.12)
        assert stapled == [[good, new]] * 3
        assert len(responder.asked) == 2
        assert "the OCSP response that the signer keeps is not used: " in lines()[0][1]
        assert host.file(site.leaf).read_bytes() == new


@pytest.mark.parametrize(
    ("answer", "before", "within"),
    [
        (StapleFound(b"", "other"), 0.5 * MINUTE, MINUTE),
        (StapleFound(b"", "tried"), 14 * MINUTE, 5 * MINUTE),
        (StapleFound(b"junk", "kept"), 0 * MINUTE, MINUTE),
        (StapleFound(b"junk", "other"), 0.5 * MINUTE, MINUTE),
    ],
    ids=["other", "tried", "junk", "junk of the signer"],
)
async def test_no_end(
    answer: StapleFound,
    before: dt.timedelta,
    within: dt.timedelta,
    host: StapleHost,
    responder: Responder,
    site: Site,
    time: Time,
) -> None:
    """A worker that is told over and over to wait, or given what is no good, fetches for itself before long,
    though it waits as long as an honest one may need."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    host.answer = answer
    async with workers(host, time, site, 1) as [put]:
        if before:
            await time.pass_by(before)
            assert responder.asked == []
        await time.pass_by(within)
        assert put == [good]
        assert len(responder.asked) == 1


async def test_signer_hangs(
    host: StapleHost, responder: Responder, site: Site, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that does not answer holds up stapling for seconds, and no longer."""
    monkeypatch.setattr(keeper, "_TIMEOUT_S", 0.3)
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    host.hangs = True
    async with workers(host, time, site, 2) as stapled:
        assert stapled == [[good]] * 2


async def test_signer_hangs_at_the_start(
    host: StapleHost, site: Site, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that does not answer does not keep a worker with many sites from serving."""
    monkeypatch.setattr(staples, "_BEGIN_S", 0.1)
    monkeypatch.setattr(keeper, "_TIMEOUT_S", 60)
    host.hangs = True
    async with host.worker() as client:
        told = Keeper(client)
        told.known = True
        async with asyncio.timeout(10), keeping(time, site, keeper=told):
            await until(lambda: len(host.asked) == 2, "it goes on to ask for its turn")
