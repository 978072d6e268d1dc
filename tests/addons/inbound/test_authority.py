"""Whom a request is for, against the site that its connection was made for."""

from __future__ import annotations

import pytest
from mitmproxy import http
from mitmproxy.test.tutils import treq

from addons.inbound.authority import host, stranger
from addons.inbound.sites import Site, Sites
from addons.upstream.stated import Upstream


def _site(*names: str, default: bool = False) -> Site:
    return Site(names, Upstream(tls=True), None, default)  # type: ignore[arg-type]  # nobody connects here


OPEN, GUARDED = _site("open.example.com", "*.open.example.com"), _site("guarded.example.com")
SITES = Sites([OPEN, GUARDED])
FALLBACK = _site("fallback.example.com", default=True)


def _request(*hosts: str, authority: str = "") -> http.Request:
    return treq(authority=authority.encode(), headers=http.Headers([(b"Host", one.encode()) for one in hosts]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open.example.com", "open.example.com"),
        ("OPEN.example.com:443", "open.example.com"),
        ("open.example.com.:8443", "open.example.com"),
        ("open.example.com:", "open.example.com"),
        ("10.0.0.1:443", "10.0.0.1"),
        ("[::1]:443", "::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
    ],
)
def test_an_authority_in_any_spelling_is_one_host(text: str, expected: str) -> None:
    """Case, a trailing dot and a port make no other site of it."""
    assert host(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", ":443", "user@open.example.com", "open.example.com:x", "open.example.com:999999", "open.example.com/x",
     "a b", "open.example.com\x00", "open.example.com,guarded.example.com", "*.open.example.com", "::1", "[::1", "[x]",
     "guarded%2eexample.com", "guarded.example.com?x", "guarded.example.com#", "guarded。example.com", "a" * 100_000],
)  # fmt: skip
def test_what_is_no_authority_is_refused(text: str) -> None:
    """A server might read another host in it than we do."""
    with pytest.raises(ValueError, match=r"."):
        host(text)
    assert stranger(_request(text), OPEN, SITES) is not None


@pytest.mark.parametrize(
    "request_",
    [
        _request("open.example.com"),
        _request("OPEN.EXAMPLE.COM:8443"),
        _request("www.open.example.com"),
        _request(authority="open.example.com:443"),
        _request("open.example.com", authority="open.example.com"),
    ],
)
def test_a_request_for_the_site_itself_passes(request_: http.Request) -> None:
    """Whatever names the connection's own site, and a name of it beside the one in the SNI, is served."""
    assert stranger(request_, OPEN, SITES) is None


@pytest.mark.parametrize(
    "request_",
    [
        _request("guarded.example.com"),
        _request("GUARDED.example.com:443"),
        _request("guarded.example.com."),
        _request("open.example.com", "guarded.example.com"),
        _request("guarded.example.com", "open.example.com"),
        _request("open.example.com", authority="guarded.example.com"),
        _request("guarded.example.com", authority="open.example.com"),
        _request("stranger.example.net"),
        _request("127.0.0.1"),
        _request(),
    ],
)
def test_a_request_for_another_site_does_not(request_: http.Request) -> None:
    """One place out of all that names another site, or a request that names none where there are several, is enough."""
    assert stranger(request_, OPEN, SITES) is not None


def test_the_default_site_serves_what_no_other_site_is() -> None:
    """Clients that name the listener's address reach its default site; with another site's name they do not."""
    sites = Sites([OPEN, FALLBACK])
    assert stranger(_request("10.0.0.1"), FALLBACK, sites) is None
    assert stranger(_request("fallback.example.com"), FALLBACK, sites) is None
    assert stranger(_request("open.example.com"), FALLBACK, sites) is not None
    assert stranger(_request("fallback.example.com"), OPEN, sites) is not None


def test_a_request_without_a_host_reaches_the_only_site() -> None:
    """An HTTP/1.0 client of a listener with one site is served: there is no other that it could mean."""
    assert stranger(_request(), OPEN, Sites([OPEN])) is None
