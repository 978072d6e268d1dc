"""addons/revocation/status.py: what a worker knows of servers' certificates, with a responder on loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from addons.revocation import status
from addons.revocation.answers import Answer
from addons.revocation.check import Check
from tests.addons.revocation.asking import Asking
from tests.addons.revocation.ocsp_responder import HOUR, NOW, Authority, der, private_key, respond_with
from tests.addons.revocation.stapled import CA
from tests.waiting import until

REVOKED, UNKNOWN = ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN


async def test_a_responders_word(asking: Asking) -> None:
    """The responder that the certificate names is asked once; what it said is there at once for the next connection."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    asking.at("/ocsp", CA.respond(leaf))
    assert (await asking.of(leaf)).status == "good"
    again = asking.status.of([der(leaf), der(CA.certificate)], b"", 5)
    assert isinstance(again, Answer)
    assert again.status == "good"
    assert asking.questions == ["/ocsp"]


async def test_revoked(asking: Asking) -> None:
    """A certificate that its responder calls revoked is revoked, with the day and who says so."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    url = asking.at("/ocsp", CA.respond(leaf, status=REVOKED))
    answer = await asking.of(leaf)
    assert answer.status == "revoked"
    assert answer.words.startswith(f"its certificate is revoked since {NOW.year}-")
    assert answer.words.endswith(f", says the OCSP responder {url}")


async def test_a_staple_is_believed_and_nobody_is_asked(asking: Asking) -> None:
    """A good response that the server brings along saves the question, one that says revoked likewise."""
    good, bad = CA.leaf(asking.at("/ocsp", b"")), CA.leaf(asking.at("/ocsp", b""))
    assert (await asking.of(good, CA.respond(good))).status == "good"
    assert (await asking.of(bad, CA.respond(bad, status=REVOKED))).status == "revoked"
    assert asking.questions == []


@pytest.mark.parametrize("kind", ["of another certificate", "expired", "of another CA", "garbage", "huge", "unknown"])
async def test_a_bad_staple_counts_for_nothing(asking: Asking, kind: str) -> None:
    """What a server staples is no better than a responder's word: a bad one is passed over, and the responder asked."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    asking.at("/ocsp", CA.respond(leaf, status=REVOKED))
    staple = {
        "of another certificate": CA.respond(CA.leaf()),
        "expired": CA.respond(leaf, this_update=NOW - 48 * HOUR, next_update=NOW - HOUR),
        "of another CA": Authority(private_key("other")).respond(leaf),
        "garbage": b"\x30\x03garbage",
        "huge": CA.respond(leaf) + bytes(70000),
        "unknown": CA.respond(leaf, status=UNKNOWN),
    }[kind]
    assert (await asking.of(leaf, staple)).status == "revoked"
    assert asking.questions == ["/ocsp"]


@pytest.mark.parametrize("kind", ["of another certificate", "expired", "of another CA", "garbage", "huge", "unknown"])
async def test_a_bad_response_says_nothing(asking: Asking, kind: str) -> None:
    """Whatever else a responder says than good or revoked, for this certificate and now, leaves the status unknown."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    body = {
        "of another certificate": CA.respond(CA.leaf()),
        "expired": CA.respond(leaf, this_update=NOW - 48 * HOUR, next_update=NOW - HOUR),
        "of another CA": Authority(private_key("other")).respond(leaf),
        "garbage": b"\x30\x03garbage",
        "huge": bytes(70000),
        "unknown": CA.respond(leaf, status=UNKNOWN),
    }[kind]
    asking.at("/ocsp", body)
    answer = await asking.of(leaf)
    assert answer.status == "unknown", answer.words
    assert "the OCSP responder http://" in answer.words


async def test_a_bad_staple_is_no_reason_to_ask_again(asking: Asking) -> None:
    """A server that staples nonsense, and of whose certificate nobody knows, costs one question in five minutes, not
    one for each connection; a good staple counts at once."""
    leaf = CA.leaf(asking.at("/ocsp", CA.respond(CA.leaf())))
    for _ in range(5):
        assert (await asking.of(leaf, b"nonsense")).status == "unknown"
        await until(lambda: not asking.status._asked, "nobody is asked any more")
    assert asking.questions == ["/ocsp"]
    assert (await asking.of(leaf, CA.respond(leaf))).status == "good"
    assert asking.questions == ["/ocsp"]


async def test_a_thousand_connections_ask_once(asking: Asking) -> None:
    """However many clients open connections to one server at a time, its responder gets one question."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    asking.at("/ocsp", CA.respond(leaf))
    answers = await asyncio.gather(*(asking.of(leaf) for _ in range(1000)))
    assert {one.status for one in answers} == {"good"}
    assert asking.questions == ["/ocsp"]


async def test_nobody_waits_for_long(asking: Asking) -> None:
    """A responder that takes its time holds a connection up as long as was said; its answer counts for the next one."""
    go = threading.Event()
    leaf = CA.leaf(asking.at("/ocsp", b""))

    def late(http: BaseHTTPRequestHandler) -> None:
        assert go.wait(10)
        respond_with(CA.respond(leaf, status=REVOKED))(http)

    asking.at("/ocsp", late)
    answer = await asking.of(leaf, within_s=0.05)
    assert (answer.status, answer.words) == (
        "timeout",
        "whether its certificate is revoked was not known within 0.05 s",
    )
    go.set()
    assert (await asking.of(leaf)).status == "revoked"
    assert asking.questions == ["/ocsp"]


async def test_a_responder_that_is_down(asking: Asking) -> None:
    """Without a connection there is no answer in time; that is remembered for half a minute, and then asked again."""
    leaf = CA.leaf("http://127.0.0.1:1/")
    assert (await asking.of(leaf)).status == "timeout"
    assert isinstance(asking.status.of([der(leaf), der(CA.certificate)], b"", 5), Answer)
    asking.time.now += dt.timedelta(seconds=31)
    assert not isinstance(waiting := asking.status.of([der(leaf), der(CA.certificate)], b"", 5), Answer)
    assert (await waiting).status == "timeout"


async def test_an_answer_is_renewed_while_it_counts(asking: Asking) -> None:
    """An answer that holds for days is asked for anew after half of one, and nobody waits for that."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    asking.at("/ocsp", CA.respond(leaf, next_update=NOW + 96 * HOUR))
    assert (await asking.of(leaf)).status == "good"
    asking.time.now += 13 * HOUR
    asking.at("/ocsp", CA.respond(leaf, status=REVOKED, this_update=NOW + HOUR, next_update=NOW + 96 * HOUR))
    chain = [der(leaf), der(CA.certificate)]
    at_once = asking.status.of(chain, b"", 5)
    assert isinstance(at_once, Answer)
    assert at_once.status == "good"
    now = lambda: asking.status.of(chain, b"", 5)  # noqa: E731
    await until(lambda: isinstance(found := now(), Answer) and found.status == "revoked", "the new answer counts")
    assert asking.questions == ["/ocsp"] * 2


async def test_an_old_response_takes_no_revocation_back(asking: Asking) -> None:
    """Who has stolen a certificate staples what its CA said before it was revoked: the newer word counts."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    asking.at("/ocsp", CA.respond(leaf, status=REVOKED, this_update=NOW, next_update=NOW + 96 * HOUR))
    assert (await asking.of(leaf)).status == "revoked"
    asking.time.now += 13 * HOUR
    old = CA.respond(leaf, this_update=NOW - HOUR, next_update=NOW + 96 * HOUR)
    assert (await asking.of(leaf, old)).status == "revoked"


async def test_what_is_remembered_is_bounded(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many servers the last ones are remembered."""
    monkeypatch.setattr(status, "_ANSWERS", 5)
    monkeypatch.setattr(status, "_CHAINS", 5)
    for _ in range(8):
        leaf = CA.leaf()
        assert (await asking.of(leaf, CA.respond(leaf))).status == "good"
    assert len(asking.status._answers) == len(asking.status._chains) == 5


async def test_more_questions_than_can_be_asked(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many certificates are asked about already, one more has no answer, at once; nothing waits in vain."""
    monkeypatch.setattr(status, "_IN_PROGRESS", 2)
    go = threading.Event()
    url = asking.at("/ocsp", lambda _http: go.wait(10) and None)
    waiting = [asyncio.create_task(asking.of(CA.leaf(url))) for _ in range(2)]
    await until(lambda: len(asking.questions) == 2, "two are asked")
    assert (await asyncio.wait_for(asking.of(CA.leaf(url)), 1)).status == "timeout"
    go.set()
    await asyncio.gather(*waiting)


async def test_a_fault_of_ours_is_no_end(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong while asking, a connection hears that the status is unknown, and the log says what it was."""
    monkeypatch.setattr(Check, "ask", lambda *_: _boom())
    assert (await asking.of(CA.leaf())).status == "unknown"
    assert "could not be asked for, unexpectedly: RuntimeError('boom')" in caplog.text


async def _boom() -> Answer:
    raise RuntimeError("boom")


async def test_intermediates_are_asked_about_too(asking: Asking) -> None:
    """A good certificate of a CA that was revoked is revoked."""
    inner = Authority(private_key("inner"), "inner CA")
    constraints = x509.BasicConstraints(True, None)
    url = asking.at("/root.crl", b"")
    between = CA.leaf(name="inner CA", key=inner.key, lists=[url], extensions=[constraints])
    leaf = inner.leaf()
    asking.at("/root.crl", CA.list_revoked(between.serial_number))
    answer = await asking.of(leaf, inner.respond(leaf), above=[between])
    assert answer.status == "revoked"
    assert answer.words.startswith("the certificate of its CA CN=inner CA is revoked since")


async def test_a_list_is_asked_where_there_is_no_responder(asking: Asking) -> None:
    """A CA that has no responder any more has lists: whoever is in one is revoked, others are good, after one look."""
    url = asking.at("/ca.crl", b"")
    good, bad = CA.leaf(lists=[url]), CA.leaf(lists=[url])
    asking.at("/ca.crl", CA.list_revoked(1, bad.serial_number, 2))
    assert (await asking.of(good)).status == "good"
    answer = await asking.of(bad)
    assert answer.status == "revoked"
    assert answer.words.endswith(f"says the CRL {url}")
    assert asking.questions == ["/ca.crl"]


async def test_a_list_steps_in_for_a_responder(asking: Asking) -> None:
    """Where the responder is no help the certificate's list is."""
    leaf = CA.leaf("http://127.0.0.1:1/", lists=[asking.at("/ca.crl", CA.list_revoked())])
    assert (await asking.of(leaf)).status == "good"


async def test_who_names_nobody(asking: Asking) -> None:
    """A certificate that names nobody is of unknown status, unless it is too short-lived for anybody to be asked."""
    assert (await asking.of(CA.leaf())).status == "unknown"
    short = CA.leaf(start=NOW - HOUR, end=NOW + 24 * 6 * HOUR)
    assert (await asking.of(short)).status == "good"
    says_so = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00")
    assert (await asking.of(CA.leaf(extensions=[says_so]))).status == "good"


async def test_what_is_no_chain(asking: Asking) -> None:
    """Certificates that do not follow from each other name nobody whom we would ask."""
    leaf = CA.leaf(asking.at("/ocsp", b""))
    stranger = Authority(private_key("other")).certificate
    assert (await asking.whole([leaf, stranger])).status == "unknown"
    assert isinstance(found := asking.status.of([b"no certificate"], b"", 5), Answer)
    assert found.status == "unknown"
    assert asking.questions == []


async def test_a_certificate_that_is_its_own_root(asking: Asking) -> None:
    """What the operator trusts as it is needs no word of anybody."""
    assert (await asking.whole([CA.certificate])).status == "good"


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "ldap://127.0.0.1/", "http:///", "http://127.0.0.1:0/", "http://127.0.0.1/a b", "http://ü/"],
)
async def test_urls_that_are_not_followed(asking: Asking, url: str) -> None:
    """Only http is gone after, and only what is a URL."""
    try:
        leaf = CA.leaf(url)
    except ValueError:
        return  # no certificate can carry it
    assert (await asking.of(leaf)).words == (
        "whether its certificate is revoked is not known: it names neither an OCSP responder nor a CRL with http"
    )


@pytest.mark.parametrize(
    "host", ["127.0.0.2", "[::1]", "169.254.169.254", "0.0.0.0", "[::ffff:127.0.0.2]", "2130706434", "0x7f.2"]
)
async def test_a_certificate_leads_to_no_denied_address(asking: Asking, host: str) -> None:
    """The addresses that clients may not reach are not reached for a certificate's sake either."""
    port = asking.web.url.rpartition(":")[2].removesuffix("/ocsp")
    answer = await asking.of(CA.leaf(f"http://{host}:{port}/ocsp"))
    assert answer.status == "unknown"
    assert "is denied by" in answer.words
    assert asking.questions == []
