"""Where the facts of connections are."""

from __future__ import annotations

import pytest
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import ProxyMode

from addons.records.connections import Connections, facts_of
from addons.records.facts import Facts


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
