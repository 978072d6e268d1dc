"""SOCKS5 and redirected traffic in front of a policy: what its destination alone settles is not connected to."""

from __future__ import annotations

import struct

import pytest
from mitmproxy import connection, tls
from mitmproxy.proxy import commands, context, events, layer, mode_specs
from mitmproxy.test import taddons
from prometheus_client import CollectorRegistry

from addons import seam
from addons.edge.connecting.proxyserver import Proxyserver
from addons.edge.connecting.redirected import Redirected
from addons.edge.connecting.socks import Socks5
from addons.edge.listeners.next_layer import NextLayer
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds, NotTls
from addons.policy.addon import PolicyAddon
from addons.policy.rules import Compiled
from addons.policy.settings import Rule, To
from addons.records.connections import facts_of
from tests.addons.edge.driver import Driver
from tests.addons.edge.hellos import hello
from tests.addons.policy.policies import policy, rule, within

DENIED, GRANTED, UNREACHABLE = b"\x05\x02", b"\x05\x00", b"\x05\x04"


class _ServerFirst:
    """As in a worker: the server's handshake comes before the client's."""

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        data.establish_server_tls_first = True


class _Connected(Driver):
    """Its servers answer."""

    def __init__(self, made: context.Context, outermost: layer.Layer, tctx: taddons.context) -> None:
        self.context = made
        self.opened: list[connection.Address | None] = []
        super().__init__(outermost, tctx)

    def tell(self, event: events.Event) -> None:
        waiting = [event]
        while waiting:
            before = len(self.commands)
            super().tell(waiting.pop(0))
            for command in self.commands[before:]:
                if isinstance(command, commands.OpenConnection):
                    self.opened.append(command.connection.address)
                    command.connection.state = connection.ConnectionState.OPEN
                    command.connection.timestamp_start = 1.0
                    waiting.append(events.OpenConnectionCompleted(command, None))

    def says(self, data: bytes) -> None:
        """The client sends."""
        self.tell(events.DataReceived(self.context.client, data))

    @property
    def heard(self) -> bytes:
        """What the client has got."""
        return self.sent(self.context.client)

    @property
    def kinds(self) -> list[str]:
        """The classes of what was refused."""
        return [one.data.kind for one in self.of(EdgeRefusedHook)]


def _made(rules: Compiled, mode: str, *, passing: bool = False) -> tuple[taddons.context, context.Context]:
    not_tls = NotTls.parse(passed=passing, listed=[])
    seam.put_in(Bounds())
    tctx = taddons.context(
        Proxyserver(), PolicyAddon(rules), _ServerFirst(), NextLayer(Bounds(), not_tls, CollectorRegistry())
    )
    client = connection.Client(
        peername=("192.0.2.1", 1234), sockname=("192.0.2.2", 1080), timestamp_start=1.0,
        state=connection.ConnectionState.OPEN, proxy_mode=mode_specs.ProxyMode.parse(mode),
    )  # fmt: skip
    return tctx, context.Context(client, tctx.options)


def _socks(rules: Compiled, host: str, port: int = 443, *, passing: bool = False) -> _Connected:
    """A client that has asked SOCKS5 for a host, by name or by address."""
    tctx, made = _made(rules, "socks5", passing=passing)
    asked = _Connected(made, Socks5(made), tctx)
    asked.says(b"\x05\x01\x00")
    if host[0].isdigit():
        where = b"\x01" + bytes(map(int, host.split(".")))
    else:
        where = b"\x03" + bytes([len(host)]) + host.encode()
    asked.says(b"\x05\x01\x00" + where + struct.pack("!H", port))
    return asked


def _redirected(rules: Compiled, address: str, port: int = 443, *, passing: bool = False) -> _Connected:
    tctx, made = _made(rules, "transparent", passing=passing)
    made.server.address = (address, port)
    return _Connected(made, Redirected(made), tctx)


@pytest.mark.parametrize(
    ("rules", "host"),
    [
        (policy(rule("games", "block", ".games.test")), "www.games.test"),
        (policy(within("inside", "block", "10.0.0.0/8")), "10.1.2.3"),
        (policy(Rule(name="mail", action="block", to=To(ports=(443,)))), "any.test"),
        (policy(Rule(name="mail", action="block", to=To(ports=(443,)))), "192.0.2.7"),
        (policy(default="block"), "any.test"),
    ],
)
async def test_socks_says_that_it_is_not_allowed(rules: Compiled, host: str) -> None:
    """Where name, address or port settle it, the reply is "not allowed by ruleset" (RFC 1928 section 6), at once."""
    asked = _socks(rules, host)
    assert asked.heard[2:4] == DENIED
    assert asked.opened == []
    assert asked.kinds == ["blocked-by-policy"]
    assert asked.context.client in {one.connection for one in asked.of(commands.CloseConnection)}
    assert facts_of(asked.context.client).event == "blocked"
    asked.says(hello(host))
    assert asked.opened == []


async def test_socks_by_address_waits_for_the_hello() -> None:
    """Where a name may still matter the client is let in, and gets its alert when the name is known."""
    asked = _socks(policy(rule("games", "block", "games.test")), "192.0.2.7")
    assert asked.heard[2:4] == GRANTED
    assert asked.opened == [("192.0.2.7", 443)]
    asked.says(hello("games.test"))
    assert asked.heard[-7:] == bytes((21, 3, 3, 0, 2, 2, 49))
    allowed = _socks(policy(rule("games", "block", "games.test")), "192.0.2.7")
    allowed.says(hello("other.test"))
    assert "blocked-by-policy" not in allowed.kinds


async def test_with_a_default_of_block_nobody_is_connected_to_before_the_name_is_known() -> None:
    """An agent in a sandbox cannot knock at addresses: its ClientHello comes first, and what it names decides."""
    rules = policy(rule("ours", "decrypt", "ours.test"), default="block")
    for begin, greeted in ((_socks, GRANTED), (_redirected, b"")):
        asked = begin(rules, "192.0.2.7")
        assert asked.opened == []
        assert asked.heard[2:4] == greeted
        asked.says(hello("other.test"))
        assert asked.opened == []
        assert asked.heard[-7:] == bytes((21, 3, 3, 0, 2, 2, 49))
        allowed = begin(rules, "192.0.2.7")
        allowed.says(hello("ours.test"))
        assert allowed.opened == [("192.0.2.7", 443)]


async def test_redirected_traffic_that_is_blocked_is_not_connected_to() -> None:
    """The client is heard, and then gets what it understands: an alert, or a page."""
    rules = policy(within("inside", "block", "10.0.0.0/8"))
    secret = _redirected(rules, "10.1.2.3")
    secret.says(hello("a.test"))
    assert secret.heard == bytes((21, 3, 3, 0, 2, 2, 49))
    assert secret.opened == []
    plain = _redirected(rules, "10.1.2.3", 80)
    plain.says(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert plain.heard.startswith(b"HTTP/1.1 403 ")
    assert plain.opened == []
    other = _redirected(rules, "192.0.2.7")
    assert other.opened == [("192.0.2.7", 443)]


@pytest.mark.parametrize("begin", [_socks, _redirected])
async def test_a_stream_that_is_no_tls_is_judged_by_what_is_known(begin) -> None:  # type: ignore[no-untyped-def]
    """With a default of block, and rules that wait for a name, what says no name is blocked: not_tls = "pass" makes no
    hole."""
    rules = policy(rule("ours", "decrypt", "ours.test"), default="block")
    asked = begin(rules, "192.0.2.7", 25, passing=True)
    asked.says(b"EHLO client\r\n")
    assert asked.kinds == ["blocked-by-policy"]
    assert asked.sent(asked.context.server) == b""
    passed = begin(policy(rule("ours", "decrypt", "ours.test")), "192.0.2.7", 25, passing=True)
    passed.says(b"EHLO client\r\n")
    assert passed.kinds == []
    assert passed.sent(passed.context.server) == b"EHLO client\r\n"
