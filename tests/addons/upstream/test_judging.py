"""Servers between their handshake and their use: in our layer, with real handshakes, as a worker judges them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from mitmproxy import connection, tls
from mitmproxy.proxy import commands, events, mode_specs
from mitmproxy.proxy.layers.tls import TlsEstablishedServerHook, TlsFailedServerHook
from mitmproxy.test import taddons
from msgspec import structs
from OpenSSL import SSL, crypto

from addons.edge.connecting.errands import OUTSIDE
from addons.edge.refusal import EdgeRefusedHook
from addons.modes import InboundMode
from addons.policy.settings import Accept, ClientCertificate, Profile
from addons.records.connections import facts_of
from addons.revocation.answers import Answer, Status
from addons.upstream.connection import ServerConnection
from addons.upstream.issuers import Certificates
from addons.upstream.judge import GOOD, Judgement
from addons.upstream.judging import show
from addons.upstream.layer import JudgeServerHook, ServerTls
from addons.upstream.tls import UpstreamTls
from tests.addons.edge.driver import Driver, arrived
from tests.addons.policy.demanding import demanding
from tests.addons.tls.ends import Listening, accepting, step
from tests.addons.upstream.faulty import BETWEEN, FAULTS, ROOT, Shown, shown
from tests.addons.upstream.test_judge import CLASSES, HOST, all_of
from tests.addons.upstream.test_judge import accepting as accepted

_HYBRID = (0x11EC, 29)


def _show_strange(settings: SSL.Context, place: int, der: bytes) -> None:
    """Have a server show what `cryptography` does not read, in place of its own certificate or behind it."""
    lib = SSL._lib  # type: ignore[attr-defined]
    loaded = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    if place == 0:
        assert lib.SSL_CTX_use_certificate(settings._context, loaded._x509) == 1  # type: ignore[attr-defined]
    else:
        lib.X509_up_ref(loaded._x509)  # type: ignore[attr-defined]
        assert lib.SSL_CTX_add_extra_chain_cert(settings._context, loaded._x509) == 1  # type: ignore[attr-defined]


class Proxy(Driver):
    """Our layer, opposite a server that shows something. `leaf` is still to be chosen, or was shown for this server, or
    for another one."""

    def __init__(
        self, server: Shown, profile: Profile, roots: Path, *, leaf: str = "to come", known: Sequence[object] = (),
        upstream: UpstreamTls | None = None, accepts: Sequence[Accept] = (), settings: SSL.Context | None = None,
        certificates: Sequence[ClientCertificate] = (), groups: Sequence[int] = (), mode: str = "regular",
        strange: tuple[int, bytes] | None = None, **options: object,
    ) -> None:  # fmt: skip
        settings = settings or SSL.Context(SSL.TLS_SERVER_METHOD)
        settings.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        settings.use_privatekey(server.key)
        settings.use_certificate(server.chain[0])
        for one in server.chain[1:]:
            settings.add_extra_chain_cert(one)
        if strange is not None:
            _show_strange(settings, *strange)
        self.server = accepting(settings)
        tctx = taddons.context(upstream or UpstreamTls(), *known)
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
        demanding(client, profile, accepts, certificates)
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

    def tell(self, event: events.Event) -> None:
        """As a `Driver`; what has to be waited for is left to the test."""
        waiting = [event]
        while waiting:
            for command in self._outermost.handle_event(waiting.pop(0)):
                if isinstance(command, JudgeServerHook):
                    later = self._tctx.master.addons.get("tlsconfig").judge_server(command.data)
                    if later is not None:
                        self.waiting.append((command, later))
                    else:
                        waiting.append(events.HookCompleted(command))
                elif isinstance(command, commands.StartHook):
                    self._tctx.master.addons.trigger(command)
                    if command.blocking:
                        waiting.append(events.HookCompleted(command))
                if type(command) is commands.CloseConnection:
                    command.connection.state = connection.ConnectionState.CLOSED
                self.commands.append(command)

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
    def refusals(self) -> list[EdgeRefusedHook]:
        """What was refused at the edge."""
        return self.of(EdgeRefusedHook)

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
    proxy = Proxy(shown(fault, HOST), all_of(word), roots)
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
    proxy = Proxy(shown("", HOST), Profile(), roots)
    assert proxy.goes_on
    assert proxy.facts.server_leg.verification is not None
    assert proxy.facts.server_leg.verification.code == 0


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("word", ["block", "untrusted", "allow"])
async def test_a_certificate_that_nobody_can_read_is_refused(
    roots: Path, word: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One of a version that there is not, the server's own or one that it sends along: no traceback, no request."""
    server = shown("untrusted", HOST)
    whole = server.chain[0].public_bytes(Encoding.DER)
    strange = whole.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x6c", 1)
    assert strange != whole
    proxy = Proxy(server, all_of(word), roots, strange=(place, strange))
    assert not proxy.goes_on
    assert proxy.failed_as == "server-untrusted"
    assert "Traceback" not in caplog.text


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
    assert Proxy(shown(fault, HOST), all_of("untrusted"), roots, leaf=leaf).goes_on is goes_on


@pytest.mark.parametrize("leaf", ["this:trust", "other:trust"])
async def test_what_is_allowed_is_allowed_to_all(roots: Path, leaf: str) -> None:
    """A fault that is none to the operator is none on later connections."""
    assert Proxy(shown("expired", HOST), all_of("allow"), roots, leaf=leaf).goes_on


@pytest.mark.parametrize("fault", ["untrusted", "expired"])
@pytest.mark.parametrize(("leaf", "goes_on"), [("to come", True), ("this:trust", False), ("other:trust", True)])
async def test_ssl_insecure_makes_untrusted_of_what_is_blocked(
    roots: Path, fault: str, leaf: str, goes_on: bool
) -> None:
    """What mitmproxy's option means: everything is inspected, and nothing of it vouched for."""
    proxy = Proxy(shown(fault, HOST), all_of("block"), roots, leaf=leaf, ssl_insecure=True)
    assert proxy.goes_on is goes_on


async def test_a_server_of_our_own_sites_is_verified_as_ever(roots: Path) -> None:
    """Our sites' clients see our own certificates: there is nothing to show them that a server is not trusted by."""
    assert not Proxy(shown("untrusted", HOST), all_of("untrusted"), roots, mode="inbound:0@127.0.0.1:1").goes_on
    assert Proxy(shown("", HOST), all_of("untrusted"), roots, mode="inbound:0@127.0.0.1:1").goes_on


async def test_a_proxy_on_the_way_is_verified_whatever_a_rule_allows_of_sites(roots: Path) -> None:
    """It sees the traffic of all clients: no rule about one of their sites makes it one that need not prove itself."""
    tctx = taddons.context(upstream := UpstreamTls())
    tctx.options.update(ssl_verify_upstream_trusted_ca=str(roots))
    made = arrived(tctx, port=443)
    demanding(made.client, all_of("allow", versions="1.0-1.3"))
    parent = connection.Server(address=("parent.example", 3128))
    for server, careful in ((parent, True), (made.server, False)):
        data = tls.TlsData(server, made)
        upstream.tls_start_server(data)
        assert isinstance(data.ssl_conn, ServerConnection)
        wanted = data.ssl_conn.demand
        assert wanted is not None
        assert (wanted.profile.untrusted == "block") is careful
        assert wanted.strict is careful


# exceptions


async def test_a_pinned_server_is_used_and_another_is_not(roots: Path) -> None:
    """By its key, whatever the profile says, and on later connections, too."""
    server = shown("self-signed", HOST)
    accept = [accepted(server)]
    for leaf in ("to come", "this:trust"):
        assert Proxy(server, all_of("block"), roots, leaf=leaf, accepts=accept).goes_on
        other = Proxy(shown("self-signed", HOST), all_of("allow"), roots, leaf=leaf, accepts=accept)
        assert not other.goes_on
        assert other.failed_as == "server-self-signed"


# what others know


class _Issuers:
    """Knows what is above, at once or after a while; `_Status` what became of a certificate."""

    name = "issuers"

    def __init__(self, above: Sequence[x509.Certificate], *, waits: bool) -> None:
        self._above, self._waits = above, waits
        self.asked: list[tuple[int, str, bool]] = []

    def above(
        self, sent: Sequence[x509.Certificate], near: str, enough: Callable[[Sequence[x509.Certificate]], bool]
    ) -> Certificates | Awaitable[Certificates]:
        self.asked.append((len(sent), near, enough(self._above)))
        found = tuple(self._above)
        return later(found) if self._waits else found


class _Status:
    name = "status"

    def __init__(self, answer: Answer, *, waits: bool) -> None:
        self._answer, self._waits = answer, waits
        self.asked: list[tuple[int, bytes, float]] = []

    def of(self, chain: Sequence[bytes], staple: bytes, within_s: float) -> Answer | Awaitable[Answer]:
        self.asked.append((len(chain), staple, within_s))
        return later(self._answer) if self._waits else self._answer


async def later[T](said: T) -> T:
    """What somebody says after a while."""
    await asyncio.sleep(0)
    return said


async def _judged(server: Shown, profile: Profile, roots: Path, *known: _Issuers | _Status) -> Judgement:
    """The judgement on a server, with what is to be waited for."""
    proxy = Proxy(server, profile, roots, known=known)
    if proxy.waiting:
        assert not proxy.of(TlsEstablishedServerHook)
        for hook, waiting in proxy.waiting:
            await waiting
            proxy.tell(events.HookCompleted(hook))
    made = [*proxy.of(TlsEstablishedServerHook), *proxy.of(TlsFailedServerHook)][0].data.ssl_conn
    assert isinstance(made, ServerConnection)
    assert made.judgement is not None
    assert proxy.goes_on is (made.judgement.outcome != "block")
    return made.judgement


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(("above", "outcome"), [((BETWEEN.certificate,), "trust"), ((), "untrust")])
async def test_a_chain_is_completed_where_that_can_be_had(
    roots: Path, above: Sequence[x509.Certificate], outcome: str, waits: bool
) -> None:
    """Who has the certificate that the server forgot is asked for it, and the chain is verified once more."""
    issuers, status = _Issuers(above, waits=waits), _Status(Answer("good", ""), waits=waits)
    judgement = await _judged(shown("incomplete chain", HOST), Profile(), roots, issuers, status)
    assert judgement.outcome == outcome
    assert judgement.kind == (None if above else "server-incomplete-chain")
    assert issuers.asked == [(1, OUTSIDE, bool(above))]
    assert status.asked == ([(3, b"", 1.0)] if above else [])


async def test_nobody_is_asked_for_what_the_profile_does_not_want(roots: Path) -> None:
    """`incomplete_chain = "untrusted"` fetches nothing, and what did not verify has no status."""
    issuers, status = _Issuers((BETWEEN.certificate,), waits=False), _Status(Answer("good", ""), waits=False)
    judgement = await _judged(shown("incomplete chain", HOST), all_of("untrusted"), roots, issuers, status)
    assert judgement.outcome == "untrust"
    assert issuers.asked == status.asked == []


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(
    ("said", "outcome"), [("good", "trust"), ("revoked", "block"), ("unknown", "trust"), ("timeout", "trust")]
)
async def test_a_revoked_server_is_blocked(roots: Path, said: Status, outcome: str, waits: bool) -> None:
    """By the built-in profile; of what nothing is known is allowed, and as good as any."""
    judgement = await _judged(shown("", HOST), Profile(), roots, _Status(Answer(said, "so it is"), waits=waits))
    assert judgement.outcome == outcome
    assert judgement == GOOD if outcome == "trust" else judgement.sentence.endswith("so it is")


@pytest.mark.parametrize(
    ("fault", "asked"),
    [("expired", True), ("wrong name", True), ("untrusted", False), ("self-signed", False), ("wrong EKU", False)],
)
async def test_a_server_with_another_fault_may_be_revoked_besides(roots: Path, fault: str, asked: bool) -> None:
    """A profile that allows the other fault does not allow that; who is vouched for by nobody is not asked about."""
    status = _Status(Answer("revoked", "it is revoked"), waits=False)
    profile = structs.replace(all_of("allow"), revoked="block")
    judgement = await _judged(shown(fault, HOST), profile, roots, status)
    assert judgement.outcome == ("block" if asked else "trust")
    assert judgement.kind != "server-revoked" or asked
    assert bool(status.asked) is asked


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
    proxy = Proxy(shown("", HOST), Profile(client_certificate=wish), roots, settings=settings)
    assert proxy.goes_on is (wish == "without")
    if wish != "without":
        assert proxy.failed_as == "server-wants-client-certificate"
        assert [one.data.kind for one in proxy.of(EdgeRefusedHook)] == ["server-wants-client-certificate"]
        made = proxy.of(TlsFailedServerHook)[0].data.ssl_conn
        assert made.judgement.proved  # type: ignore[union-attr]


async def test_a_server_of_ours_may_ask_for_a_certificate(roots: Path) -> None:
    """Our own sites' servers go on as ever where they ask, and do without."""
    assert Proxy(shown("", HOST), Profile(), roots, settings=_wanting(), mode="inbound:0@127.0.0.1:1").goes_on


@pytest.mark.parametrize("word", ["log", "block"])
@pytest.mark.parametrize(("groups", "theirs"), [(_HYBRID, "P-256"), (_HYBRID, ""), ((29,), "P-256")])
async def test_a_key_exchange_of_less_than_the_client_offered(
    roots: Path, word: str, groups: Sequence[int], theirs: str
) -> None:
    """A hybrid group of the client's that the server's leg does not have is noted, or ends the connection."""
    settings = SSL.Context(SSL.TLS_SERVER_METHOD)
    if theirs:
        settings.set_tmp_ecdh(ec.SECP256R1())
    proxy = Proxy(shown("", HOST), Profile(pq_downgrade=word), roots, settings=settings, groups=groups)  # type: ignore[arg-type]
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
    proxy = Proxy(shown("", HOST), profile, roots, settings=settings)
    assert proxy.failed_as == kind
    assert proxy.goes_on is (not kind)
    if kind:
        assert "a profile's" in str(proxy.context.server.error)


async def test_an_option_holds_where_the_profile_says_nothing(roots: Path) -> None:
    """mitmproxy's own options of old files mean what they meant."""
    for options in ({"tls_version_server_min": "TLS1_3"}, {}):
        settings = SSL.Context(SSL.TLS_SERVER_METHOD)
        settings.set_max_proto_version(SSL.TLS1_2_VERSION)
        assert Proxy(shown("", HOST), Profile(), roots, settings=settings, **options).goes_on is (not options)


@pytest.mark.parametrize("leaf", ["this:trust", "other:trust", "this:untrust"])
async def test_a_scripts_connection_to_a_server_that_is_vouched_for_is_verified(leaf: str) -> None:
    """A script may make the connection to a server as it likes, but not in the place of one that clients trust."""
    tctx = taddons.context(upstream := UpstreamTls())
    made = arrived(tctx, port=443)
    of, _, kind = leaf.partition(":")
    show(made.client, made.server.address if of == "this" else ("elsewhere.example", 443), kind)  # type: ignore[arg-type]
    data = tls.TlsData(made.server, made, SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD)))
    upstream.tls_start_server(data)
    assert data.ssl_conn is not None
    assert data.ssl_conn.get_verify_mode() == (SSL.VERIFY_PEER if leaf == "this:trust" else SSL.VERIFY_NONE)
