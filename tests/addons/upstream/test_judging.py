"""Servers between their handshake and their use: in our layer, with real handshakes, as a worker judges them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy import tls
from mitmproxy.proxy import commands, events, mode_specs
from mitmproxy.proxy.layers.tls import TlsEstablishedServerHook, TlsFailedServerHook
from mitmproxy.test import taddons
from OpenSSL import SSL

from addons.edge.refusal import EdgeRefusedHook
from addons.modes import InboundMode
from addons.policy.settings import Accept, Profile
from addons.records.connections import facts_of
from addons.upstream.judge import Status
from addons.upstream.judging import Issuers, Judging, Statuses, show
from addons.upstream.layer import ServerTls
from addons.upstream.tls import UpstreamTls
from tests.addons.edge.driver import Driver, arrived
from tests.addons.policy.demanding import demanding
from tests.addons.tls.ends import Listening, accepting, step
from tests.addons.upstream.chains import BETWEEN, FAULTS, ROOT, Shown, shown
from tests.addons.upstream.test_judge import CLASSES, HOST, all_of
from tests.addons.upstream.test_judge import accepting as accepted

_HYBRID = (0x11EC, 29)


class _Proxy(Driver):
    """Our layer, opposite a server that shows something. `leaf` is still to be chosen, or was shown for this server, or
    for another one."""

    def __init__(
        self, server: Shown, profile: Profile, roots: Path, *, leaf: str = "to come", judging: Judging | None = None,
        accepts: Sequence[Accept] = (), settings: SSL.Context | None = None, groups: Sequence[int] = (),
        mode: str = "regular", **options: object,
    ) -> None:  # fmt: skip
        settings = settings or SSL.Context(SSL.TLS_SERVER_METHOD)
        settings.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        settings.use_privatekey(server.key)
        settings.use_certificate(server.chain[0])
        for one in server.chain[1:]:
            settings.add_extra_chain_cert(one)
        self.server = accepting(settings)
        tctx = taddons.context(UpstreamTls(judging=judging))
        tctx.options.update(ssl_verify_upstream_trusted_ca=str(roots), **options)
        self.context = arrived(tctx, port=443)
        client = self.context.client
        client.proxy_mode = InboundMode.parse(mode) if mode != "regular" else mode_specs.ProxyMode.parse(mode)
        client.tls = True
        if leaf != "to come":
            client.timestamp_tls_setup = time.time()
            of, _, kind = leaf.partition(":")
            address = self.context.server.address if of == "this" else ("elsewhere.example", 443)
            show(client, address, kind)  # type: ignore[arg-type]
        demanding(client, profile, accepts)
        self.facts = facts_of(client)
        self.facts.groups = tuple(groups)
        self.context.server.sni = HOST
        layer = ServerTls(self.context)
        layer.child_layer = self.inside = Listening(self.context)
        self._told = 0
        self.waiting: list[tuple[commands.StartHook, Awaitable[None]]] = []
        super().__init__(layer, tctx)
        for _ in range(3):
            self.turn()

    def turn(self) -> None:
        """What was said is heard, and answered."""
        said = self.sent(self.context.server)[self._told :]
        self._told += len(said)
        if said:
            self.server.bio_write(said)
        data = step(self.server)
        if data:
            self.tell(events.DataReceived(self.context.server, data))

    @property
    def goes_on(self) -> bool:
        """Whether the server is used."""
        established, failed = self.of(TlsEstablishedServerHook), self.of(TlsFailedServerHook)
        assert len(established) + len(failed) == 1
        closed = self.context.server in {one.connection for one in self.of(commands.CloseConnection)}
        assert closed is bool(failed)
        assert self.context.server.tls_established is bool(established)
        return bool(established)

    @property
    def failed_as(self) -> str:
        assert self.facts.failure is None or self.facts.failure.side == "server"
        return self.facts.failure.kind if self.facts.failure else ""


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """The one root."""
    (tmp_path / "roots.pem").write_bytes(ROOT.pem)
    return tmp_path / "roots.pem"


@pytest.mark.parametrize("word", ["block", "untrusted", "allow"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_faulty_server_is_used_or_not(roots: Path, fault: str, word: str) -> None:
    """What is blocked is asked for nothing, and its class and OpenSSL's cause and depth are among the facts."""
    proxy = _Proxy(shown(fault, HOST), all_of(word), roots)
    assert proxy.goes_on is (word != "block")
    assert proxy.failed_as == (CLASSES[fault][1] if word == "block" else "")
    verification = proxy.facts.server_leg.verification
    assert verification is not None
    assert verification.code != 0
    assert verification.depth == 0
    if word == "block":
        assert CLASSES[fault][2].split(" (")[0] in str(proxy.context.server.error)


async def test_a_good_server_costs_no_second_look(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenSSL has nothing to say, nobody else judges."""
    monkeypatch.setattr("addons.upstream.judging.judge", lambda *_, **__: pytest.fail("it was judged"))
    proxy = _Proxy(shown("", HOST), Profile(), roots)
    assert proxy.goes_on
    assert proxy.facts.server_leg.verification is not None
    assert proxy.facts.server_leg.verification.code == 0


# who can be shown that a server is not trusted


@pytest.mark.parametrize(
    ("leaf", "goes_on"),
    [
        ("to come", True),
        ("this:untrust", True),
        ("this:trust", False),
        ("other:untrust", False),
        ("other:trust", False),
    ],
)
@pytest.mark.parametrize("fault", ["untrusted", "expired"])
async def test_an_untrusted_server_is_for_who_was_shown_so(roots: Path, fault: str, leaf: str, goes_on: bool) -> None:
    """A later connection is judged as the first one was, or refused: no leaf that was shown vouches for less."""
    assert _Proxy(shown(fault, HOST), all_of("untrusted"), roots, leaf=leaf).goes_on is goes_on


@pytest.mark.parametrize("leaf", ["this:trust", "other:trust"])
async def test_what_is_allowed_is_allowed_to_all(roots: Path, leaf: str) -> None:
    """A fault that is none to the operator is none on later connections."""
    assert _Proxy(shown("expired", HOST), all_of("allow"), roots, leaf=leaf).goes_on


@pytest.mark.parametrize("fault", ["untrusted", "expired"])
@pytest.mark.parametrize(("leaf", "goes_on"), [("to come", True), ("this:trust", False), ("other:trust", True)])
async def test_ssl_insecure_makes_untrusted_of_what_is_blocked(
    roots: Path, fault: str, leaf: str, goes_on: bool
) -> None:
    """What mitmproxy's option means: everything is inspected, and nothing of it vouched for."""
    proxy = _Proxy(shown(fault, HOST), all_of("block"), roots, leaf=leaf, ssl_insecure=True)
    assert proxy.goes_on is goes_on


async def test_a_server_of_our_own_sites_is_verified_as_ever(roots: Path) -> None:
    """Our sites' clients see our own certificates: there is nothing to show them that a server is not trusted by."""
    assert not _Proxy(shown("untrusted", HOST), all_of("untrusted"), roots, mode="inbound:0@127.0.0.1:1").goes_on
    assert _Proxy(shown("", HOST), all_of("untrusted"), roots, mode="inbound:0@127.0.0.1:1").goes_on


# exceptions


async def test_a_pinned_server_is_used_and_another_is_not(roots: Path) -> None:
    """By its key, whatever the profile says, and on later connections, too."""
    server = shown("self-signed", HOST)
    accept = [accepted(server)]
    for leaf in ("to come", "this:trust"):
        assert _Proxy(server, all_of("block"), roots, leaf=leaf, accepts=accept).goes_on
        other = _Proxy(shown("self-signed", HOST), all_of("allow"), roots, leaf=leaf, accepts=accept)
        assert not other.goes_on
        assert other.failed_as == "server-self-signed"


# what others know


class _Known(Issuers, Statuses):
    """Knows of `above` and `status`, at once or after a while."""

    def __init__(self, above: Sequence[x509.Certificate] = (), status: Status = "good", *, waits: bool = False) -> None:
        self._above, self._status, self._waits = above, status, waits
        self.asked: list[object] = []

    async def above(self, certificate: x509.Certificate) -> Sequence[x509.Certificate]:
        self.asked.append(certificate)
        if self._waits:
            await asyncio.sleep(0)
        return self._above

    def of(self, chain: Sequence[bytes], staple: bytes, within_s: float) -> Status | Awaitable[Status]:
        self.asked.append((len(chain), staple, within_s))
        return self._later() if self._waits else self._status

    async def _later(self) -> Status:
        await asyncio.sleep(0)
        return self._status


def _judged(server: Shown, profile: Profile, roots: Path, known: _Known) -> tuple[tls.TlsData, Awaitable[None] | None]:
    """A server behind its handshake, and what is to be waited for."""
    judging = Judging(issuers=known, statuses=known)
    noted: list[tls.TlsData] = []
    real = judging.judge

    def later(data: tls.TlsData) -> None:
        noted.append(data)

    judging.judge = later  # type: ignore[assignment, method-assign]
    _Proxy(server, profile, roots, judging=judging)
    return noted[0], real(noted[0])


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(("above", "outcome"), [((BETWEEN.certificate,), "trust"), ((), "untrust")])
async def test_a_chain_is_completed_where_that_can_be_had(
    roots: Path, above: Sequence[x509.Certificate], outcome: str, waits: bool
) -> None:
    """Who has the certificate that the server forgot is asked for it, and the chain is verified once more."""
    known = _Known(above, waits=waits)
    data, waiting = _judged(shown("incomplete chain", HOST), Profile(), roots, known)
    assert waiting is not None
    await waiting
    judgement = data.ssl_conn.judgement  # type: ignore[union-attr]
    assert judgement.outcome == outcome
    assert judgement.kind == (None if above else "server-incomplete-chain")
    assert known.asked[1:] == ([(3, b"", 1.0)] if above else [])


async def test_nobody_is_asked_for_what_the_profile_does_not_want(roots: Path) -> None:
    """`incomplete_chain = "untrusted"` fetches nothing, and what did not verify has no status."""
    known = _Known((BETWEEN.certificate,))
    data, waiting = _judged(shown("incomplete chain", HOST), all_of("untrusted"), roots, known)
    assert waiting is None
    assert data.ssl_conn.judgement.outcome == "untrust"  # type: ignore[union-attr]
    assert known.asked == []


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(
    ("status", "outcome"), [("good", "trust"), ("revoked", "block"), ("unknown", "trust"), ("timeout", "trust")]
)
async def test_a_revoked_server_is_blocked(roots: Path, status: Status, outcome: str, waits: bool) -> None:
    """By the built-in profile; of what nothing is known is allowed."""
    data, waiting = _judged(shown("", HOST), Profile(), roots, _Known(status=status, waits=waits))
    assert (waiting is not None) is waits
    if waiting is not None:
        await waiting
    assert data.ssl_conn.judgement.outcome == outcome  # type: ignore[union-attr]


# what a server wants of us, and what it knows


def _wanting(verdict: int = SSL.VERIFY_PEER) -> SSL.Context:
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    made.set_verify(verdict, lambda *_: True)
    return made


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("wish", ["block", "bypass", "without"])
async def test_a_server_that_wants_a_certificate(roots: Path, wish: str, version: int) -> None:
    """It is asked for nothing where it is blocked, and it has proved who it is: its page comes under the trust CA."""
    settings = _wanting()
    settings.set_min_proto_version(version)
    settings.set_max_proto_version(version)
    proxy = _Proxy(shown("", HOST), Profile(client_certificate=wish), roots, settings=settings)
    assert proxy.goes_on is (wish == "without")
    if wish != "without":
        assert proxy.failed_as == "server-wants-client-certificate"
        assert [one.data.kind for one in proxy.of(EdgeRefusedHook)] == ["server-wants-client-certificate"]
        made = proxy.of(TlsFailedServerHook)[0].data.ssl_conn
        assert made.judgement.proved  # type: ignore[union-attr]


@pytest.mark.parametrize("word", ["log", "block"])
@pytest.mark.parametrize(("groups", "theirs"), [(_HYBRID, "P-256"), (_HYBRID, ""), ((29,), "P-256")])
async def test_a_key_exchange_of_less_than_the_client_offered(
    roots: Path, word: str, groups: Sequence[int], theirs: str
) -> None:
    """A hybrid group of the client's that the server's leg does not have is noted, or ends the connection."""
    settings = SSL.Context(SSL.TLS_SERVER_METHOD)
    if theirs:
        settings.set_tmp_ecdh(ec.SECP256R1())
    proxy = _Proxy(shown("", HOST), Profile(pq_downgrade=word), roots, settings=settings, groups=groups)  # type: ignore[arg-type]
    lesser = bool(theirs) and groups == _HYBRID
    assert proxy.facts.pq_downgrade is lesser
    assert proxy.goes_on is not (lesser and word == "block")
    assert proxy.failed_as == ("no-common-group" if lesser and word == "block" else "")


# versions and suites


@pytest.mark.parametrize(
    ("profile", "version", "ciphers", "kind"),
    [
        (Profile(), SSL.TLS1_VERSION, "", "no-common-version"),
        (Profile(versions="1.3"), SSL.TLS1_2_VERSION, "", "no-common-version"),
        (Profile(versions="1.2"), SSL.TLS1_3_VERSION, "", "no-common-version"),
        (Profile(versions="1.0-1.3"), SSL.TLS1_VERSION, "", ""),
        (Profile(versions="1.2"), SSL.TLS1_2_VERSION, "", ""),
        (Profile(), SSL.TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA", "no-common-cipher"),
        (Profile(suites="compatible"), SSL.TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA", ""),
        (Profile(suites=["ECDHE-ECDSA-AES128-SHA"]), SSL.TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA", ""),
        (Profile(suites=["ECDHE-ECDSA-AES128-SHA"]), SSL.TLS1_2_VERSION, "ECDHE-ECDSA-AES256-SHA", "no-common-cipher"),
    ],
)
async def test_a_profile_says_which_versions_and_suites_are_spoken(
    roots: Path, profile: Profile, version: int, ciphers: str, kind: str
) -> None:
    """A server that has none of them fails with a class and a sentence that says where to look."""
    settings = SSL.Context(SSL.TLS_SERVER_METHOD)
    settings.set_min_proto_version(version)
    settings.set_max_proto_version(version)
    if ciphers:
        settings.set_cipher_list(ciphers.encode() + b":@SECLEVEL=0")
        settings.set_cipher_list = lambda _: None  # type: ignore[method-assign]
    proxy = _Proxy(shown("", HOST), profile, roots, settings=settings)
    assert proxy.failed_as == kind
    assert proxy.goes_on is (not kind)
    if kind:
        assert "a profile's" in str(proxy.context.server.error)


async def test_an_option_holds_where_the_profile_says_nothing(roots: Path) -> None:
    """mitmproxy's own options of old files mean what they meant."""
    for options in ({"tls_version_server_min": "TLS1_3"}, {}):
        settings = SSL.Context(SSL.TLS_SERVER_METHOD)
        settings.set_max_proto_version(SSL.TLS1_2_VERSION)
        assert _Proxy(shown("", HOST), Profile(), roots, settings=settings, **options).goes_on is (not options)
