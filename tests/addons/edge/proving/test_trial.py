"""Servers behind a bypass are asked for their certificate, over TLS 1.2 and 1.3, and what is wrong with it counts."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import connection
from mitmproxy.proxy import mode_specs

from addons.edge.proving.probe import Finding, Question
from addons.edge.proving.trial import shake
from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Accept, Policy, Probe, Profile
from addons.records.connections import facts_of
from addons.records.facts import Decision, Facts
from addons.upstream.judge import spki_sha256
from tests.addons.edge.hellos import hello
from tests.addons.edge.listeners.far import TIME_S, Far, connect, drained
from tests.addons.edge.listeners.passing import Choose, Passing
from tests.addons.edge.proving.showing import Showing
from tests.addons.upstream.faulty import ROOT, shown
from tests.waiting import wait_until

HOST = "bank.example"
_VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
_REFUSED = {
    "expired": "server-expired",
    "not yet valid": "server-expired",
    "untrusted": "server-untrusted",
    "self-signed": "server-self-signed",
    "wrong name": "server-name",
    "RSA-1024": "server-weak-key",
    "wrong EKU": "server-untrusted",
}


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """The one root."""
    (tmp_path / "roots.pem").write_bytes(ROOT.pem)
    return tmp_path / "roots.pem"


@pytest.fixture
def far() -> Iterator[Far]:
    """A server that a test has in its own hands."""
    with Far() as made:
        yield made


def _policy(probe: Probe = "before", profile: Profile | None = None, accepts: tuple[Accept, ...] = ()) -> Compiled:
    return compiled(Policy(probe=probe), {"wanted": profile or Profile()}, accepts)


def bypassing(policy: Compiled) -> Choose:
    """Whatever it is, it is not opened, and this is in force."""

    def choose(facts: Facts) -> Decision:
        facts.policy, facts.policy_version = policy, policy.version
        return Decision("everything", "bypass", profile="wanted")

    return choose


def _client(policy: Compiled, mode: mode_specs.ProxyMode | None = None) -> connection.Client:
    made = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)
    made.proxy_mode = mode or made.proxy_mode
    facts = facts_of(made)
    facts.decision = bypassing(policy)(facts)
    return made


def _question(port: int, name: str = HOST, *, named: bool = True) -> Question:
    return Question("127.0.0.1", port, name, named, ("http/1.1",), "wanted", "")


def _found(roots: Path, port: int, *, policy: Compiled | None = None, name: str = HOST, named: bool = True) -> Finding:
    """What a handshake of the proxy's own finds."""

    async def look() -> Finding:
        return await shake(_client(policy or _policy()), _question(port, name, named=named))

    with Passing(ssl_verify_upstream_trusted_ca=str(roots)) as proxy:
        found = proxy.ask(look)
        wait_until(lambda: not proxy.listeners.limits.servers, "nothing is left of it")
        return found


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("fault", ["", *_REFUSED])
def test_what_is_wrong_is_found(roots: Path, tmp_path: Path, fault: str, version: ssl.TLSVersion) -> None:
    """A good server proves its name, and none with a fault does, whatever it speaks."""
    with Showing(shown(fault, HOST), tmp_path, version) as server:
        found = _found(roots, server.port)
    assert found.kind == _REFUSED.get(fault)
    assert found.proved is not bool(fault)
    assert HOST in found.sentence if fault else not found.sentence
    assert server.seen == [HOST]


def test_what_a_profile_allows_proves_nothing(roots: Path, tmp_path: Path) -> None:
    """A site whose expired certificate is allowed goes on, and its certificate is still no proof of a name."""
    with Showing(shown("untrusted", HOST), tmp_path) as server:
        found = _found(roots, server.port, policy=_policy(profile=Profile(untrusted="allow")))
    assert (found.kind, found.proved) == (None, False)


def test_an_accepted_key_proves_its_host(roots: Path, tmp_path: Path) -> None:
    """The one broken certificate that an operator has accepted is that host's, and another's is not."""
    server_shows = shown("self-signed", HOST)
    one = Accept(host=HOST, spki_sha256=spki_sha256(server_shows.chain[0]), reason="x", expires=dt.date(2999, 1, 1))
    with Showing(server_shows, tmp_path) as server:
        found = _found(roots, server.port, policy=_policy(accepts=(one,)))
    assert (found.kind, found.proved) == (None, True)
    with Showing(shown("self-signed", HOST), tmp_path) as server:
        found = _found(roots, server.port, policy=_policy(accepts=(one,)))
    assert (found.kind, found.proved) == ("server-self-signed", False)


@pytest.mark.parametrize("version", _VERSIONS)
def test_a_server_that_wants_a_client_certificate_is_no_worse(
    roots: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """It is the client's own certificate that it will get: we have none, and see what we want to see."""
    with Showing(shown("", HOST), tmp_path, version, wants=True) as server:
        found = _found(roots, server.port)
    assert (found.kind, found.proved) == (None, True)


def test_who_has_named_nobody_expects_no_name(roots: Path, tmp_path: Path) -> None:
    """A client without SNI at an address looks for no name in the certificate; the rest of it is looked at."""
    with Showing(shown("", HOST), tmp_path) as server:
        found = _found(roots, server.port, name="127.0.0.1", named=False)
        assert (found.kind, found.proved) == (None, False)
        assert _found(roots, server.port, name="127.0.0.1").kind == "server-name"
    with Showing(shown("expired", HOST), tmp_path) as server:
        assert _found(roots, server.port, name="127.0.0.1", named=False).kind == "server-expired"


def test_where_nobody_listens(roots: Path, far: Far) -> None:
    """A server that is not reached is told so, and is no proof of anything."""
    far.socket.close()
    found = _found(roots, far.port)
    assert (found.kind, found.proved) == ("connect-failed", False)
    assert "Connection refused" in found.sentence


def test_a_server_that_speaks_no_tls(roots: Path, far: Far) -> None:
    """Nor is one that has other words."""

    def speak() -> None:
        with far.socket.accept()[0] as one:
            one.sendall(b"220 mail.example ESMTP\r\n")
            drained(one)

    thread = threading.Thread(target=speak)
    thread.start()
    found = _found(roots, far.port)
    thread.join(TIME_S)
    assert found.kind is not None
    assert not found.proved


def test_through_a_parent_proxy(roots: Path, tmp_path: Path) -> None:
    """Where another proxy connects, it is asked to connect the handshake, too."""

    async def look() -> Finding:
        mode = mode_specs.ProxyMode.parse(f"upstream:http://127.0.0.1:{parent.port}")
        return await shake(_client(_policy(), mode), _question(server.port))

    with Passing() as parent, Showing(shown("", HOST), tmp_path) as server:
        with Passing(ssl_verify_upstream_trusted_ca=str(roots)) as proxy:
            assert proxy.ask(look).proved
        assert len(parent.handlers) == 1


# --- in front of a bypass ---------------------------------------------------------------------------------------------


def _tunnel(proxy: Passing, server: Showing, version: ssl.TLSVersion) -> ssl.SSLSocket:
    """A client that looks at nothing."""
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    careless.minimum_version = careless.maximum_version = version
    return careless.wrap_socket(connect(proxy, server.port, begun=b""), server_hostname=HOST)


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("fault", ["", "expired", "untrusted", "wrong name"])
def test_before_a_client_gets_there(roots: Path, tmp_path: Path, fault: str, version: ssl.TLSVersion) -> None:
    """No byte of a client's reaches a server whose certificate is bad; a good one is asked once."""
    policy = _policy("before")
    with Showing(shown(fault, HOST), tmp_path, version) as server:
        with Passing(bypassing(policy), ssl_verify_upstream_trusted_ca=str(roots)) as proxy:
            for _ in range(2):
                if fault:
                    with pytest.raises(ssl.SSLError, match="access denied"):
                        _tunnel(proxy, server, version)
                else:
                    with _tunnel(proxy, server, version) as client:
                        client.sendall(b"hello")
                        assert client.recv(5) == b"hello"
        assert server.seen == ([HOST] if fault else [HOST] * 3)
    assert [one.failure.kind if one.failure else None for one in proxy.facts] == [_REFUSED.get(fault)] * 2
    assert {one.event for one in proxy.facts} == {"failed" if fault else "bypassed"}
    assert all(one.server_leg.verification for one in proxy.facts)
    assert fault or all(one.server_leg.certificate for one in proxy.facts)


@pytest.mark.parametrize("fault", ["", "expired"])
def test_beside_a_client(roots: Path, tmp_path: Path, fault: str) -> None:
    """A client is passed at once, and cut as soon as its server's certificate is known to be bad."""
    policy = _policy("beside")
    with (
        Showing(shown(fault, HOST), tmp_path) as server,
        Passing(bypassing(policy), ssl_verify_upstream_trusted_ca=str(roots)) as proxy,
    ):
        raw = connect(proxy, server.port, begun=hello(HOST))
        with raw:
            wait_until(lambda: len(server.seen) == 2, "both have come")
            if fault:
                drained(raw)
                wait_until(lambda: proxy.facts, "it is cut")
    assert [one.failure.kind if one.failure else None for one in proxy.facts] == [_REFUSED.get(fault)]


def test_off(roots: Path, tmp_path: Path) -> None:
    """Nobody is asked for anything."""
    policy = _policy("off")
    with Showing(shown("expired", HOST), tmp_path) as server:
        with Passing(bypassing(policy), ssl_verify_upstream_trusted_ca=str(roots)) as proxy:
            _tunnel(proxy, server, ssl.TLSVersion.TLSv1_3).close()
        assert server.seen == [HOST]
