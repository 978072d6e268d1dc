"""What a site's server reads of the client, and what a client cannot make it read."""

from __future__ import annotations

import ipaddress

import pytest
from mitmproxy import http

from addons.inbound.settings import Forwarded, Style
from addons.inbound.told import forget, tell

_PROXIES = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "2001:db8::/32")))


def _told(style: Style, address: str, *said: tuple[str, str], host: str | None = "shop.example") -> dict[str, str]:
    headers = http.Headers([(name.encode(), value.encode()) for name, value in said])
    tell(headers, Forwarded(style, _PROXIES), address, host, [])
    return dict(headers.items(multi=False))


def test_a_server_reads_where_the_client_is() -> None:
    """Address, scheme and host, as most servers look for them."""
    assert _told("x-forwarded", "192.0.2.7") == {
        "X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("address", "host", "element"),
    [
        ("192.0.2.7", "shop.example", "for=192.0.2.7;host=shop.example;proto=https"),
        ("::ffff:192.0.2.7", None, "for=192.0.2.7;proto=https"),
        ("2001:db8:1::7", "shop.example:8443", 'for="[2001:db8:1::7]";host="shop.example:8443";proto=https'),
        ("fe80::1%eth0", 'a"\\b', 'for="[fe80::1]";host="a\\"\\\\b";proto=https'),
    ],
)
def test_the_standard_field(address: str, host: str | None, element: str) -> None:
    """RFC 7239, with quotes where it wants them."""
    headers = http.Headers()
    tell(headers, Forwarded("rfc7239"), address, host, [])
    assert dict(headers.items()) == {"Forwarded": element}


@pytest.mark.parametrize("style", ["x-forwarded", "rfc7239"])
@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "x_forwarded_for", "X-Forwarded_Proto", "x-forwarded-host", "X.Forwarded.Port", "Forwarded",
     "FORWARDED", "X-Real-IP", "x_real_ip", "X-Forwarded-Client-Cert"],
)  # fmt: skip
def test_a_client_cannot_say_it(style: Style, name: str) -> None:
    """Whatever spelling a server would read as one of these fields: what a stranger writes there is gone."""
    assert "6.6.6.6" not in str(_told(style, "192.0.2.7", (name, "6.6.6.6"), (name, "6.6.6.6")))


def test_a_trusted_proxy_is_believed() -> None:
    """What it says of its client stays, and it comes behind; of what it does not say we tell what we see."""
    said = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "7.7.7.7"), ("X-Forwarded-Proto", "http")]
    assert _told("x-forwarded", "10.1.2.3", *said) == {
        "X-Forwarded-For": "6.6.6.6, 7.7.7.7, 10.1.2.3", "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "shop.example",
    }  # fmt: skip
    told = _told("rfc7239", "2001:db8::1", ("Forwarded", "for=6.6.6.6"), host=None)
    assert told == {"Forwarded": 'for=6.6.6.6, for="[2001:db8::1]";proto=https'}


def test_off_changes_nothing() -> None:
    """A site that wants neither gets what the client wrote, but for a certificate that it did not show."""
    said = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    assert _told("off", "192.0.2.7", *said.items(), ("Client-Cert", ":AAAA:")) == said


@pytest.mark.parametrize("style", ["x-forwarded", "rfc7239", "off"])
def test_a_certificate_is_never_claimed(style: Style) -> None:
    """Not by a proxy that is trusted either: it did not show it to us."""
    assert "AAAA" not in str(_told(style, "10.1.2.3", ("client_cert", ":AAAA:"), ("Client-Cert-Chain", ":AAAA:")))


def test_connection_options_take_nothing_away() -> None:
    """A client that names one of these fields in Connection does not have it dropped behind us."""
    told = _told("x-forwarded", "192.0.2.7", ("Connection", "close, X-Forwarded-For, Client-Cert, x-forwarded-proto"))
    assert told["Connection"] == "close"
    assert "Connection" not in _told("rfc7239", "192.0.2.7", ("Connection", "forwarded"))


def test_trailers_claim_nothing() -> None:
    """The same in fields behind the body, of a client that is not trusted."""
    for address, left in (("192.0.2.7", {"X-Sum": "1"}), ("10.1.2.3", {"X-Sum": "1", "x-forwarded-for": "6.6.6.6"})):
        trailers = http.Headers([(b"X-Sum", b"1"), (b"x-forwarded-for", b"6.6.6.6"), (b"client-cert", b":AAAA:")])
        forget(trailers, Forwarded("x-forwarded", _PROXIES), address)
        assert dict(trailers.items()) == left
