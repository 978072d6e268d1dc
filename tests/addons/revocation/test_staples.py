"""addons/revocation/staples.py: responses from a responder on loopback and from files, kept fresh on a clock of the
test's."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp as library

from addons.engine.loop import WorkerLoop
from addons.gnutls.credentials import Certificate, Credentials
from addons.gnutls.key import RemoteKey
from addons.revocation import ocsp, ocsp_http, staples
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
    responding,
    unsuccessful,
)
from tests.addons.revocation.stapled import CA, MINUTE, Site, Time, keeping
from tests.waiting import until

REVOKED = library.OCSPCertStatus.REVOKED


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def responder() -> Iterator[Responder]:
    with responding() as one:
        yield one


@pytest.fixture
def site(responder: Responder) -> Site:
    return Site(responder.url)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """What was logged since it was last asked: level and text."""
    caplog.set_level(logging.INFO, "hsmitm.ocsp")

    def taken() -> list[tuple[str, str]]:
        found = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "hsmitm.ocsp"]
        caplog.clear()
        return found

    return taken


Lines = Callable[[], list[tuple[str, str]]]


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


# HTTP


def raw(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer as it stands, then the end of the connection."""
    return lambda http: http.wfile.write(data) and None


def endless(http: BaseHTTPRequestHandler) -> None:
    http.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        http.wfile.write(b"400\r\n" + bytes(1024) + b"\r\n")


def redirect(http: BaseHTTPRequestHandler) -> None:
    http.send_response(302)
    http.send_header("Location", "file:///etc/passwd")
    http.end_headers()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (respond_with(b"", 500), "answers with HTTP status 500"),
        (redirect, "answers with HTTP status 302"),
        (respond_with(bytes(70000)), "answers with more than 64 KiB"),
        (endless, "answers with more than 64 KiB"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000), "does not speak HTTP|more than 64 KiB"),
        (raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000), "more than 64 KiB"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "breaks off or does not speak HTTP"),
        (raw(b""), "closes the connection without an answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), "breaks off"),
    ],
)
async def test_bad_http(responder: Responder, answer: Callable[[BaseHTTPRequestHandler], None], message: str) -> None:
    """Whatever a responder does instead of answering ends in a sentence that names it, after at most 64 KiB."""
    responder.answer = answer
    with pytest.raises(ValueError, match=f"^the OCSP responder {responder.url} .*({message})"):
        await ocsp_http.fetch(responder.url, b"request")


async def test_http_forms(responder: Responder) -> None:
    """Answers in chunks, or that end with the connection, are read as well; an URL may have a query."""
    responder.answer = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n")
    assert await ocsp_http.fetch(responder.url, b"request") == b"yes"
    responder.answer = raw(b"HTTP/1.0 200 OK\r\n\r\nyes")
    assert await ocsp_http.fetch(f"{responder.url}?a=b", b"request") == b"yes"
    assert [path for path, _, _ in responder.asked] == ["/ocsp", "/ocsp?a=b"]


async def test_silent_responder(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder that sends a byte now and then is left after ten seconds in all (here: a part of one)."""
    monkeypatch.setattr(ocsp_http, "_FETCH_S", 0.2)
    stop = threading.Event()

    def trickle(http: BaseHTTPRequestHandler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" * 20:
            http.wfile.write(bytes([byte]))
            if stop.wait(0.02):
                return

    responder.answer = trickle
    with pytest.raises(ValueError, match=r"cannot be asked: no answer within 0\.2 s"):
        await ocsp_http.fetch(responder.url, b"request")
    stop.set()


async def test_nobody_there() -> None:
    """A responder that is down, or whose name does not resolve, is named with the reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(ValueError, match=f"the OCSP responder {url} cannot be asked: .*(refused|failed)"):
            await ocsp_http.fetch(url, b"request")
    with pytest.raises(ValueError, match="cannot be asked: "):
        await ocsp_http.fetch(f"http://{'x' * 64}.invalid/", b"request")


async def test_no_proxy(responder: Responder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies in the environment are not used: they may be this very one."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    responder.answer = respond_with(b"yes")
    assert await ocsp_http.fetch(responder.url, b"request") == b"yes"


async def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A responder with https is asked if its certificate is of an authority that the system trusts, and not else."""
    key = private_key("web")
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = CA.certify("web", key, extensions=[names]).public_bytes(Encoding.PEM)
    (tmp_path / "web.pem").write_bytes(pem + certificate)
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "web.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"request")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(ValueError, match=r"cannot be asked: .*CERTIFICATE_VERIFY_FAILED"):
            await ocsp_http.fetch(url, b"request")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert await ocsp_http.fetch(url, b"request") == b"yes"


# files


def replace(path: Path, data: bytes) -> None:
    """As a careful program renews a file: written elsewhere, then moved."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


async def test_file(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file is stapled at once, and again within a minute of being renewed, and is not read for nothing."""
    site = Site(tmp_path / "shop.der")
    first, second = CA.respond(site.leaf), CA.respond(site.leaf, this_update=NOW, next_update=NOW + 30 * HOUR)
    replace(tmp_path / "shop.der", first)
    async with keeping(time, site):
        await time.asleep()
        assert site.put == [first]
        assert f"OCSP response read from {tmp_path / 'shop.der'}, valid until" in lines()[0][1]
        await time.pass_by(HOUR)
        assert site.put == [first]
        replace(tmp_path / "shop.der", second)
        await time.pass_by(MINUTE)
        assert site.put == [first, second]


@pytest.mark.parametrize("changed", ["mtime", "size", "inode"])
async def test_file_renewed(changed: str, tmp_path: Path, time: Time) -> None:
    """A renewed file is noticed by any one of its time, its size and its inode."""
    path = tmp_path / "shop.der"
    site = Site(path)
    shorter, longer = CA.respond(site.leaf), CA.respond(site.leaf, signer=CA.delegate())
    same = CA.respond(site.leaf)
    while len(same) != len(shorter) or same == shorter:
        same = CA.respond(site.leaf)
    path.write_bytes(shorter)
    before = path.stat()
    async with keeping(time, site):
        await time.asleep()
        if changed == "inode":
            replace(path, same)
        else:
            path.write_bytes(longer if changed == "size" else same)
        if changed == "mtime":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        else:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        await time.pass_by(MINUTE)
        assert site.put == [shorter, longer if changed == "size" else same]


async def test_bad_file(tmp_path: Path, time: Time, lines: Lines) -> None:
    """What is wrong with a file is said once; it replaces nothing; and a good one is taken as soon as it is there."""
    path = tmp_path / "shop.der"
    site = Site(path)
    good = CA.respond(site.leaf)
    async with keeping(time, site):
        await time.asleep()
        text = f"cannot read {path}: No such file or directory; nothing is stapled"
        [(level, line)] = lines()
        assert level == "WARNING"
        assert line.endswith(text)
        replace(path, good)
        await time.pass_by(MINUTE)
        assert site.put == [good]
        lines()
        for data, message in [
            (good[:-10], "what came is no OCSP response in DER"),
            (CA.respond(site.leaf, this_update=NOW - 5 * HOUR), "is older than the one before"),
            (good + bytes(70000), f"{path} has more than 64 KiB"),
        ]:
            replace(path, data)
            await time.pass_by(10 * MINUTE)
            [(_, line)] = lines()
            assert message in line
            assert "; the old one is used until " in line
        path.unlink()
        path.mkdir()
        await time.pass_by(10 * MINUTE)
        [(_, line)] = lines()
        assert f"{path} is not a regular file" in line
        assert site.put == [good]


async def test_file_expires(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file that nobody renews ends with one line, in the second in which its response expires."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf, next_update=NOW + 24.5 * MINUTE))
    async with keeping(time, site):
        await time.asleep()
        lines()
        await time.pass_by(24.4 * MINUTE)
        assert site.stapled
        await time.pass_by(0.12 * MINUTE)
        assert site.stapled is None
        await time.pass_by(6 * HOUR)
        assert site.stapled is None
        [(_, line)] = lines()
        assert "the OCSP response expired at" in line


async def test_file_of_the_future(tmp_path: Path, time: Time) -> None:
    """A response that is not valid yet is stapled once it is, though the file stays as it was."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf, this_update=NOW + HOUR))
    async with keeping(time, site):
        await time.asleep()
        assert site.put == []
        await time.pass_by(HOUR)
        assert site.stapled


async def test_revoked_in_file(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file that says revoked is an error once, not each minute."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf, status=REVOKED))
    async with keeping(time, site):
        await time.asleep()
        await time.pass_by(HOUR)
        [(level, line)] = lines()
        assert level == "ERROR"
        assert "is revoked since" in line
        assert site.stapled is None


async def test_file_without_issuer(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file for a chain without its issuer is used, and the log says what could not be checked."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf))
    async with Staples([site.source._replace(issuer=None)], clock=time.clock, sleep=time.sleep):
        await time.asleep()
        assert site.stapled
        assert lines()[0][1].endswith("(its signature was not checked: the chain has no issuer)")


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
    replace(path, CA.respond(other.leaf))
    assert (await staples.check(other.source)).endswith(f"read from {path} is valid until {expires}")
    replace(path, CA.respond(other.leaf, status=REVOKED))
    with pytest.raises(MisconfiguredError, match="the certificate is revoked"):
        await staples.check(other.source)
    assert site.put == other.put == []
