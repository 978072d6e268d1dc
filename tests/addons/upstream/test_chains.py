"""addons/upstream/chains.py: servers that forgot an intermediate, and CAs that keep it on a web server of loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID

from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.errands import Errands
from addons.edge.connecting.resolver import Resolver
from addons.revocation.servers import Servers
from addons.upstream import issuers
from addons.upstream.chains import Chains, Completed
from addons.upstream.issuers import Issuers
from tests.addons.revocation.asking import NOT_FOUND, errands
from tests.addons.revocation.ocsp_responder import (
    HOUR,
    NOW,
    Authority,
    Responder,
    der,
    private_key,
    respond_with,
    responding,
)
from tests.addons.revocation.stapled import CA

NAME = "shop.example.com"
NAMES = x509.SubjectAlternativeName([x509.DNSName(NAME)])


@pytest.fixture
def web() -> Iterator[Responder]:
    """A web server whose places a test fills."""
    with responding() as one:
        one.answer = NOT_FOUND
        yield one


class Pki:
    """A root, CAs below it in a row, and a server of the last; each names where the certificate above it is."""

    def __init__(self, web: Responder, directory: Path, *, depth: int = 1, **leaf: object) -> None:
        self.web = web
        self.places: dict[str, bytes] = {}
        web.answer = self._answer
        (directory / "roots.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
        self.chains = self.towards(str(directory / "roots.pem"))
        above, self.between = CA, list[x509.Certificate]()
        for number in range(depth):
            below = Authority(private_key(f"inner {number}"), f"inner CA {number}")
            below.certificate = above.leaf(
                name=below.name, key=below.key, issuers=[self.url(f"/{number - 1}.crt")],
                extensions=[x509.BasicConstraints(True, None)],
            )  # fmt: skip
            self.places[f"/{number}.crt"] = der(below.certificate)
            self.between.insert(0, below.certificate)
            above = below
        self.last = above
        self.server = above.leaf(issuers=[self.url(f"/{depth - 1}.crt")], **{"extensions": [NAMES]} | leaf)

    def url(self, path: str) -> str:
        """Of a place of the web server."""
        return self.web.url.removesuffix("/ocsp") + path

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        body = self.places.get(http.path)
        (NOT_FOUND if body is None else respond_with(body))(http)

    @staticmethod
    def towards(roots: str) -> Chains:
        """What a worker has, with these roots."""
        return Chains(Issuers(Servers(errands().connect)), roots)

    async def completed(
        self, sent: Sequence[x509.Certificate], name: str = NAME, near: str = "127.0.0.1"
    ) -> Completed | None:
        """What becomes of what a server has sent."""
        found = self.chains.completed([der(one) for one in sent], name, near)
        return found if found is None or isinstance(found, Completed) else await found

    @property
    def asked(self) -> list[str]:
        """The places that were asked for."""
        return [path for path, _, _ in self.web.asked]


async def test_a_forgotten_intermediate(web: Responder, tmp_path: Path) -> None:
    """A server that sends its own certificate alone is verified with the intermediate that this one names; the next
    connection finds it at hand."""
    pki = Pki(web, tmp_path)
    found = await pki.completed([pki.server])
    assert found is not None
    assert found.verification.code == 0
    assert found.certificates == tuple(map(der, (pki.server, *pki.between, CA.certificate)))
    assert pki.asked == ["/0.crt"]
    assert isinstance(pki.chains.completed([der(pki.server)], NAME, "127.0.0.1"), Completed)
    assert pki.asked == ["/0.crt"]


async def test_several_are_missing(web: Responder, tmp_path: Path) -> None:
    """Several in a row are fetched one after the other, those that the server has sent are not."""
    pki = Pki(web, tmp_path, depth=3)
    found = await pki.completed([pki.server, pki.between[1]])
    assert found is not None
    assert found.verification.code == 0
    assert pki.asked == ["/2.crt", "/0.crt"]


async def test_not_more_than_four_are_fetched(web: Responder, tmp_path: Path) -> None:
    """A chain that never ends is left after four."""
    pki = Pki(web, tmp_path, depth=7)
    assert await pki.completed([pki.server]) is None
    assert len(pki.asked) == 4


async def test_bundles_and_pem(web: Responder, tmp_path: Path) -> None:
    """The issuer's certificate may come in a PKCS #7 bundle, as RFC 5280 allows, or in PEM, as some have it."""
    for encoded in (
        pkcs7.serialize_certificates([CA.certificate, *Pki(web, tmp_path).between], Encoding.DER),
        Pki(web, tmp_path).between[0].public_bytes(Encoding.PEM),
    ):
        pki = Pki(web, tmp_path)
        # The same name and key as those in the bundle.
        pki.places["/0.crt"] = encoded
        found = await pki.completed([pki.server])
        assert found is not None
        assert found.verification.code == 0


async def test_a_thousand_connections_fetch_once(web: Responder, tmp_path: Path) -> None:
    """However many clients meet such a server at a time, its CA is asked once."""
    pki = Pki(web, tmp_path)
    found = await asyncio.gather(*(pki.completed([pki.server]) for _ in range(1000)))
    assert all(one is not None and one.verification.code == 0 for one in found)
    assert pki.asked == ["/0.crt"]


# what is fetched is not trusted


async def test_a_root_that_is_fetched_is_no_root(web: Responder, tmp_path: Path) -> None:
    """A stranger's server that names its own root gets nothing by it."""
    pki, stranger = Pki(web, tmp_path), Authority(private_key("stranger"), "stranger")
    pki.places["/root.crt"] = der(stranger.certificate)
    assert await pki.completed([stranger.leaf(issuers=[pki.url("/root.crt")], extensions=[NAMES])]) is None
    assert pki.asked == ["/root.crt"]


async def test_a_namesake_is_no_issuer(web: Responder, tmp_path: Path) -> None:
    """A certificate of the right name with another key is not taken for the issuer's."""
    pki, namesake = Pki(web, tmp_path), Authority(private_key("namesake"), "inner CA 0")
    pki.places["/0.crt"] = der(namesake.certificate)
    assert await pki.completed([pki.server]) is None


async def test_a_server_with_its_own_root(web: Responder, tmp_path: Path) -> None:
    """A self-signed certificate lacks nothing: nobody is asked, whatever it names."""
    pki = Pki(web, tmp_path)
    own = Authority(private_key("own"), "own")
    self_signed = own.leaf(name="own", key=own.key, issuers=[pki.url("/0.crt")])
    assert await pki.completed([self_signed]) is None
    assert pki.asked == []


@pytest.mark.parametrize(
    ("leaf", "name", "code"),
    [
        ({}, "other.example.com", 62),
        ({}, "192.0.2.7", 64),
        ({"extensions": [x509.SubjectAlternativeName([x509.IPAddress(ip_address("192.0.2.7"))])]}, "192.0.2.7", 0),
        ({"start": NOW - 48 * HOUR, "end": NOW - 24 * HOUR}, NAME, 10),
        ({"extensions": [NAMES, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])]}, NAME, 26),
    ],
)
async def test_other_faults_stay(web: Responder, tmp_path: Path, leaf: dict[str, Any], name: str, code: int) -> None:
    """A chain that was completed is verified as any other: name, time and purpose (X509_V_ERR_* of x509_vfy.h)."""
    pki = Pki(web, tmp_path, **leaf)
    found = await pki.completed([pki.server], name)
    assert found is not None
    assert found.verification.code == code
    again = await pki.completed([pki.server], NAME)  # one question's name is not the next one's
    assert again is not None
    assert again.verification.code == (0 if not leaf else 62 if "192.0.2.7" in name else code)


# hostile places


async def test_certificates_that_name_each_other(web: Responder, tmp_path: Path) -> None:
    """Two CAs that have certified each other, and lead nowhere else, are fetched once each."""
    pki = Pki(web, tmp_path)
    one, two = (Authority(private_key(name), name) for name in ("one", "two"))
    ca = [x509.BasicConstraints(True, None)]
    by_two = two.leaf(name="one", key=one.key, issuers=[pki.url("/two")], extensions=ca)
    by_one = one.leaf(name="two", key=two.key, issuers=[pki.url("/one")], extensions=ca)
    pki.places |= {"/one": der(by_two), "/two": der(by_one)}
    assert await pki.completed([one.leaf(issuers=[pki.url("/one")], extensions=[NAMES])]) is None
    assert pki.asked == ["/one", "/two"]


def _endless(http: BaseHTTPRequestHandler) -> None:
    http.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        http.wfile.write(bytes(65536))


def _byte_by_byte(http: BaseHTTPRequestHandler) -> None:
    http.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        http.wfile.write(b"1\r\nx\r\n")


_NO_CERTIFICATES = [*map(respond_with, (b"", b"\x30\x03abc", b"-----BEGIN CERTIFICATE", bytes(1 << 20)))]


def _elsewhere(http: BaseHTTPRequestHandler) -> None:
    http.send_response(301)
    http.send_header("Location", f"http://{http.headers['Host']}/other.crt")
    http.end_headers()


@pytest.mark.parametrize("answer", [_endless, _byte_by_byte, _elsewhere, NOT_FOUND, *_NO_CERTIFICATES])
async def test_places_that_have_no_certificate(
    web: Responder, tmp_path: Path, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    """Whatever comes instead of a certificate is left soon, and for a minute nobody asks there again."""
    pki = Pki(web, tmp_path)
    web.answer = answer
    assert await pki.completed([pki.server]) is None
    assert pki.chains.completed([der(pki.server)], NAME, "127.0.0.1") is None
    assert pki.asked == ["/0.crt"]


async def test_a_place_that_says_nothing(web: Responder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that takes its time is left, and the client of the connection is not kept for long."""
    monkeypatch.setattr(issuers, "_FETCH_S", 0.1)
    pki, stop = Pki(web, tmp_path), threading.Event()
    web.answer = lambda _http: stop.wait(10) and None
    try:
        assert await asyncio.wait_for(pki.completed([pki.server]), 5) is None
    finally:
        stop.set()


async def test_a_certificate_that_leads_inside(web: Responder, tmp_path: Path) -> None:
    """A server out in the world has us ask no machine of ours, and a later one that is inside may."""
    pki = Pki(web, tmp_path)
    denying = Errands(Resolver(per_client=16, lookup_s=5), Destinations(()))
    pki.chains = Chains(Issuers(Servers(denying.connect)), str(tmp_path / "roots.pem"))
    assert await pki.completed([pki.server], near="8.8.8.8") is None
    assert pki.asked == []
    assert await pki.completed([pki.server], near="10.0.0.9") is not None


async def test_what_a_server_sends_may_be_anything(web: Responder, tmp_path: Path) -> None:
    """Nothing, no certificates, and ten of the same name and many keys end in no answer, soon."""
    pki = Pki(web, tmp_path)
    assert pki.chains.completed([], NAME, "127.0.0.1") is None
    assert pki.chains.completed([b"none"], NAME, "127.0.0.1") is None
    same = [Authority(private_key(f"same {number}"), "inner CA 0").certificate for number in range(20)]
    found = await pki.completed([pki.server, *same])
    assert found is not None  # the right one, which was fetched
    assert found.verification.code == 0
