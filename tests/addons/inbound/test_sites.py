"""Which site a client means."""

from __future__ import annotations

import pytest

from addons.inbound.sites import Site, Sites
from addons.upstream.stated import Upstream
from hsm.errors import MisconfiguredError


def _site(*names: str, default: bool = False) -> Site:
    return Site(names, Upstream(tls=True), None, default)  # type: ignore[arg-type]  # nobody connects here


SHOP, WILD, OTHER = _site("shop.example.com"), _site("*.shop.example.com"), _site("other.example.com", default=True)


@pytest.mark.parametrize(
    ("sni", "expected"),
    [
        ("shop.example.com", SHOP),
        ("SHOP.Example.Com", SHOP),
        ("shop.example.com.", SHOP),
        ("www.shop.example.com", WILD),
        ("a.www.shop.example.com", None),
        ("example.com", None),
        ("com", None),
        ("bad name", None),
        ("xn--", None),
        ("", None),
        (None, None),
    ],
)
def test_the_sni_picks_the_site(sni: str | None, expected: Site | None) -> None:
    """A client gets the site whose name it asks for, by its exact name or by a wildcard for one label; else none."""
    assert Sites([SHOP, WILD]).find(sni) is expected


@pytest.mark.parametrize("sni", ["nobody.example.com", "bad name", "", None])
def test_the_default_site_takes_the_rest(sni: str | None) -> None:
    """A client that asks for no site of ours gets the default site, where one is configured."""
    assert Sites([SHOP, OTHER]).find(sni) is OTHER


def test_an_exact_name_beats_a_wildcard() -> None:
    """A site of its own name is not shadowed by another's wildcard."""
    exact = _site("www.shop.example.com")
    for sites in ([exact, WILD], [WILD, exact]):
        assert Sites(sites).find("www.shop.example.com") is exact


def test_claims_that_collide_are_refused() -> None:
    """Two sites of one name, or two defaults, are an operator's mistake and not a matter of order."""
    with pytest.raises(MisconfiguredError, match=r"two sites have the name shop\.example\.com"):
        Sites([SHOP, _site("x.example.com", "shop.example.com")])
    with pytest.raises(MisconfiguredError, match="both the default"):
        Sites([OTHER, _site("y.example.com", default=True)])


@pytest.mark.parametrize(
    ("upstream", "text"),
    [
        (Upstream(tls=True, address=("10.0.0.5", 443)), "https://10.0.0.5:443"),
        (Upstream(tls=False, address=("::1", 80)), "http://[::1]:80"),
        (Upstream(tls=True), "https://(original destination)"),
    ],
)
def test_an_upstream_says_where_it_is(upstream: Upstream, text: str) -> None:
    """What the operator reads of a site's server is how it was written."""
    assert str(upstream) == text
