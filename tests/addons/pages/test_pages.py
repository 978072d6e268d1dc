"""Pages for connections that are blocked or failed: what they say, to whom, and what they never say."""

from __future__ import annotations

import itertools
import logging
import urllib.parse

import pytest
from mitmproxy import http

from addons.pages.pages import ID, Pages, current
from addons.pages.sentences import KINDS, SAYINGS
from addons.pages.template import Template
from addons.records.facts import Decision, Facts

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def _facts(**known: object) -> Facts:
    facts = Facts(id="7f3a9c1e", began=0, began_monotonic=0, host="bank.example", port=443)
    for name, value in known.items():
        setattr(facts, name, value)
    return facts


def _request(method: str = "GET", **headers: str) -> http.Request:
    return http.Request.make(
        method, "https://bank.example/", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def test_a_person_is_told_what_happened_and_whom_to_ask() -> None:
    """A blocked site's page has one sentence, the host, the rule, an id and a contact."""
    facts = _facts(decision=Decision("no-banks", "block"))
    page = Pages("Help desk, 4711").page(facts, kind="blocked-by-policy", request=_request(accept=CHROME))
    assert page.status_code == 403
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text is not None
    for part in ("bank.example is blocked by the policy", "no-banks", "7f3a9c1e", "Help desk, 4711", "403 Forbidden"):
        assert part in page.text, part
    assert page.headers[ID] == "7f3a9c1e"


def test_the_log_for_people_has_the_id_and_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Who is told an id on the telephone finds it in the log, with what the page did not say."""
    facts = _facts(client_ip="192.0.2.1")
    facts.fail("connect-failed", "server", "10.1.2.3 refuses connections")
    with caplog.at_level(logging.INFO, "hsmitm.pages"):
        Pages().page(facts, kind="connect-failed")
        Pages().page(facts, kind="malformed-response")
    assert caplog.messages == [
        "page 7f3a9c1e for 192.0.2.1 about bank.example: 502, connect-failed: 10.1.2.3 refuses connections",
        "page 7f3a9c1e for 192.0.2.1 about bank.example: 502, malformed-response",
    ]


def test_a_page_is_kept_by_nobody_and_runs_nothing() -> None:
    """A page is not stored, not taken for another type, and no script runs on it."""
    page = Pages().page(_facts(), kind="connect-failed", request=_request(accept=CHROME))
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src")
    assert "script" not in (page.text or "")


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (CHROME, True),
        ("text/html", True),
        ("application/xhtml+xml", True),
        ("TEXT/HTML;level=1", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/plain, text/html;q=0.5", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("text/html; q=0.9, text/plain; q=0.2", True),
        (",;,;;q=", False),
    ],
)
def test_browsers_get_html_and_others_text(accept: str, html: bool) -> None:
    """Who names HTML among what it takes gets it, anybody else plain text with the same words."""
    page = Pages().page(_facts(), kind="dns-failed", request=_request(accept=accept))
    assert page.headers["content-type"].startswith("text/html" if html else "text/plain")
    assert "bank.example was not found" in (page.text or "")
    assert html or (page.text or "").startswith("hsmitm: bank.example was not found")


def test_head_gets_no_content() -> None:
    """HEAD has the head of the page that GET would have, and nothing behind it."""
    whole = Pages().page(_facts(), kind="dns-failed", request=_request())
    head = Pages().page(_facts(), kind="dns-failed", request=_request("HEAD"))
    assert head.raw_content == b""
    assert head.headers["content-length"] == str(len(whole.raw_content or b""))


@pytest.mark.parametrize(
    ("kind", "status"), [("blocked-by-policy", "7"), ("hsm-unavailable", "14"), ("too-slow", "14")]
)
def test_a_grpc_client_gets_a_status_of_its_own(kind: str, status: str) -> None:
    """A gRPC client reads status, sentence and id where it looks for them, and no page."""
    request = _request("POST", content_type="application/grpc+proto", accept=CHROME)
    page = Pages().page(_facts(), kind=kind, request=request)  # type: ignore[arg-type]
    assert (page.status_code, page.raw_content) == (200, b"")
    assert page.headers["content-type"] == "application/grpc+proto"
    assert page.headers["grpc-status"] == status
    said = urllib.parse.unquote(page.headers["grpc-message"])
    assert "bank.example" in said
    assert said.endswith("Id: 7f3a9c1e")
    assert page.headers["grpc-message"].isascii()
    assert page.headers[ID] == "7f3a9c1e"


def test_too_many_names_says_when_to_come_again() -> None:
    """A client over its budget gets 429 with Retry-After."""
    page = Pages().page(_facts(), kind="too-many-names", retry_after_s=1)
    assert (page.status_code, page.headers["retry-after"]) == (429, "1")


SECRET = "LunaHSM2 /usr/lib/libCryptoki2.so partition 'par-17' 10.20.30.40 CKR_DEVICE_ERROR pkcs11:token=x"


def test_no_page_says_what_the_hsm_said() -> None:
    """Whatever an HSM's, a server's or a rule's words are, no page of any kind or form has a word of them."""
    facts = _facts(decision=Decision("hr", "block", reason=SECRET), member="LunaHSM2", destination="10.20.30.40")
    facts.fail("hsm-unavailable", "server", SECRET, SECRET)
    facts.authority = SECRET
    requests = [None, _request(), _request(accept=CHROME), _request("POST", content_type="application/grpc")]
    for kind, request in itertools.product(KINDS, requests):
        page = Pages().page(facts, kind=kind, request=request)
        everything = urllib.parse.unquote(page.text or "") + urllib.parse.unquote(str(page.headers.fields))
        for word in SECRET.split():
            assert word not in everything, (kind, word)


def test_our_own_sites_servers_stay_unnamed() -> None:
    """A page at one of our own sites has the name that the client asked for, never its server's address."""
    facts = _facts(mode="inbound", host="", destination="10.20.30.40", sni="shop.example")
    request = http.Request.make("GET", "https://10.20.30.40/")
    request.headers.clear()
    assert "10.20" not in (Pages().page(facts, kind="connect-failed", request=request).text or "")
    facts.sni = ""
    assert "10.20" not in (Pages().page(facts, kind="connect-failed").text or "")


@pytest.mark.parametrize("host", ["<b>x", "a b onclick=1", "x\r\nSet-Cookie: a=b", 'q"q', "ü" * 300, "a" * 5000])
def test_a_host_is_never_markup(host: str) -> None:
    """A client that asks for a strange host gets no page, and no header, of its own making."""
    request = http.Request.make("GET", "http://x/", headers={"accept": CHROME})
    page = Pages().page(_facts(host=host), kind="malformed-name", request=request)
    text = page.text or ""
    assert host not in text
    assert "onclick=1" not in text
    assert len(text) < 4000
    assert "Set-Cookie" not in page.headers


def test_an_international_name_is_shown_as_certificates_have_it() -> None:
    """A name in another script is shown as A-labels, so that none looks like another."""
    request = http.Request.make("CONNECT", "https://xn--bcher-kva.example:443/", headers={})
    request.host, request.port, request.authority = "bücher.example", 443, "bücher.example:443"
    assert "xn--bcher-kva.example was not found" in (
        Pages().page(_facts(), kind="dns-failed", request=request).text or ""
    )


def test_every_kind_has_a_sentence_and_a_status() -> None:
    """No class of failure is without a page."""
    assert set(SAYINGS) == set(KINDS)
    for kind, saying in SAYINGS.items():
        assert 400 <= saying.status <= 599
        assert Pages().page(_facts(), kind=kind).status_code == saying.status


def test_an_own_template_has_its_values_escaped() -> None:
    """An operator's page shows the values, and a contact with markup in it shows as text."""
    own = Template("<p title='{{host}}'>{{ sentence }} {{id}} {{contact}}")
    page = Pages("<i>a'b", own).page(_facts(), kind="dns-failed", request=_request(accept="text/html"))
    assert "7f3a9c1e &lt;i&gt;a&#x27;b" in (page.text or "")


def test_without_a_worker_there_are_pages_too() -> None:
    """A layer that runs alone has pages without a contact."""
    assert "whoever runs this proxy" in (current().page(_facts(), kind="internal").text or "")
