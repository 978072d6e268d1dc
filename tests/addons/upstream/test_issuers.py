"""addons/upstream/issuers.py: servers that forgot an intermediate, and CAs that keep it on a web server of loopback."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.errands import OUTSIDE, Errands
from addons.edge.connecting.resolver import Resolver
from addons.revocation import named
from addons.revocation.servers import Servers
from addons.upstream import issuers, repeated
from addons.upstream.issuers import Certificates, Issuers
from addons.upstream.repeated import Roots
from tests.addons.revocation.asking import NOT_FOUND, errands
from tests.addons.revocation.ocsp_responder import (
    Authority,
    Responder,
    der,
    private_key,
    respond_with,
    responding,
)
from tests.addons.revocation.stapled import CA
from tests.waiting import until


@pytest.fixture
def web() -> Iterator[Responder]:
    """A web server whose places a test fills."""
    with responding() as one:
        one.answer = NOT_FOUND
        yield one


class Pki:
    """A root, CAs below it in a row, and a server of the last; each names where the certificate above it is."""

    def __init__(self, web: Responder, directory: Path, *, depth: int = 1) -> None:
        self.web = web
        self.places: dict[str, bytes] = {}
        web.answer = self._answer
        (directory / "roots.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
        self.roots = Roots(file=str(directory / "roots.pem"))
        self.issuers = Issuers(Servers(errands()))
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
        self.server = above.leaf(issuers=[self.url(f"/{depth - 1}.crt")])

    def url(self, path: str) -> str:
        """Of a place of the web server."""
        return self.web.url.removesuffix("/ocsp") + path

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        body = self.places.get(http.path)
        (NOT_FOUND if body is None else respond_with(body))(http)

    def above(self, *sent: x509.Certificate, near: str = "127.0.0.1") -> Certificates | Awaitable[Certificates]:
        """What is found above the last of `sent`, a server's chain."""
        enough = functools.partial(repeated.leads, sent, roots=self.roots)
        return self.issuers.above(sent, near, enough)

    async def found(self, *sent: x509.Certificate, near: str = "127.0.0.1") -> Certificates:
        """The same, when it is there."""
        above = self.above(*sent, near=near)
        return above if isinstance(above, tuple) else await above

    async def verifies(self, *sent: x509.Certificate) -> bool:
        """Whether the chain leads to the root, with what is found."""
        return repeated.leads(sent, await self.found(*sent), self.roots)

    @property
    def asked(self) -> list[str]:
        """The places that were asked for."""
        return [path for path, _, _ in self.web.asked]


async def test_a_forgotten_intermediate(web: Responder, tmp_path: Path) -> None:
    """A server that sends its own certificate alone is verified with the intermediate that this one names; the root is
    not fetched, and the next connection finds all at hand."""
    pki = Pki(web, tmp_path)
    assert await pki.found(pki.server) == tuple(pki.between)
    assert repeated.leads([pki.server], pki.between, pki.roots)
    assert pki.above(pki.server) == tuple(pki.between)
    assert pki.asked == ["/0.crt"]


async def test_several_are_missing(web: Responder, tmp_path: Path) -> None:
    """Several in a row are fetched one after the other; not those that the server has sent, in whatever order."""
    pki = Pki(web, tmp_path, depth=3)
    assert await pki.found(pki.server) == tuple(pki.between)
    assert pki.asked == ["/2.crt", "/1.crt", "/0.crt"]
    pki.issuers = Issuers(Servers(errands()))
    pki.web.asked.clear()
    assert await pki.found(pki.server, CA.leaf(), pki.between[1], pki.between[0]) == tuple(pki.between[2:])
    assert pki.asked == ["/0.crt"]


async def test_not_more_than_four_are_fetched(web: Responder, tmp_path: Path) -> None:
    """A chain that never ends is left after four."""
    pki = Pki(web, tmp_path, depth=7)
    assert not await pki.verifies(pki.server)
    assert len(pki.asked) == 4


async def test_bundles_and_pem(web: Responder, tmp_path: Path) -> None:
    """The issuer's certificate may come in a PKCS #7 bundle, as RFC 5280 allows, or in PEM, as some have it."""
    pki = Pki(web, tmp_path)
    for encoded in (
        pkcs7.serialize_certificates([CA.certificate, *pki.between], Encoding.DER),
        pki.between[0].public_bytes(Encoding.PEM),
    ):
        pki.issuers = Issuers(Servers(errands()))
        pki.places["/0.crt"] = encoded
        assert await pki.found(pki.server) == tuple(pki.between)


async def test_a_second_place_steps_in(web: Responder, tmp_path: Path) -> None:
    """Where the first place that the certificate names has nothing, the second one is asked."""
    pki = Pki(web, tmp_path)
    server = pki.last.leaf(issuers=[pki.url("/gone.crt"), pki.url("/0.crt"), pki.url("/third.crt")])
    assert await pki.verifies(server)
    assert pki.asked == ["/gone.crt", "/0.crt"]


async def test_a_thousand_connections_fetch_once(web: Responder, tmp_path: Path) -> None:
    """However many clients meet such a server at a time, its CA is asked once."""
    pki = Pki(web, tmp_path)
    found = await asyncio.gather(*(pki.found(pki.server) for _ in range(1000)))
    assert set(found) == {tuple(pki.between)}
    assert pki.asked == ["/0.crt"]


# what is fetched is not trusted


async def test_a_root_that_is_fetched_is_no_root(web: Responder, tmp_path: Path) -> None:
    """A stranger's server that names its own root gets nothing by it, and nobody asks for more."""
    pki, stranger = Pki(web, tmp_path), Authority(private_key("stranger"), "stranger")
    pki.places["/root.crt"] = der(stranger.certificate)
    server = stranger.leaf(issuers=[pki.url("/root.crt")])
    more = await pki.found(server)
    said, _ = repeated.complaints([], [server], more, pki.roots)
    assert [one.code for one in said] == [19]  # X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    assert pki.asked == ["/root.crt"]


async def test_a_namesake_is_no_issuer(web: Responder, tmp_path: Path) -> None:
    """A certificate of the right name with another key is not taken for the issuer's."""
    pki, namesake = Pki(web, tmp_path), Authority(private_key("namesake"), "inner CA 0")
    pki.places["/0.crt"] = der(namesake.certificate)
    assert await pki.found(pki.server) == ()


async def test_a_server_with_its_own_root(web: Responder, tmp_path: Path) -> None:
    """A self-signed certificate lacks nothing: nobody is asked, whatever it names."""
    pki = Pki(web, tmp_path)
    own = Authority(private_key("own"), "own")
    assert pki.above(own.leaf(name="own", key=own.key, issuers=[pki.url("/0.crt")])) == ()
    assert pki.asked == []


# hostile places


async def test_certificates_that_name_each_other(web: Responder, tmp_path: Path) -> None:
    """Two CAs that have certified each other, and lead nowhere else, are fetched once each."""
    pki = Pki(web, tmp_path)
    one, two = (Authority(private_key(name), name) for name in ("one", "two"))
    ca = [x509.BasicConstraints(True, None)]
    by_two = two.leaf(name="one", key=one.key, issuers=[pki.url("/two")], extensions=ca)
    by_one = one.leaf(name="two", key=two.key, issuers=[pki.url("/one")], extensions=ca)
    pki.places |= {"/one": der(by_two), "/two": der(by_one)}
    assert not await pki.verifies(one.leaf(issuers=[pki.url("/one")]))
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
    assert await pki.found(pki.server) == ()
    assert pki.above(pki.server) == ()
    assert pki.asked == ["/0.crt"]


_BUNDLE = pkcs7.serialize_certificates([CA.certificate], Encoding.DER)
_REAL = [der(CA.certificate), CA.certificate.public_bytes(Encoding.PEM), _BUNDLE]


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography's, of what is odd and no more
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*_REAL, b""]), st.binary(max_size=40),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5),
)  # fmt: skip
def test_whatever_comes_is_certificates_or_none(real: bytes, more: bytes, changes: list[tuple[int, int]]) -> None:
    """Noise, and certificates with some bytes changed, are read or are none; what they name is a URL or nothing."""
    data = bytearray(real + more)
    for at, value in changes:
        if data:
            data[at % len(data)] = value
    for one in issuers.certificates(bytes(data)):
        for found in (named.issuers(one), named.responders(one), named.lists(one)):
            assert all(url.startswith("http://") for url in found)
        assert named.is_never_revoked(one) in (True, False)


async def test_a_place_that_says_nothing(web: Responder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that takes its time is left, and the client of the connection is not kept for long."""
    monkeypatch.setattr(issuers, "_FETCH_S", 0.1)
    pki, stop = Pki(web, tmp_path), threading.Event()
    web.answer = lambda _http: stop.wait(10) and None
    try:
        assert await asyncio.wait_for(pki.found(pki.server), 5) == ()
    finally:
        stop.set()


async def test_a_certificate_that_leads_inside(web: Responder, tmp_path: Path) -> None:
    """A server out in the world has us ask no machine of ours, and a later one that is inside may."""
    pki = Pki(web, tmp_path)
    denying = Errands(Resolver(per_client=16, lookup_s=5), Destinations(()))
    pki.issuers = Issuers(Servers(denying))
    for near in ("8.8.8.8", OUTSIDE):
        assert await pki.found(pki.server, near=near) == ()
    assert pki.asked == []
    assert await pki.found(pki.server, near="10.0.0.9") == tuple(pki.between)


async def test_what_is_remembered_is_bounded(web: Responder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the places that strangers' certificates name the last ones are remembered."""
    monkeypatch.setattr(issuers, "_PLACES", 5)
    pki = Pki(web, tmp_path)
    for number in range(8):
        assert await pki.found(pki.last.leaf(issuers=[pki.url(f"/gone-{number}")])) == ()
    assert len(pki.issuers._known) == 5


@pytest.mark.parametrize(("bound", "other"), [("_IN_PROGRESS", "10.0.0.9"), ("_OF_SERVER", "127.0.0.1")])
async def test_more_places_than_can_be_asked(
    web: Responder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, other: str
) -> None:
    """Where too many places are asked already, for all or for this server, there is nothing at one more, at once."""
    monkeypatch.setattr(issuers, bound, 2)
    pki, go = Pki(web, tmp_path), threading.Event()
    web.answer = lambda _http: go.wait(10) and None
    servers = [pki.last.leaf(issuers=[pki.url(f"/{number}")]) for number in range(3)]
    waiting = [asyncio.create_task(pki.found(one)) for one in servers[:2]]
    await until(lambda: len(pki.asked) == 2, "two are asked")
    assert pki.above(servers[2], near=other) == ()
    if bound == "_OF_SERVER":
        waiting.append(asyncio.create_task(pki.found(servers[2], near="10.0.0.9")))
        await until(lambda: len(pki.asked) == 3, "another server's is asked")
    go.set()
    assert set(await asyncio.gather(*waiting)) == {()}
