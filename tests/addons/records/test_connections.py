"""Where the facts of connections are."""

from __future__ import annotations

from typing import Any

import pytest
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow

from addons.records.connections import Connections, conclude, destined, facts_of
from addons.records.facts import Decision, Facts, Failure
from tests.addons.records import examples


def _client(mode: str = "regular") -> Client:
    return Client(
        peername=("10.1.2.3", 50123), sockname=("10.0.0.1", 8080), proxy_mode=ProxyMode.parse(mode), timestamp_start=5.0
    )


@pytest.mark.parametrize(
    ("mode", "named", "listener"),
    [
        ("regular@127.0.0.1:8081", "explicit", "127.0.0.1:8081"),
        ("regular@::1:8081", "explicit", "[::1]:8081"),
        ("socks5@127.0.0.1:8081", "socks5", "127.0.0.1:8081"),
        ("transparent@127.0.0.1:8081", "transparent", "127.0.0.1:8081"),
        ("upstream:http://parent.test:3128@127.0.0.1:8081", "upstream", "127.0.0.1:8081"),
        ("inbound:0@127.0.0.1:8443", "inbound", "127.0.0.1:8443"),
        ("inboundtransparent:1@127.0.0.1:8443", "inbound", "127.0.0.1:8443"),
    ],
)
def test_the_facts_say_who_came_in_where(mode: str, named: str, listener: str) -> None:
    """Client, listener and mode are known from the first moment, and the identifier is the one that scripts see."""
    client = _client(mode)
    facts = facts_of(client)
    assert (facts.mode, facts.listener) == (named, listener)
    assert (facts.client_ip, facts.client_port, facts.began, facts.id) == ("10.1.2.3", 50123, 5.0, client.id)
    assert facts_of(client) is facts


def test_a_connection_ends_once() -> None:
    """Whoever was served, was turned away at the door, or is cut when the worker ends, is told of once."""
    ended: list[Facts] = []
    connections = Connections(ended.append)
    served, turned_away, cut = _client(), _client(), _client()
    connections.client_connected(served)
    connections.client_connected(cut)
    connections.client_disconnected(served)
    connections.client_disconnected(served)
    connections.turned_away(turned_away)
    connections.done()
    connections.client_disconnected(cut)
    assert [one.id for one in ended] == [served.id, turned_away.id, cut.id]


def _facts(**known: Any) -> Facts:
    facts = examples.bare()
    facts.failure = None
    for name, value in known.items():
        setattr(facts, name, value)
    return facts


_LATE = Failure("connect-failed", "server", "the second of two servers is not there")


@pytest.mark.parametrize(
    ("known", "event", "kind"),
    [
        ({}, "failed", "client-closed"),
        ({"event": "decrypted"}, "decrypted", ""),
        ({"event": "decrypted", "failure": _LATE}, "failed", "connect-failed"),
        ({"event": "decrypted", "failure": _LATE, "served": True}, "decrypted", "connect-failed"),
        ({"event": "plain", "failure": Failure("blocked-destination", "server", "denied")}, "blocked",
         "blocked-destination"),
        ({"event": "decrypted", "decision": Decision("a-rule", "block")}, "blocked", "blocked-by-policy"),
        ({"decision": Decision("a-rule", "block", error="sni-mismatch")}, "blocked", "sni-mismatch"),
        ({"event": "decrypted", "decision": Decision("a-rule", "block", enforced=False)}, "decrypted", ""),
        ({"event": "bypassed", "decision": Decision("a-rule", "bypass")}, "bypassed", ""),
    ],
)  # fmt: skip
def test_what_became_of_a_connection_in_the_end(known: dict[str, Any], event: str, kind: str) -> None:
    """A failure counts as one unless a server had answered before; a block is a block; each failure has a class."""
    facts = _facts(**known)
    conclude(facts)
    assert (facts.event, facts.failure.kind if facts.failure else "") == (event, kind)


def test_who_may_not_come_in_is_blocked() -> None:
    """mitmproxy's Block and a script say so in the client's error."""
    ended: list[Facts] = []
    connections, client = Connections(ended.append), _client()
    connections.client_connected(client)
    client.error = "Connection killed by block_global."
    connections.client_disconnected(client)
    assert (ended[0].event, ended[0].failure and ended[0].failure.kind) == ("blocked", "blocked-by-policy")


def test_connections_are_numbered() -> None:
    """Who reads the log sees by the numbers which of a worker's connections have no record."""
    begun: list[int] = []
    connections, clients = Connections(begun=lambda: begun.append(1)), [_client() for _ in range(3)]
    for client in clients:
        connections.client_connected(client)
    assert [facts_of(client).sequence for client in clients] == [1, 2, 3]
    assert len(begun) == 3


@pytest.mark.parametrize(
    ("mode", "host", "destination"),
    [
        ("regular@127.0.0.1:8081", "", ""),
        ("socks5@127.0.0.1:8081", "shop.example", ""),
        ("transparent@127.0.0.1:8081", "", "Shop.Example."),
        ("inbound:0@127.0.0.1:8443", "", "Shop.Example."),
    ],
)
def test_whom_a_client_wants_is_its_modes_to_say(mode: str, host: str, destination: str) -> None:
    """SOCKS5 has a host; with redirected traffic there is an address and no word of the client's."""
    facts = facts_of(_client(mode))
    destined(facts, ("Shop.Example.", 443))
    assert (facts.host, facts.destination) == (host, destination)
    destined(facts, None)


def test_a_request_in_the_clear_makes_a_connection_plain() -> None:
    """Its host is the newest request's; inside of TLS a request changes nothing but the number."""
    client = _client()
    flow, connections = tflow.tflow(), Connections()
    flow.client_conn = client
    flow.request.scheme, flow.request.host, flow.request.port = "http", "Plain.Example", 80
    connections.requestheaders(flow)
    facts = facts_of(client)
    assert (facts.event, facts.plain, facts.host, facts.port, facts.requests) == ("plain", True, "plain.example", 80, 1)
    facts.event, facts.plain = "decrypted", False
    flow.request.scheme = "https"
    connections.requestheaders(flow)
    assert (facts.event, facts.plain, facts.requests) == ("decrypted", False, 2)


def test_an_answer_of_a_servers_is_told_from_a_page_of_ours() -> None:
    """What fails after a server's answer does not undo it; a page for want of a server is no answer."""
    client = _client()
    flow, connections = tflow.tflow(resp=True), Connections()
    flow.client_conn = client
    flow.server_conn.timestamp_tcp_setup = None
    connections.response(flow)
    assert not facts_of(client).served
    flow.server_conn.timestamp_tcp_setup = 1.0
    connections.response(flow)
    assert facts_of(client).served
