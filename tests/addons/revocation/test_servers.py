"""addons/revocation/servers.py: how often and how many at a time are asked, with a server on loopback."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from prometheus_client import CollectorRegistry

from addons.edge.connecting.destinations import DENIED, Destinations
from addons.edge.connecting.errands import Errands, Parent
from addons.edge.connecting.resolver import Resolver
from addons.revocation import servers
from addons.revocation.download import NoAnswerError, Wanted
from addons.revocation.servers import NotAskedError, Questions, Servers
from tests.addons.revocation.asking import errands
from tests.addons.revocation.ocsp_responder import Responder, respond_with
from tests.waiting import until


class Clock:
    """One that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def wanted(url: str) -> Wanted:
    """Something at this URL."""
    return Wanted("the OCSP responder", url, 65536, 5, "*/*")


async def fails(asked: Servers, url: str, message: str = "cannot be asked") -> None:
    """The question stays without an answer, for this reason."""
    with pytest.raises(NoAnswerError, match=message):
        await asked.ask(wanted(url))


async def test_who_does_not_answer_is_left_alone() -> None:
    """A server that failed three times in a row is not asked for ten seconds, then twenty, and so on to five minutes;
    other servers are. So a network without a way out holds nobody up."""
    clock, url = Clock(), "http://127.0.0.1:1/a"
    asked = Servers(errands(), clock=clock)
    for _ in range(3):
        await fails(asked, url)
    for pause in (10, 20, 40, 80, 160, 300, 300):
        await fails(asked, "http://127.0.0.1:1/another", "is left alone for now")
        clock.now += pause - 1
        await fails(asked, url, "is left alone for now")
        await fails(asked, "http://127.0.0.1:2/a", "cannot be asked|left alone")
        clock.now += 1
        await fails(asked, url)


async def test_one_answer_makes_up_for_all(responder: Responder) -> None:
    """A server that answers again is asked as ever; an answer that is no good is an answer, too."""
    asked = Servers(errands(), clock=Clock())
    for _ in range(4):
        for _ in range(2):
            responder.answer = lambda http: http.connection.shutdown(2)
            with pytest.raises(ValueError, match="responder"):
                await asked.ask(wanted(responder.url))
        responder.answer = respond_with(b"yes")
        assert await asked.ask(wanted(responder.url)) == b"yes"
    responder.answer = respond_with(b"", 500)
    for _ in range(5):
        with pytest.raises(ValueError, match="HTTP status 500"):
            await asked.ask(wanted(responder.url))


async def test_what_is_denied_is_no_failure() -> None:
    """An address that may not be asked says so each time."""
    asked = Servers(errands())
    for _ in range(5):
        with pytest.raises(
            NotAskedError, match=r"is not asked: 127\.0\.0\.2 is denied by 'loopback' of deny_destinations"
        ):
            await asked.ask(wanted("http://127.0.0.2/"))


@pytest.mark.parametrize("near", ["", "127.0.0.1"])
async def test_four_questions_at_a_time(responder: Responder, near: str) -> None:
    """One server has four questions at a time, and one whose certificates nobody verified has us ask four; others wait
    for their turn, and beyond those there is no answer at once."""
    go, at_once, most = threading.Event(), [0], [0]

    def answer(http: BaseHTTPRequestHandler) -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        assert go.wait(10)
        at_once[0] -= 1
        respond_with(b"yes")(http)

    responder.answer = answer
    asked = Servers(errands())
    asking = [asyncio.create_task(asked.ask(wanted(f"{responder.url}{number}"), near)) for number in range(68)]
    await until(lambda: at_once[0] == 4, "four are asked")
    with pytest.raises(NoAnswerError, match="too many questions"):
        await asked.ask(wanted(responder.url), near)
    go.set()
    assert set(await asyncio.gather(*asking)) == {b"yes"}
    assert most[0] == 4


async def test_who_waited_for_a_turn_does_not_try_in_vain(responder: Responder) -> None:
    """Questions that wait for a server which then does not answer are not tried one after the other."""
    stop = threading.Event()
    responder.answer = lambda _http: stop.wait(10) and None
    asked = Servers(errands())
    slow = Wanted("the OCSP responder", responder.url, 65536, 0.3, "*/*")
    said = await asyncio.gather(*(asked.ask(slow) for _ in range(40)), return_exceptions=True)
    stop.set()
    assert all(isinstance(one, NoAnswerError) for one in said)
    assert len(responder.asked) <= 8
    assert sum("left alone" in str(one) for one in said) >= 32


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many servers that do not answer the last ones are remembered."""
    monkeypatch.setattr(servers, "_REMEMBERED", 5)
    asked = Servers(errands())
    for port in range(1, 9):
        await fails(asked, f"http://127.0.0.1:{port}/")
    assert len(asked._failing) == 5


@pytest.mark.parametrize("authorization", ["", "Basic c2VjcmV0OnNlY3JldA=="])
async def test_another_proxy_in_front(responder: Responder, authorization: str) -> None:
    """Where all goes through another proxy it is asked as a proxy is, with what it wants to hear: so a responder can be
    asked whose name nobody here can look up."""
    host, _, port = responder.url.split("/")[2].partition(":")
    responder.answer = respond_with(b"yes")
    errand = Errands(Resolver(per_client=4, lookup_s=5), Destinations(DENIED), Parent(host, int(port), authorization))
    question = Wanted("the OCSP responder", "http://ocsp.ca.invalid/a?b=c", 65536, 5, "*/*", b"question", "text/plain")
    assert await Servers(errand).ask(question) == b"yes"
    [(path, headers, body)] = responder.asked
    assert (path, body) == ("http://ocsp.ca.invalid/a?b=c", b"question")
    assert headers["host"] == "ocsp.ca.invalid"
    assert headers.get("proxy-authorization", "") == authorization


async def test_questions_are_counted(responder: Responder) -> None:
    """Metrics say how many questions certificates have led to, and what became of them."""
    registry = CollectorRegistry()
    asked = Servers(errands(), Questions(registry).of("status"))
    responder.answer = respond_with(b"", 500)
    with pytest.raises(ValueError, match="HTTP status 500"):
        await asked.ask(wanted(responder.url))
    for _ in range(4):
        await fails(asked, "http://127.0.0.1:1/", "cannot be asked|left alone")
    with pytest.raises(NotAskedError):
        await asked.ask(wanted("http://127.0.0.2/"))
    counted = {
        result: registry.get_sample_value("hsmitm_certificate_questions_total", {"of": "status", "result": result})
        for result in ("answered", "silent", "not-asked")
    }
    assert counted == {"answered": 1, "silent": 3, "not-asked": 2}
