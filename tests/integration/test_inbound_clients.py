"""Our own sites with real clients: curl, gnutls-cli, Python's ssl, Node, Chromium and OpenSSL's s_client.

Each verifies the site's chain itself. What they negotiate is what they say they did.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_clients import (
    CLIENTS,
    Chromium,
    Http,
    RefusedError,
    Seen,
    Tls,
    Wanted,
    connected,
    context,
    curl,
    fetch,
    gnutls_cli,
    pem_key_type,
    presented,
    python,
    s_client,
)
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.waiting import wait_until

SITES = {"rsa": "RSA-2048", "ec": "P-256", "p384": "P-384", "both": "RSA-2048", "ecfirst": "P-256"}
"""Site -> what a client that can everything gets: the first certificate in the configuration's order."""
BOTH_TLS = pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])


@pytest.fixture(scope="module")
def system(
    softhsm_module: str, origin: OriginThread, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """Three listeners: the sites, two of them without tickets, two of them of which one is the default."""
    with ExitStack() as stack:
        old = stack.enter_context(OriginThread(origin_ca, alpn=("http/1.1",)))
        silent = stack.enter_context(OriginThread(origin_ca, alpn=()))
        plain = stack.enter_context(plain_origin())
        made = InboundSystem.make_inbound(
            tmp_path_factory.mktemp("clients"), upstream_ca=origin_ca.pem, workers="1", handshakes_per_client="1000"
        )
        made.generate(rsa="rsa-2048", ec="p256", p384="p384")
        upstream = f"https://127.0.0.1:{origin.port}"
        made.listener()
        for name in ("rsa", "ec", "p384"):
            made.site(f"{name}.example.com", keys=[name], upstream=upstream)
        made.site("both.example.com", keys=["rsa", "ec"], upstream=upstream)
        made.site("ecfirst.example.com", keys=["ec", "rsa"], upstream=upstream)
        made.site("plain.example.com", keys=["ec"], upstream=f"http://127.0.0.1:{plain}")
        made.site("old.example.com", keys=["ec"], upstream=f"https://127.0.0.1:{old.port}")
        made.site("silent.example.com", keys=["ec"], upstream=f"https://127.0.0.1:{silent.port}")
        made.listener(tickets=False)
        for name in ("rsa", "ec"):
            made.site(f"{name}.example.com", keys=[name], upstream=upstream)
        made.listener()
        made.site("rsa.example.com", keys=["rsa"], upstream=upstream)
        made.site("ec.example.com", keys=["ec"], upstream=upstream, default=True)
        with made:
            yield made


@pytest.fixture(scope="module")
def chromium(system: InboundSystem, tmp_path_factory: pytest.TempPathFactory) -> Chromium:
    """A browser that trusts the sites' root, and was seen to refuse them before."""
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    with pytest.raises(RefusedError, match="ERR_CERT_AUTHORITY_INVALID"):
        browser(wanted(system, "rsa"))
    browser.trust(system.root)
    return browser


def wanted(
    system: InboundSystem, site: str, tls: Tls = "TLSv1.3", http: Http = "http/1.1", listener: int = 0
) -> Wanted:
    """A page of a site of that listener."""
    return Wanted(f"{site}.example.com", system.ports[listener], system.root, tls, http)


def hello(page: Wanted) -> str:
    """What the origin answers."""
    return f"{page.authority} says hello over TLS, path {page.path}\n"


# the matrix


@pytest.mark.parametrize("http", ["http/1.1", "h2"])
@BOTH_TLS
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("client", CLIENTS)
def test_client_loads_a_page(system: InboundSystem, client: str, site: str, tls: Tls, http: Http) -> None:
    """Each client gets each site's page, with its certificate, over each version of TLS and HTTP."""
    page = wanted(system, site, tls, http)
    assert CLIENTS[client](page) == Seen(tls, http, SITES[site], hello(page))


@pytest.mark.parametrize(
    ("site", "tls", "http"),
    [("rsa", "TLSv1.3", "h2"), ("ec", "TLSv1.3", "h2"), ("p384", "TLSv1.2", "h2"), ("both", "TLSv1.2", "http/1.1")],
)
def test_chromium_loads_a_page(system: InboundSystem, chromium: Chromium, site: str, tls: Tls, http: Http) -> None:
    """Chromium shows a site's page once it trusts the root; before that it refuses the certificate."""
    page = wanted(system, site, tls, http)
    assert chromium(page) == Seen(tls, http, SITES[site], hello(page))


@pytest.mark.parametrize(
    ("client", "says"),
    [("curl", r"curl: \(60\)"), ("gnutls-cli", "certificate issuer is unknown"),
     ("python", "unable to get local issuer certificate"), ("node", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY")],
)  # fmt: skip
@BOTH_TLS
def test_client_without_the_root_refuses(system: InboundSystem, client: str, says: str, tls: Tls) -> None:
    """A client that trusts another CA alone refuses the site, so the others did verify."""
    page = Wanted("rsa.example.com", system.port, system.directory / "origin-ca.pem", tls)
    with pytest.raises(RefusedError, match=says):
        CLIENTS[client](page)


# which certificate


@pytest.mark.parametrize(("exchange", "key"), [("RSA", "RSA-2048"), ("ECDSA", "P-256")])
@pytest.mark.parametrize("site", ["both", "ecfirst"])
def test_tls12_suites_choose_the_certificate(system: InboundSystem, site: str, exchange: str, key: str) -> None:
    """With TLS 1.2 a client that can only RSA gets the RSA certificate, one that can only ECDSA the other."""
    page = wanted(system, site, "TLSv1.2")
    assert curl(page, "--ciphers", f"ECDHE-{exchange}-AES256-GCM-SHA384").key == key
    assert gnutls_cli(page, priority=f":-KX-ALL:+ECDHE-{exchange}").key == key
    tls = context(page)
    tls.set_ciphers(f"ECDHE-{exchange}-CHACHA20-POLY1305")
    with connected(page, tls) as connection:
        assert presented(connection) == key


@pytest.mark.parametrize(
    ("algorithms", "key"), [("rsa_pss_rsae_sha256", "RSA-2048"), ("ecdsa_secp256r1_sha256", "P-256")]
)
@BOTH_TLS
@pytest.mark.parametrize("site", ["both", "ecfirst"])
def test_signature_algorithms_choose_the_certificate(
    system: InboundSystem, site: str, tls: Tls, algorithms: str, key: str
) -> None:
    """A client whose signature algorithms are of one kind gets the certificate of that kind."""
    page = wanted(system, site, tls)
    done = s_client(page, "-sigalgs", algorithms)
    assert "Verify return code: 0 (ok)" in done.stdout, done.stderr
    assert pem_key_type(done.stdout) == key
    assert hello(page) in done.stdout


def test_dhe(system: InboundSystem) -> None:
    """A TLS 1.2 client that offers nothing but DHE-RSA is served on an RSA site."""
    page = wanted(system, "rsa", "TLSv1.2")
    done = s_client(page, "-cipher", "DHE-RSA-AES256-GCM-SHA384")
    assert "Cipher is DHE-RSA-AES256-GCM-SHA384" in done.stdout, done.stderr
    assert re.search(r"Server Temp Key: DH, (\d+) bits", done.stdout)[1] >= "2048"  # type: ignore[index]
    assert "Verify return code: 0 (ok)" in done.stdout
    assert hello(page) in done.stdout


# ALPN


@pytest.mark.parametrize(("site", "protocol"), [("old", "http/1.1"), ("silent", ""), ("plain", "http/1.1")])
@BOTH_TLS
def test_alpn_is_the_servers(system: InboundSystem, site: str, protocol: str, tls: Tls) -> None:
    """A client that offers h2 and http/1.1 gets what the server behind speaks, and none where it says nothing."""
    page = wanted(system, site, tls, "h2")
    seen = curl(page)
    assert (seen.alpn, "/page" in seen.body) == (protocol, True)
    with connected(page, context(page, "h2", "http/1.1")) as connection:
        assert (connection.selected_alpn_protocol() or "") == protocol


@BOTH_TLS
def test_client_without_alpn(system: InboundSystem, tls: Tls) -> None:
    """A client that offers no protocol is served over HTTP/1.1, without ALPN."""
    page = wanted(system, "rsa", tls)
    seen = curl(page, "--no-alpn")
    assert seen == Seen(tls, "", "RSA-2048", hello(page))


@pytest.mark.parametrize("client", ["gnutls-cli", "python", "node"])  # curl always offers http/1.1 as well
def test_alpn_without_common_protocol(system: InboundSystem, client: str) -> None:
    """A client that speaks h2 alone gets the alert no_application_protocol from a site that cannot (RFC 7301)."""
    with pytest.raises(RefusedError, match=r"(?i)no[_ ]application[_ ]protocol|\[120\]"):
        CLIENTS[client](wanted(system, "plain", http="h2"))


# names


@pytest.mark.parametrize("client", CLIENTS)
@BOTH_TLS
def test_unknown_name(system: InboundSystem, client: str, tls: Tls) -> None:
    """A client that asks for no site of ours is told so: unrecognized_name."""
    with pytest.raises(RefusedError, match=r"(?i)unrecognized[_ ]name|\[112\]"):
        CLIENTS[client](wanted(system, "nobody", tls))


@BOTH_TLS
def test_no_name(system: InboundSystem, tls: Tls) -> None:
    """A client that asks for no name at all is told the same."""
    page = wanted(system, "rsa", tls)
    assert "SSL alert number 112" in s_client(page, "-noservername").stderr
    with pytest.raises(RefusedError, match=r"\[112\]"):
        gnutls_cli(page, "--disable-sni")


@pytest.mark.parametrize("name", ["nobody.example.com", None, "ec.example.com"])
@BOTH_TLS
def test_default_site(system: InboundSystem, name: str | None, tls: Tls) -> None:
    """Where a site is the default, clients that ask for an unknown name, or for none, get that site."""
    page = wanted(system, "ec", tls, listener=2)
    made = context(page)
    made.check_hostname = False  # the chain is verified all the same
    with (
        socket.create_connection(("127.0.0.1", page.port), timeout=20) as plain,
        made.wrap_socket(plain, server_hostname=name) as connection,
    ):
        subject = dict(pair for part in connection.getpeercert()["subject"] for pair in part)  # type: ignore[index, misc]
        assert subject["commonName"] == "ec.example.com"
        assert fetch(page, connection.sendall, lambda: connection.recv(65536)) == hello(page)
    assert python(wanted(system, "rsa", tls, listener=2)).key == "RSA-2048"


# resumption


def signatures(system: InboundSystem) -> float:
    """Made so far, but for the HSM's own tests."""
    return system.status().counters["signatures"]


def visit(page: Wanted, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bool, ssl.SSLSession]:
    """One request. Whether its session was resumed, and one for the next."""
    with connected(page, tls, session=session) as connection:
        assert fetch(page, connection.sendall, lambda: connection.recv(65536)) == hello(page)
        assert connection.version() == page.tls
        made = connection.session
        assert made is not None
        return bool(connection.session_reused), made


@pytest.mark.parametrize("site", ["rsa", "ec"])
@BOTH_TLS
def test_resumption(system: InboundSystem, site: str, tls: Tls) -> None:
    """A client that comes back resumes its session, again and again, and the HSM signs once for all of it."""
    page = wanted(system, site, tls)
    made = context(page)
    before = signatures(system)
    reused, session = visit(page, made)
    assert not reused
    assert signatures(system) == before + 1
    for _ in range(5):
        reused, session = visit(page, made, session)
        assert reused
    assert signatures(system) == before + 1


@BOTH_TLS
def test_resumption_by_another_process(system: InboundSystem, tls: Tls, tmp_path: Path) -> None:
    """A session that openssl wrote to a file is resumed from there, without a signature."""
    page = wanted(system, "rsa", tls)
    first = s_client(page, "-sess_out", tmp_path / "session")
    assert f"New, {tls}, Cipher is" in first.stdout, first.stderr
    before = signatures(system)
    second = s_client(page, "-sess_in", tmp_path / "session")
    assert f"Reused, {tls}, Cipher is" in second.stdout, second.stderr
    assert hello(page) in second.stdout
    assert signatures(system) == before


@BOTH_TLS
def test_resumption_at_another_site(system: InboundSystem, tls: Tls) -> None:
    """A session of one site is no ticket into another, which signs with its own key."""
    page = wanted(system, "rsa", tls)
    made = context(page)
    _, session = visit(page, made)
    before = signatures(system)
    reused, _ = visit(wanted(system, "ec", tls), made, session)
    assert not reused
    assert signatures(system) == before + 1


@pytest.mark.parametrize("site", ["rsa", "ec"])
@BOTH_TLS
def test_without_tickets_nothing_is_resumed(system: InboundSystem, site: str, tls: Tls) -> None:
    """On a listener with tickets = false no session is offered, one from elsewhere is not taken, and all is signed."""
    page = wanted(system, site, tls, listener=1)
    before = signatures(system)
    for _ in range(3):
        made = context(page)
        with connected(page, made) as connection:
            assert fetch(page, connection.sendall, lambda c=connection: c.recv(65536)) == hello(page)  # type: ignore[misc]
            assert not (connection.session and connection.session.has_ticket)
        with connected(page, made, session=connection.session if tls == "TLSv1.2" else None) as again:
            assert not again.session_reused
    assert signatures(system) == before + 6
    made = context(page)
    _, ticket = visit(wanted(system, site, tls), made)
    with connected(page, made, session=ticket) as elsewhere:
        assert not elsewhere.session_reused
    assert signatures(system) == before + 8


@pytest.fixture(scope="module")
def pair(
    softhsm_module: str, origin: OriginThread, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InboundSystem]:
    """Two workers."""
    made = InboundSystem.make_inbound(
        tmp_path_factory.mktemp("pair"), upstream_ca=origin_ca.pem, workers="2", handshakes_per_client="1000"
    )
    made.generate(rsa="rsa-2048")
    made.listener()
    made.site("rsa.example.com", keys=["rsa"], upstream=f"https://127.0.0.1:{origin.port}")
    with made:
        yield made


@BOTH_TLS
def test_any_worker_resumes(pair: InboundSystem, tls: Tls) -> None:
    """A session that one worker made is resumed by the other one, without a signature."""
    page = wanted(pair, "rsa", tls)
    made = context(page)
    with connected(page, made) as connection:
        first = serving_worker(pair, connection)
        assert fetch(page, connection.sendall, lambda: connection.recv(65536)) == hello(page)
        session = connection.session
    before = signatures(pair)

    def resumed_elsewhere() -> bool:
        with connected(page, made, session=session) as again:
            assert again.session_reused
            return serving_worker(pair, again) != first

    wait_until(resumed_elsewhere, "the other worker gets a connection")
    assert signatures(pair) == before


def serving_worker(system: InboundSystem, connection: socket.socket) -> int:
    """The process at the other end of an established connection."""
    ours = connection.getsockname()[1]
    inode = next(
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(f":{system.port:04X}") and fields[2].endswith(f":{ours:04X}")
    )
    (found,) = [
        pid
        for pid in system.worker_pids()
        for one in Path(f"/proc/{pid}/fd").iterdir()
        if one.is_symlink() and str(one.readlink()) == f"socket:[{inode}]"
    ]
    return found


# many


def test_200_clients_at_once(system: InboundSystem, record_property: Callable[[str, object], None]) -> None:
    """200 clients of two sites and both versions stand connected at once, and each gets its page."""
    pages = [wanted(system, site, tls) for site in ("rsa", "ec") for tls in ("TLSv1.2", "TLSv1.3")]
    contexts = {page: context(page) for page in pages}
    before = signatures(system)
    began = time.monotonic()
    connected_after: list[float] = []

    async def visitor(page: Wanted, everybody: asyncio.Barrier) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", page.port, ssl=contexts[page], server_hostname=page.name
        )
        await everybody.wait()
        connected_after.append(time.monotonic() - began)
        assert writer.get_extra_info("ssl_object").version() == page.tls
        writer.write(f"GET {page.path} HTTP/1.1\r\nHost: {page.authority}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert answer.decode().endswith("\r\n\r\n" + hello(page)), answer
        writer.close()
        await writer.wait_closed()

    async def all_of_them() -> None:
        everybody = asyncio.Barrier(200)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(50):
                for page in pages:
                    group.create_task(visitor(page, everybody))

    asyncio.run(all_of_them())
    whole = time.monotonic() - began
    record_property("seconds", whole)
    print(f"200 clients: all connected after {max(connected_after):.2f} s, all served after {whole:.2f} s")
    assert signatures(system) == before + 200
