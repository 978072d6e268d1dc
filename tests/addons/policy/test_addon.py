"""The policy in the data path: one decision for each connection, asked for by layers."""

from __future__ import annotations

from mitmproxy import http, tls
from mitmproxy.proxy import commands, events, layers
from mitmproxy.test import taddons, tflow, tutils

from addons.edge.listeners.client_tls import ClientTls
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds
from addons.policy.addon import PolicyAddon, policy_of
from addons.policy.settings import Profile
from addons.records.connections import facts_of
from addons.records.facts import Decision, Facts
from tests.addons.edge.driver import Driver, arrived
from tests.addons.edge.hellos import hello


class _Fixed(PolicyAddon):
    """A policy with one answer."""

    def __init__(self, *answers: Decision) -> None:
        super().__init__()
        self._answers = list(answers)
        self.asked: list[tuple[str, str, int]] = []

    def decided(self, facts: Facts) -> Decision:
        self.asked.append((facts.sni, facts.host, facts.port))
        facts.decision = self._answers.pop(0)
        return facts.decision


class _Script:
    """A user's, that sees ClientHellos."""

    def __init__(self) -> None:
        self.seen = 0

    def tls_clienthello(self, _data: tls.ClientHelloData) -> None:
        self.seen += 1


class _Client(Driver):
    """A client whose server is connected to, in front of a policy."""

    def __init__(self, policy: PolicyAddon) -> None:
        self.script = _Script()
        tctx = taddons.context(self.script, policy)
        self.context = arrived(tctx, port=443)
        outermost = layers.ServerTLSLayer(self.context)
        outermost.child_layer = ClientTls(self.context, Bounds())
        super().__init__(outermost, tctx)
        self.tell(events.DataReceived(self.context.client, hello("site.test")))

    @property
    def facts(self) -> Facts:
        return facts_of(self.context.client)


async def test_without_a_policy_everything_is_decrypted() -> None:
    """The decision is noted all the same, with the built-in profile; scripts see the ClientHello as ever."""
    client = _Client(PolicyAddon())
    assert client.facts.decision == Decision("default", "decrypt")
    assert policy_of(client.facts) == Profile()
    assert client.script.seen == 1


async def test_a_client_that_is_blocked_gets_an_alert() -> None:
    """It reads access_denied (RFC 8446 section 6.2), nobody else sees it, and its class says that it was the policy."""
    policy = _Fixed(Decision("games", "block", reason="rule 'games' blocks site.test"))
    client = _Client(policy)
    assert policy.asked == [("site.test", "mail.example", 443)]
    assert client.sent(client.context.client) == bytes((21, 3, 3, 0, 2, 2, 49))
    assert [one.data.kind for one in client.of(EdgeRefusedHook)] == ["blocked-by-policy"]
    assert client.context.client in {one.connection for one in client.of(commands.CloseConnection)}
    assert client.script.seen == 0


async def test_a_bypassed_client_is_not_opened() -> None:
    """Its bytes go to the server as they are."""
    client = _Client(_Fixed(Decision("bank", "bypass")))
    assert client.sent(client.context.server)[:1] == b"\x16"
    assert client.script.seen == 0


async def test_a_policy_that_only_warns_changes_nothing() -> None:
    """What it would have done is noted, and the client is served as any other."""
    client = _Client(_Fixed(Decision("games", "block", enforced=False)))
    assert client.script.seen == 1
    assert not client.of(EdgeRefusedHook)
    assert client.facts.decision == Decision("games", "block", enforced=False)


def test_a_connect_that_is_blocked_gets_a_page() -> None:
    """Before anybody connects to anything: 403, with the reason. A script that has answered already is heard."""
    flow = tflow.tflow(req=tutils.treq(method=b"CONNECT"))
    _Fixed(Decision("games", "block", reason="rule 'games' blocks address")).http_connect(flow)
    assert flow.response is not None
    assert (flow.response.status_code, flow.response.text) == (403, "hsmitm: rule 'games' blocks address\n")
    flow.response = answer = http.Response.make(418)
    _Fixed(Decision("games", "block")).http_connect(flow)
    assert flow.response is answer
