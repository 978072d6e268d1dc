"""Requests in front of a policy: mitmproxy's HTTP layer in memory, with everything that it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
from mitmproxy import ctx
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers import ClientTLSLayer
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.test import taddons

from addons.policy.addon import PolicyAddon
from addons.policy.rules import Compiled
from addons.policy.settings import Profile, Rule
from addons.records.connections import facts_of
from addons.records.facts import Facts
from tests.addons.edge.talk import Talk
from tests.addons.policy.policies import policy, rule, within

GAMES = policy(rule("games", "block", ".games.test"))


@pytest.fixture
async def tctx() -> AsyncIterator[taddons.context]:
    """A master."""
    with taddons.context() as made:
        yield made


class _Asked(Talk):
    """A client's connection in front of a policy."""

    def __init__(self, tctx: taddons.context, rules: Compiled, http_mode: HTTPMode = HTTPMode.regular, **more: str):
        self.policy = PolicyAddon(rules)
        tctx.master.addons.add(self.policy)
        ctx.master = tctx.master  # which the autouse fixture took away
        super().__init__(http_mode, on_hook=self._answer, **more)

    def _answer(self, hook: commands.StartHook) -> None:
        handler = getattr(self.policy, hook.name, None)
        waiting = handler(*hook.args()) if handler is not None else None
        if waiting is not None:  # for addresses, which nobody looks up here
            with pytest.raises(StopIteration):
                waiting.send(None)

    @property
    def facts(self) -> Facts:
        return facts_of(self.context.client)

    def opened(self) -> list[bool]:
        """Of the servers that were connected to."""
        return [True] if self._server.timestamp_start is not None else []


def _get(url: str, host: str = "") -> bytes:
    host = host or url.removeprefix("http://").partition("/")[0]
    return f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_each_request_is_judged(tctx: taddons.context) -> None:
    """On one kept-alive connection one site is served and the next is blocked, with a page that says the rule; then the
    first is served again. Scripts see what is served, and nothing of what is blocked."""
    talk = _Asked(tctx, GAMES).client(_get("http://a.test/"))
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert talk.status == "200"
    seen = talk.hooks.count("requestheaders")
    talk.client(_get("http://www.games.test/"))
    assert talk.status == "403"
    assert b"Rule: games" in talk.to_client
    assert talk.kinds == ["blocked-by-policy"]
    assert talk.hooks.count("requestheaders") == seen
    assert b"games" not in talk.to_server
    assert (talk.facts.host, talk.facts.plain) == ("www.games.test", True)
    talk.client(_get("http://a.test/"))
    talk.server(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert talk.status == "204"
    assert talk.facts.decision is not None
    assert talk.facts.decision.rule == "default"


@pytest.mark.parametrize("streamed", [None, "1"])
async def test_the_body_of_what_is_blocked_goes_nowhere(tctx: taddons.context, streamed: str | None) -> None:
    """It is read to its end, and the connection goes on; a CONNECT on it is judged by itself."""
    talk = _Asked(tctx, GAMES, stream_large_bodies=streamed)  # type: ignore[arg-type]
    talk.client(b"POST http://games.test/ HTTP/1.1\r\nHost: games.test\r\nContent-Length: 5\r\n\r\nhe", b"llo")
    assert talk.status == "403"
    talk.client(b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n")
    assert talk.status == "200"
    assert talk.facts.plain is False
    assert (talk.facts.host, talk.facts.decided) == ("other.test", False)
    assert talk.to_server == b""


async def test_a_connect_that_is_blocked(tctx: taddons.context) -> None:
    """Its page is 403, nobody is connected to, and it is told of once."""
    talk = _Asked(tctx, GAMES).client(b"CONNECT games.test:443 HTTP/1.1\r\nHost: games.test:443\r\n\r\n")
    assert talk.status == "403"
    assert talk.kinds == ["blocked-by-policy"]
    assert "server_connect" not in talk.hooks
    assert talk.facts.event == "blocked"


async def test_who_is_redirected_is_judged_by_host_and_address(tctx: taddons.context) -> None:
    """A plain request in redirected traffic names its host in the request alone."""
    talk = _Asked(tctx, GAMES, HTTPMode.transparent, mode="transparent").client(_get("/", "games.test"))
    assert talk.status == "403"
    assert (talk.facts.host, talk.facts.destination) == ("games.test", "192.0.2.9")


async def test_who_is_redirected_is_judged_by_its_destination(tctx: taddons.context) -> None:
    """A rule for a network holds, whatever host the request names."""
    by_address = policy(within("inside", "block", "192.0.2.0/24"))
    assert (
        _Asked(tctx, by_address, HTTPMode.transparent, mode="transparent").client(_get("/", "a.test")).status == "403"
    )


@pytest.mark.parametrize(("asked", "host", "status"), [
    ("games.test", "a.test", "403"), ("a.test", "games.test", "403"), ("a.test", "b.test", ""), ("10.0.0.1", "", ""),
])  # fmt: skip
async def test_in_a_tunnel_both_names_count(tctx: taddons.context, asked: str, host: str, status: str) -> None:
    """Who asks SOCKS5 for one host and names another in its request is judged as one for each."""
    talk = _Asked(tctx, GAMES, HTTPMode.transparent, mode="socks5")
    talk.facts.host = asked
    talk.client(_get("/", host or asked))
    assert (talk.status if b"HTTP/1.1" in talk.to_client else "") == status
    if not status:
        assert talk.facts.host == asked
        assert talk.to_server.startswith(b"GET / ")


async def test_a_request_to_nobody_is_no_business_of_the_policy(tctx: taddons.context) -> None:
    """A request that names no host is answered as ever."""
    talk = _Asked(tctx, policy(default="block")).client(b"GET / HTTP/1.0\r\n\r\n")
    assert talk.status in ("400", "403")
    assert talk.to_server == b""


class _Tls(ClientTLSLayer):
    """TLS of ours around what is decrypted."""


def _decrypted(tctx: taddons.context, rules: Compiled, *names: str) -> _Asked:
    talk = _Asked(tctx, rules, HTTPMode.transparent)
    talk.context.layers.insert(0, object.__new__(_Tls))
    talk.context.server.timestamp_tls_setup = 1.0
    talk.facts.leaf_names, talk.facts.hello, talk.facts.policy = names, True, rules
    return talk


@pytest.mark.parametrize("host", ["a.test", "A.test:443", "x.wild.test", "a.test."])
async def test_what_the_leaf_vouches_for_goes_on(tctx: taddons.context, host: str) -> None:
    """Whatever its spelling: a client may use one connection for all names of a certificate."""
    talk = _decrypted(tctx, policy(), "a.test", "*.wild.test").client(_get("/", host))
    assert talk.kinds == []
    assert talk.to_server.startswith(b"GET / ")


@pytest.mark.parametrize("host", ["b.test", "y.x.wild.test", "10.0.0.1"])
async def test_a_host_that_the_leaf_does_not_vouch_for_is_421(tctx: taddons.context, host: str) -> None:
    """One site's name in the ClientHello, another's in the request: it goes nowhere, and the client may ask again on a
    connection of its own (RFC 9110 section 15.5.20)."""
    talk = _decrypted(tctx, policy(), "a.test", "*.wild.test").client(_get("/", host))
    assert talk.status == "421"
    assert talk.kinds == ["host-mismatch"]
    assert talk.to_server == b""
    assert talk.facts.failure is not None
    assert talk.facts.failure.kind == "host-mismatch"


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("action", ["block", "bypass"])
async def test_a_shared_certificate_is_no_way_around_a_rule(
    tctx: taddons.context, action: Literal["block", "bypass"], lenient: bool
) -> None:
    """A connection for one name of a wildcard serves its others, but not one that is blocked, or not to be read: that
    is 421, and gets what it has to get on a connection of its own."""
    profiles = {"default": Profile(host_mismatch="allow" if lenient else "block")}
    talk = _decrypted(tctx, policy(rule("games", action, "games.wild.test"), profiles=profiles), "*.wild.test")
    talk.facts.host = talk.facts.sni = "a.wild.test"
    talk.client(_get("/", "games.wild.test"))
    assert talk.status == "421"
    assert talk.to_server == b""
    talk.client(_get("/", "b.wild.test"))
    assert talk.to_server.startswith(b"GET / ")


async def test_a_connect_does_not_knock(tctx: taddons.context) -> None:
    """With a default of block a CONNECT to an address is answered, and nobody is connected to."""
    rules = policy(rule("ours", "decrypt", "ours.test"), default="block")
    talk = _Asked(tctx, rules).client(b"CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\n\r\n")
    assert talk.status == "200"
    assert talk.context.server.timestamp_start is None
    assert _Asked.opened(talk) == []


async def test_a_profile_may_allow_other_hosts(tctx: taddons.context) -> None:
    """host_mismatch = "allow" is for those who front one host by another on purpose."""
    lenient = policy(profiles={"default": Profile(host_mismatch="allow")})
    talk = _decrypted(tctx, lenient, "a.test").client(_get("/", "b.test"))
    assert talk.kinds == []
    assert talk.to_server.startswith(b"GET / ")


async def test_a_policy_that_warns_lets_requests_pass(tctx: taddons.context) -> None:
    """What would have been blocked is noted, and the request goes on."""
    talk = _Asked(tctx, policy(rule("games", "block", "games.test"), mode="warn")).client(_get("http://games.test/"))
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert talk.status == "200"
    assert talk.facts.decision is not None
    assert (talk.facts.decision.rule, talk.facts.decision.action) == ("games", "block")
    assert talk.kinds == []


def _said(tctx: taddons.context, rules: Compiled, mode: str, *pieces: bytes) -> tuple[bytes, bytes, list[str]]:
    """All that a client and a server get of an exchange, and what was closed."""
    http_mode = HTTPMode.regular if mode == "regular" else HTTPMode.transparent
    talk = _Asked(tctx, rules, http_mode, mode=mode)
    for piece in pieces:
        talk.client(piece)
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    return talk.to_client, talk.to_server, talk.closed


@pytest.mark.parametrize("mode", ["regular", "socks5", "transparent"])
@pytest.mark.parametrize("blocked", [rule("all", "block", ".games.test"), within("all", "block", "0.0.0.0/0")])
async def test_a_policy_that_warns_changes_no_byte(mode: str, blocked: Rule) -> None:
    """With rules that would block everything, both sides get what they get without any."""
    site = "http://games.test" if mode == "regular" else ""
    pieces = (_get(f"{site}/", "games.test"), _get(f"{site}/next", "games.test"))
    said = []
    for rules in (policy(), policy(blocked, default="block", no_sni="block", mode="warn")):
        with taddons.context() as tctx:
            said.append(_said(tctx, rules, mode, *pieces))
    assert said[0] == said[1]
    assert b"ok" in said[0][0]
