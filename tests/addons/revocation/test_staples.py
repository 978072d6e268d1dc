"""addons/revocation/staples.py: responses from a responder on loopback and from files, kept fresh on a clock of the
test's."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as library

from addons.engine.loop import WorkerLoop
from addons.gnutls.credentials import Certificate, Credentials
from addons.gnutls.key import RemoteKey
from addons.revocation import ocsp, staples
from addons.revocation.staples import Source, Staples
from hsm.errors import MisconfiguredError
from tests.addons.revocation.ocsp_responder import (
    HOUR,
    NOW,
    Authority,
    Responder,
    der,
    private_key,
    respond_with,
    unsuccessful,
)
from tests.addons.revocation.stapled import CA, MINUTE, Lines, Site, Time, keeping
from tests.waiting import until

REVOKED = library.OCSPCertStatus.REVOKED


# the responder


async def test_fetched(responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """The responder that the certificate names is asked as it expects, and its answer is stapled."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with keeping(time, site):
        await time.asleep()
        assert site.put == [good]
    [(path, headers, body)] = responder.asked
    assert (path, headers["content-type"]) == ("/ocsp", "application/ocsp-request")
    assert headers["host"] == responder.url.split("/")[2]
    assert body == ocsp.request(site.leaf, CA.certificate)
    expires = f"{NOW + 24 * HOUR:%Y-%m-%d %H:%M:%S} UTC"
    text = f"site shop, ECDSA certificate: OCSP response fetched from {responder.url}, valid until {expires}"
    assert lines() == [("INFO", text)]


async def test_refreshed(responder: Responder, site: Site, time: Time) -> None:
    """A new response is fetched when about half of the old one's time is over, not before."""
    responder.answer = respond_with(CA.respond(site.leaf))
    async with keeping(time, site):
        await time.asleep()
        new = CA.respond(site.leaf, this_update=NOW + 10 * HOUR, next_update=NOW + 48 * HOUR)
        responder.answer = respond_with(new)
        await time.pass_by(24 * HOUR * 0.44)
        assert len(responder.asked) == 1
        await time.pass_by(24 * HOUR * 0.12)
        assert len(responder.asked) == 2
        assert site.stapled == new


async def test_failure_keeps_the_old_one(responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """A responder that fails is asked again, ever less often; what was stapled stays until it expires, then goes."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with keeping(time, site):
        await time.asleep()
        responder.answer = respond_with(unsuccessful(library.OCSPResponseStatus.TRY_LATER))
        await time.pass_by(23 * HOUR)
        assert site.put == [good]
        (_, first), *failures = lines()
        assert "fetched" in first
        assert 10 <= len(failures) <= 20
        assert {level for level, _ in failures} == {"WARNING"}
        expires = f"{NOW + 24 * HOUR:%Y-%m-%d %H:%M:%S} UTC"
        assert failures[0][1] == (
            "site shop, ECDSA certificate: no new OCSP response: the OCSP responder answered TRY_LATER; "
            f"the old one is used until {expires}"
        )
        await time.pass_by(HOUR + 6 * MINUTE)
        assert site.put == [good, None]
        expiry = f"site shop, ECDSA certificate: the OCSP response expired at {expires}; nothing is stapled"
        after = lines()
        assert ("WARNING", expiry) in after
        assert after[-1][1].endswith("TRY_LATER; nothing is stapled")
        new = CA.respond(site.leaf, this_update=time.now, next_update=time.now + 24 * HOUR)
        responder.answer = respond_with(new)
        await time.pass_by(HOUR + MINUTE)
        assert site.stapled == new


async def test_first_try_fails(responder: Responder, site: Site, time: Time) -> None:
    """A responder that is down when a worker starts is asked again after five minutes, then as any other."""
    async with keeping(time, site):
        await time.asleep()
        responder.answer = respond_with(CA.respond(site.leaf))
        await time.pass_by(4.9 * MINUTE)
        assert len(responder.asked) == 1
        assert site.put == []
        await time.pass_by(1.2 * MINUTE)
        assert site.stapled
        await time.pass_by(10 * HOUR)
        assert len(responder.asked) == 2


async def test_forged_response(responder: Responder, site: Site, time: Time) -> None:
    """A response that somebody else signed, or that is expired, replaces none that is good."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    stranger = Authority(private_key("stranger"), "stranger")
    async with keeping(time, site):
        await time.asleep()
        bad = CA.respond(site.leaf, next_update=NOW + 48 * HOUR, signer=stranger.delegate())
        responder.answer = respond_with(bad)
        await time.pass_by(20 * HOUR)
        assert len(responder.asked) > 2
        responder.answer = respond_with(CA.respond(site.leaf, next_update=NOW))
        await time.pass_by(2 * HOUR)
        assert site.put == [good]


async def test_revoked(responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """A revoked certificate is an error in the log; its old response is taken back and does not come again."""
    good = CA.respond(site.leaf, next_update=NOW + 96 * HOUR)
    responder.answer = respond_with(good)
    async with keeping(time, site):
        await time.asleep()
        lines()
        revoked = CA.respond(site.leaf, status=REVOKED, this_update=NOW + HOUR, next_update=NOW + 200 * HOUR)
        responder.answer = respond_with(revoked)
        await time.pass_by(54 * HOUR)
        assert site.put == [good, None]
        level, text = lines()[0]
        assert level == "ERROR"
        since = f"{NOW + HOUR:%Y-%m-%d %H:%M:%S} UTC"
        assert text == (
            f"site shop, ECDSA certificate: the certificate is revoked since {since}; "
            "nothing is stapled; replace the certificate"
        )
        responder.answer = respond_with(good)
        await time.pass_by(2 * HOUR)
        assert site.stapled is None
        assert "is older than the one before; nothing is stapled" in lines()[-1][1]


async def test_old_revocation(responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """A revocation from before the response in use, which was lifted since, takes nothing back."""
    good = CA.respond(site.leaf)
    responder.answer = respond_with(good)
    async with keeping(time, site):
        await time.asleep()
        responder.answer = respond_with(CA.respond(site.leaf, status=REVOKED, this_update=NOW - 2 * HOUR))
        await time.pass_by(15 * HOUR)
        assert site.put == [good]
        assert "older than the one before says that the certificate is revoked" in lines()[-1][1]


async def test_clock_jump(responder: Responder, site: Site, time: Time) -> None:
    """After a machine slept for days, the expired response is gone and a new one fetched within a minute."""
    responder.answer = respond_with(CA.respond(site.leaf))
    async with keeping(time, site):
        await time.asleep()
        span = 72 * HOUR
        new = CA.respond(site.leaf, this_update=NOW + span, next_update=NOW + 2 * span)
        responder.answer = respond_with(new)
        await time.jump(span)
        assert site.put[1:] == [None, new]


async def test_put_fails(responder: Responder, site: Site, time: Time, lines: Lines) -> None:
    """A response that the site's credentials refuse is a failure like others, and so is a fault of our own."""
    responder.answer = respond_with(CA.respond(site.leaf))
    faults: list[Exception] = [RuntimeError("boom"), ValueError("not for this site")]

    def put(response: bytes | None) -> None:
        if faults:
            raise faults.pop()
        site.put.append(response)

    async with Staples([site.source._replace(put=put)], clock=time.clock, sleep=time.sleep):
        await time.asleep()
        assert lines()[0][1].endswith("no new OCSP response: not for this site; nothing is stapled")
        await time.pass_by(7 * MINUTE)
        assert "unexpectedly RuntimeError('boom')" in lines()[0][1]
        await time.pass_by(HOUR)
        assert site.stapled


async def test_many(responder: Responder, time: Time) -> None:
    """A start with many sites asks eight questions at once and no more, and all are asked."""
    sites = [Site(responder.url, name=f"site {number}") for number in range(20)]
    lock, go = threading.Lock(), threading.Event()
    answered: list[bytes] = []
    running: list[int] = []
    inside = 0

    def answer(http: BaseHTTPRequestHandler) -> None:
        nonlocal inside
        with lock:
            body = next(one for _, _, one in responder.asked if one not in answered)
            answered.append(body)
            inside += 1
            running.append(inside)
        go.wait(10)
        with lock:
            inside -= 1
        respond_with(CA.respond(sites[0].leaf))(http)

    responder.answer = answer
    async with keeping(time, *sites):
        await until(lambda: len(running) == 8, "eight requests")
        go.set()
        await time.asleep(20)
    assert max(running) == 8
    assert len(responder.asked) == 20


async def test_close(responder: Responder, site: Site, time: Time) -> None:
    """A worker that ends while a responder hangs does not wait for it, and the connection is closed."""
    gone = threading.Event()

    def hang(http: BaseHTTPRequestHandler) -> None:
        with suppress(ConnectionError):
            http.connection.recv(1)
        gone.set()

    responder.answer = hang
    async with keeping(time, site):
        await until(lambda: responder.asked, "the request is there")
    await until(gone.is_set, "the responder sees the end of the connection")


async def test_credentials(responder: Responder, time: Time) -> None:
    """What is fetched is what a site's credentials take and show."""
    key = private_key("leaf")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    site = Site(responder.url)
    credentials = Credentials([Certificate([der(site.leaf)], RemoteKey(key.public_key(), lambda *_: b""))])
    good = CA.respond(site.leaf, signer=CA.delegate())
    responder.answer = respond_with(good)
    source = site.source._replace(put=partial(credentials.staple, 0))
    async with Staples([source], clock=time.clock, sleep=time.sleep):
        await time.asleep()
    assert credentials._staples[0].fresh() == good


def test_worker_loop(responder: Responder, site: Site) -> None:
    """It works in a worker's own event loop, uvloop, with its eager tasks, on the real clock."""
    responder.answer = respond_with(CA.respond(site.leaf))

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with Staples([site.source]):
            await until(lambda: site.stapled, "a response")

    with asyncio.Runner(loop_factory=lambda: WorkerLoop(5)) as runner:
        runner.run(main())


# configuration


STRANGER = Authority(private_key("stranger"), "stranger")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Site("http://ocsp").source._replace(issuer=None),
            'site shop: ocsp = "fetch", but the chain ends .* add its issuer',
        ),
        (
            Site(Path("x")).source._replace(where="fetch"),
            "site shop: .* names no OCSP responder; leave ocsp out, or name",
        ),
        (Site("ldap://ocsp").source, r"site shop: .* \(it names ldap://ocsp\)"),
        (
            Site("http://ocsp").source._replace(issuer=der(STRANGER.certificate)),
            "site shop: the second certificate of the chain, CN=stranger, did not issue the first",
        ),
        (Site("http://ocsp").source._replace(leaf=b"junk"), "site shop: a certificate does not parse"),
        (Site("http://ocsp").source._replace(issuer=b"junk"), "site shop: a certificate does not parse"),
    ],
)
async def test_misconfigured(source: Source, message: str) -> None:
    """What cannot work is said before the start, with the site and what to do."""
    with pytest.raises(MisconfiguredError, match=message):
        Staples([source])
    with pytest.raises(MisconfiguredError, match=message):
        await staples.check(source)


async def test_check(responder: Responder, site: Site, tmp_path: Path) -> None:
    """`hsmitm check` says until when there is a response, or what is wrong, and staples nothing."""
    expires = f"{NOW + 24 * HOUR:%Y-%m-%d %H:%M:%S} UTC"
    with pytest.raises(MisconfiguredError, match=r"site shop, ECDSA certificate: .* TRY_LATER"):
        await staples.check(site.source)
    responder.answer = respond_with(CA.respond(site.leaf))
    assert await staples.check(site.source) == (
        f"site shop, ECDSA certificate: the OCSP response fetched from {responder.url} is valid until {expires}"
    )
    path = tmp_path / "shop.der"
    other = Site(path)
    with pytest.raises(MisconfiguredError, match=f"cannot read {path}: No such file"):
        await staples.check(other.source)
    path.write_bytes(CA.respond(other.leaf))
    assert (await staples.check(other.source)).endswith(f"read from {path} is valid until {expires}")
    path.write_bytes(CA.respond(other.leaf, status=REVOKED))
    with pytest.raises(MisconfiguredError, match="the certificate is revoked"):
        await staples.check(other.source)
    assert site.put == other.put == []
