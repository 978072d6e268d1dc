"""What a worker needs to know of our own sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from addons.inbound.settings import ListenerSettings, ServerAddress, SiteCertificate, SiteSettings
from addons.tls.protocol import Protocol


@pytest.mark.parametrize(
    ("text", "tls", "host", "port"),
    [
        ("https://10.0.0.5:8443", True, "10.0.0.5", 8443),
        ("https://backend.internal", True, "backend.internal", 443),
        ("http://backend", False, "backend", 80),
        ("http://[::1]:8080/", False, "::1", 8080),
    ],
)
def test_an_upstream(text: str, tls: bool, host: str, port: int) -> None:
    """A server is written as a URL, its port by default that of the scheme."""
    assert ServerAddress.parse(text) == ServerAddress(tls, host, port)


@pytest.mark.parametrize("text", ["10.0.0.5:443", "ftp://10.0.0.5", "https://host/path", "https://host:0"])
def test_what_is_no_upstream(text: str) -> None:
    """A server that cannot be meant is refused, with how one is written."""
    with pytest.raises(ValueError, match="is no upstream; write https://host:port or http://host:port"):
        ServerAddress.parse(text)


def test_a_site_is_called_by_its_first_name() -> None:
    """Messages name a site as the operator does first."""
    site = SiteSettings(names=("a.example", "b.example"), certificates=(SiteCertificate(Path("a.pem")),))
    assert site.title == "a.example"


def test_a_listeners_defaults_are_the_careful_ones() -> None:
    """What an operator does not say of versions and ciphers is what `Protocol` has: they stand once."""
    listener = ListenerSettings(place="127.0.0.1:443", sites=())
    assert Protocol(listener.minimum, listener.maximum, listener.ciphers) == Protocol()
