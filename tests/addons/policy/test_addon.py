"""The policy in the data path: one decision for each connection, asked for by layers and at CONNECT."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mitmproxy import connection, http, tls
from mitmproxy.proxy import commands, events, layers, mode_specs
from mitmproxy.test import taddons, tflow, tutils
from prometheus_client import CollectorRegistry

from addons.edge.connecting.connecting import Connecting
from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.resolver import Found, Resolver
from addons.edge.listeners.client_tls import ClientTls
from addons.edge.refusal import EdgeRefusedHook, Refusals
from addons.edge.settings import Bounds
from addons.policy.addon import PolicyAddon, policy_of, will_decrypt
from addons.policy.asked import Deciding
from addons.policy.settings import From, Profile, Rule, To
from addons.records.connections import facts_of
from addons.records.facts import Facts
from tests.addons.edge.driver import Driver, arrived
from tests.addons.edge.hellos import hello
from tests.addons.policy.policies import policy, rule

ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))


class _Script:
    """A user's, that sees ClientHellos."""

    def __init__(self) -> None:
        self.seen = 0

    def tls_clienthello(self, _data: tls.ClientHelloData) -> None:
        self.seen += 1


class _Client(Driver):
    """A client that asked for a host whose server is connected to, in front of a policy; then its ClientHello."""

    def __init__(self, addon: PolicyAddon, sni: str = "site.test", host: str = "site.test") -> None:
        self.script = _Script()
        tctx = taddons.context(self.script, addon)
        self.context = arrived(tctx, port=443, host=host)
        self.facts.host = host
        outermost = layers.ServerTLSLayer(self.context)
        outermost.child_layer = ClientTls(self.context, Bounds())
        super().__init__(outermost, tctx)
        self.tell(events.DataReceived(self.context.client, hello(sni)))

    @property
    def facts(self) -> Facts:
        return facts_of(self.context.client)

    @property
    def decided(self) -> tuple[str, str]:
        """Rule and action, once they hold."""
        assert self.facts.decided
        assert self.facts.decision is not None
        return self.facts.decision.rule, self.facts.decision.action


def _counted(registry: CollectorRegistry, rule: str, action: str) -> float:
    return registry.get_sample_value("hsmitm_policy_decisions_total", {"rule": rule, "action": action}) or 0.0


async def test_without_a_policy_everything_is_decrypted() -> None:
    """The decision is noted all the same, with the built-in profile; scripts see the ClientHello as ever."""
    client = _Client(PolicyAddon())
    assert client.decided == ("default", "decrypt")
    assert policy_of(client.facts) == Profile()
    assert client.script.seen == 1


async def test_a_client_that_is_blocked_gets_an_alert() -> None:
    """It reads access_denied (RFC 8446 section 6.2), nobody else sees it, and its class says that it was the policy."""
    registry = CollectorRegistry()
    client = _Client(PolicyAddon(policy(rule("games", "block", ".site.test")), registry))
    assert client.decided == ("games", "block")
    assert client.sent(client.context.client) == ACCESS_DENIED
    assert [one.data.kind for one in client.of(EdgeRefusedHook)] == ["blocked-by-policy"]
    assert client.context.client in {one.connection for one in client.of(commands.CloseConnection)}
    assert client.script.seen == 0
    assert client.facts.event == "blocked"
    assert client.facts.failure is not None
    assert client.facts.failure.kind == "blocked-by-policy"
    assert _counted(registry, "games", "block") == 1
    assert registry.get_sample_value("hsmitm_policy_last_hit_timestamp_seconds", {"rule": "games"})


async def test_a_bypassed_client_is_not_opened() -> None:
    """Its bytes go to the server as they are."""
    client = _Client(PolicyAddon(policy(rule("bank", "bypass", "site.test"))))
    assert client.decided == ("bank", "bypass")
    assert client.sent(client.context.server)[:1] == b"\x16"
    assert client.script.seen == 0


async def test_a_policy_that_only_warns_changes_nothing() -> None:
    """What it would have done is noted, and the client is served as any other, with the default profile."""
    profiles = {"strict": Profile(expired="allow", sni_mismatch="block")}
    for action in ("block", "bypass"):
        warns = PolicyAddon(
            policy(rule("games", action, "site.test", profile="strict"), profiles=profiles, mode="warn")
        )
        client = _Client(warns)
        assert client.script.seen == 1
        assert not client.of(EdgeRefusedHook)
        assert client.decided == ("games", action)
        assert client.facts.decision is not None
        assert client.facts.decision.acts == "decrypt"
        assert policy_of(client.facts) == Profile()
        assert client.facts.failure is None or client.facts.failure.kind == "client-closed"  # nobody has a leaf here
        assert client.facts.event != "blocked"


async def test_a_client_that_says_two_names_is_blocked() -> None:
    """It asked the proxy for one host and its ClientHello is for another: no bypass, and the profile decides."""
    bank = rule("bank", "bypass", "bank.test")
    client = _Client(PolicyAddon(policy(bank)), sni="bank.test", host="evil.test")
    assert client.decided == ("default", "block")
    assert client.facts.failure is not None
    assert client.facts.failure.kind == "sni-mismatch"
    assert client.sent(client.context.client) == ACCESS_DENIED
    allowed = policy(bank, profiles={"default": Profile(sni_mismatch="decrypt")})
    assert _Client(PolicyAddon(allowed), sni="bank.test", host="evil.test").decided == ("default", "decrypt")
    assert _Client(PolicyAddon(allowed), sni="evil.test", host="bank.test").decided == ("default", "decrypt")
    same = _Client(PolicyAddon(policy(bank)), sni="Bank.TEST", host="bank.test")
    assert same.decided == ("bank", "bypass"), "the same name in another spelling"


async def test_a_client_that_names_nobody() -> None:
    """Without an SNI it is decrypted, or blocked where no_sni says so."""
    assert _Client(PolicyAddon(policy()), sni="127.0.0.1", host="10.1.1.1").decided == ("default", "decrypt")
    assert _Client(PolicyAddon(policy(no_sni="block")), sni="127.0.0.1", host="10.1.1.1").decided == ("no_sni", "block")


async def test_open_connections_keep_their_policy() -> None:
    """A reload between CONNECT and ClientHello changes nothing for who is here; who comes later meets the new one."""
    addon = PolicyAddon(policy(rule("a", "block", "a.test")))
    with taddons.context(addon):
        flow = _connect(addon, "site.test")
        facts = facts_of(flow.client_conn)
        before = facts.policy_version
        addon.swap(policy(rule("b", "block", "site.test"), profiles={"default": Profile(sni_mismatch="decrypt")}))
        facts.hello, facts.sni = True, "site.test"
        assert addon.policy_decide(Deciding(flow.client_conn, ("site.test", 443))) is None
        assert facts.decision is not None
        assert (facts.decision.rule, facts.decision.acts, facts.policy_version) == ("default", "decrypt", before)
        assert policy_of(facts).sni_mismatch == "block"
        later = _connect(addon, "site.test")
        assert later.response is not None
        assert facts_of(later.client_conn).policy_version != before


def _connect(addon: PolicyAddon, host: str, port: int = 443, mode: str = "regular") -> http.HTTPFlow:
    """A CONNECT that has to wait for nothing."""
    flow = _asked(host, port, mode)
    assert addon.http_connect(flow) is None
    return flow


def _asked(host: str, port: int = 443, mode: str = "regular") -> http.HTTPFlow:
    flow = tflow.tflow(req=tutils.treq(method=b"CONNECT", host=host, port=port, authority=f"{host}:{port}".encode()))
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse(mode)
    return flow


async def test_a_connect_that_is_blocked_gets_a_page() -> None:
    """Before anybody connects to anything: 403. A script that has answered already is heard."""
    addon = PolicyAddon(policy(rule("games", "block", "games.test")))
    with taddons.context(addon):
        flow = _connect(addon, "games.test")
        assert flow.response is not None
        assert flow.response.status_code == 403
        assert "games" in (flow.response.text or "")
        assert facts_of(flow.client_conn).decided
        assert _connect(addon, "other.test").response is None
        answered = _asked("games.test")
        answered.response = answer = http.Response.make(418)
        addon.http_connect(answered)
        assert answered.response is answer


async def test_the_hsm_is_asked_only_for_what_will_be_decrypted() -> None:
    """Not at the CONNECT of what is blocked, bypassed, or may still be bypassed."""
    rules = policy(
        rule("games", "block", "games.test"), rule("bank", "bypass", "bank.test"),
        rule("shop", "decrypt", "shop.test", hsm_unavailable="bypass"),
    )  # fmt: skip
    addon = PolicyAddon(rules)
    with taddons.context(addon):
        asks = {
            host: will_decrypt(facts_of(_connect(addon, host).client_conn))
            for host in ("games.test", "bank.test", "shop.test", "other.test", "10.0.0.1")
        }
    assert asks == {
        "games.test": False, "bank.test": False, "shop.test": False, "other.test": True, "10.0.0.1": False,
    }  # fmt: skip


class _Names:
    """A name server whose answers change with each question."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def __call__(self, name: str) -> tuple[Found, ...]:
        if not self.answers:
            raise OSError(f"{name} is not known")
        return ((2, (self.answers.pop(0), 0)),)


def _connecting(names: Callable[[str], tuple[Found, ...]]) -> Connecting:
    resolver = Resolver(per_client=4, lookup_s=2, lookup=names)
    return Connecting(resolver, Destinations(["127.0.0.0/8"]), Refusals(CollectorRegistry()))


async def test_a_host_is_judged_by_its_addresses_and_connected_to_those() -> None:
    """A rule for a network decides on what the name resolves to; what a name server says later does not matter."""
    inside = Rule(name="inside", action="block", to=To(networks=("10.0.0.0/8",)))
    addon, names = PolicyAddon(policy(inside)), _Names("192.0.2.1", "10.0.0.1")
    connecting = _connecting(names)
    with taddons.context(addon, connecting):
        flow = _asked("site.test")
        await _awaited(addon.http_connect(flow))
        facts = facts_of(flow.client_conn)
        assert (facts.addresses, flow.response) == (("192.0.2.1",), None)
        connecting._resolver.forget("site.test")  # whose answer is 10.0.0.1 from now on
        assert await _reached(connecting, flow.client_conn, "site.test") == "192.0.2.1"
        again = _asked("site.test")
        await _awaited(addon.http_connect(again))
        assert facts_of(again.client_conn).addresses == ("10.0.0.1",)
        assert again.response is not None
        assert again.response.status_code == 403


async def test_a_host_without_an_address_is_not_looked_up_again() -> None:
    """What could not be judged is not connected to, though the name server would have an answer by now."""
    inside = Rule(name="inside", action="block", to=To(networks=("10.0.0.0/8",)))
    addon, names = PolicyAddon(policy(inside)), _Names()
    connecting = _connecting(names)
    with taddons.context(addon, connecting):
        flow = _asked("site.test")
        await _awaited(addon.http_connect(flow))
        assert facts_of(flow.client_conn).addresses == ()
        names.answers.append("10.0.0.1")
        connecting._resolver._failed.forget("site.test")
        with pytest.raises(OSError, match="no address"):
            await _reached(connecting, flow.client_conn, "site.test")


async def test_denied_addresses_are_no_addresses() -> None:
    """Of a host that has a denied address the others are judged; one that has no others is refused as ever."""
    inside = Rule(name="inside", action="block", to=To(networks=("10.0.0.0/8",)))
    addon = PolicyAddon(policy(inside))
    with taddons.context(addon, _connecting(lambda _: ((2, ("127.0.0.1", 0)), (2, ("10.0.0.1", 0))))):
        flow = _asked("site.test")
        await _awaited(addon.http_connect(flow))
        assert facts_of(flow.client_conn).addresses == ("10.0.0.1",)


async def test_where_another_proxy_looks_names_up_nobody_does_here() -> None:
    """In upstream mode a rule for a network matches addresses that a client asks for, and no names."""
    inside = Rule(name="inside", action="block", to=To(networks=("10.0.0.0/8",)))
    addon = PolicyAddon(policy(inside))
    with taddons.context(addon, _connecting(_Names("10.0.0.1"))):
        by_name = _asked("site.test", mode="upstream:http://proxy.test:3128")
        await _awaited(addon.http_connect(by_name))
        assert by_name.response is None
        by_address = _connect(addon, "10.0.0.1", mode="upstream:http://proxy.test:3128")
        assert by_address.response is not None


async def _awaited(result: Awaitable[None] | None) -> None:
    assert result is not None, "it had to wait for nothing"
    await asyncio.wait_for(result, 5)


async def _reached(connecting: Connecting, client: connection.Client, host: str) -> str:
    """The address that a connection would be made to."""

    async def create(address: str, *_: Any, **__: Any) -> Any:
        return address, None

    return str((await connecting.connect(client, None, b"", host, 443, None, create))[0])


@pytest.mark.parametrize(
    ("away", "host", "proved", "action"),
    [
        (True, "shop.test", None, "bypass"),
        (False, "shop.test", None, "decrypt"),
        (True, "192.0.2.1", True, "bypass"),
        (True, "192.0.2.1", False, "decrypt"),
    ],
)
async def test_a_rule_may_pass_its_site_while_no_member_serves(
    away: bool, host: str, proved: bool | None, action: str
) -> None:
    """Then, and not else, and never on the word of a client's SNI alone."""

    async def is_away() -> bool:
        return away

    async def prove(_client: connection.Client, facts: Facts) -> None:
        facts.sni_proved = proved

    addon = PolicyAddon(
        policy(rule("shop", "decrypt", "shop.test", hsm_unavailable="bypass")), away=is_away, prove=prove
    )
    with taddons.context(addon):
        flow = _connect(addon, host)
        facts = facts_of(flow.client_conn)
        facts.hello, facts.sni = True, "shop.test"
        await _awaited(addon.policy_decide(Deciding(flow.client_conn, (host, 443))))
        assert facts.decision is not None
        assert (facts.decision.action, facts.decided) == (action, True)


async def test_rules_that_end_are_shown_in_a_metric() -> None:
    """Of each rule with an end, and each accepted certificate; a reload that takes it out takes it away."""
    import datetime as dt  # noqa: PLC0415

    registry = CollectorRegistry()
    addon = PolicyAddon(policy(rule("soon", "block", "a.test", expires=dt.date(2027, 3, 31))), registry)
    name, labels = "hsmitm_policy_expires_timestamp_seconds", {"kind": "rule", "name": "soon"}
    assert registry.get_sample_value(name, labels) == dt.datetime(2027, 4, 1, tzinfo=dt.UTC).timestamp()
    addon.swap(policy())
    assert registry.get_sample_value(name, labels) is None


async def test_what_ended_before_it_was_settled_counts_with_what_it_had() -> None:
    """A client that goes away before its ClientHello has had a decision, too."""
    registry = CollectorRegistry()
    addon = PolicyAddon(policy(Rule(name="all", action="block", from_=From(users=("x",))), default="block"), registry)
    with taddons.context(addon):
        flow = _connect(addon, "192.0.2.1")
        addon.client_disconnected(flow.client_conn)
    assert _counted(registry, "default", "block") == 1
