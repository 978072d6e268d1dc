"""How many names that nobody has asked for before a client may bring."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from mitmproxy import connection
from prometheus_client import CollectorRegistry

from addons.edge.refusal import Refusals
from addons.forward import new_names
from addons.forward.new_names import NewNames


def _client(host: str = "192.0.2.1") -> connection.Client:
    return connection.Client(peername=(host, 1234), sockname=("192.0.2.99", 8080))


class _Clock:
    """A worker's budgets at a time of our own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(new_names, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.registry = CollectorRegistry()
        self.names = NewNames(20, 200, Refusals(self.registry))

    def taken(self, client: connection.Client) -> int:
        """As many as there are."""
        number = 0
        while self.names.take(client):
            number += 1
        return number


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Twenty a second, two hundred at once."""
    return _Clock(monkeypatch)


def test_a_client_has_a_burst_and_then_a_rate(clock: _Clock) -> None:
    """A browser that starts with a hundred tabs is served; who goes on like that gets twenty a second."""
    assert clock.taken(_client()) == 200
    clock.now += 0.5
    assert clock.taken(_client()) == 10
    clock.now += 3600
    assert clock.taken(_client()) == 200


def test_one_clients_names_are_not_anothers(clock: _Clock) -> None:
    """Addresses have budgets of their own, a network of one client's has one together."""
    assert clock.taken(_client()) == 200
    assert clock.names.take(_client("192.0.2.2"))
    assert clock.taken(_client("2001:db8::1")) == 200
    assert not clock.names.take(_client("2001:db8::2"))
    assert not clock.names.take(_client("::ffff:192.0.2.1"))


def test_a_connect_pays_for_its_handshake(clock: _Clock) -> None:
    """A name is paid for once, at its CONNECT: when there is none left, the next CONNECT is refused, and a handshake
    behind one that was let through is not."""
    clients = [_client() for _ in range(201)]
    assert [clock.names.connect(one, f"h{i}.example") for i, one in enumerate(clients)] == [True] * 200 + [False]
    assert [clock.names.pay(one, f"h{i}.example") for i, one in enumerate(clients)] == [True] * 200 + [False]


def test_a_pages_many_connections_pay_once(clock: _Clock) -> None:
    """Of connections to one new host that are begun at the same time the first pays; when all have ended, and no leaf
    came of it, the next does."""
    clients = [_client() for _ in range(10)]
    assert all(clock.names.connect(one, "page.example") for one in clients)
    assert all(clock.names.pay(one, "page.example") for one in clients)
    for one in clients:
        clock.names.gone(one)
    assert clock.names.connect(_client(), "page.example")
    assert clock.taken(_client()) == 198
    assert len(clock.names._connects) == len(clock.names._expected) == 1


def test_who_connects_for_one_name_and_asks_for_another_pays(clock: _Clock) -> None:
    """A thousand tunnels to one host, with another name in each one's TLS, are a thousand names; and a tunnel's second
    handshake, TLS within TLS, is one more."""
    clients = [_client() for _ in range(1000)]
    assert all(clock.names.connect(one, "page.example") for one in clients)
    assert sum(clock.names.pay(one, f"made-up{i}.example") for i, one in enumerate(clients)) == 200
    clock.now += 3600
    assert clock.names.pay(clients[0], "within.example")
    assert clock.taken(_client()) == 199


def test_clients_are_remembered_within_a_bound(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses ask, the worker's memory of them does not grow."""
    monkeypatch.setattr(new_names, "_CLIENTS", 10)
    for i in range(100):
        clock.names.take(_client(f"198.51.100.{i}"))
    assert len(clock.names._buckets) == 10


async def test_refusals_are_told_once_with_a_count(
    clock: _Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten thousand refusals are all counted, and are two lines: the first, and how many more there were."""
    monkeypatch.setattr(new_names, "_TELL_AGAIN_S", 0.01)
    with caplog.at_level(logging.WARNING):
        for i in range(10_000):
            clock.names.refuse(_client(), f"made-up{i}.example")
        async with asyncio.timeout(5):
            while len(caplog.records) < 2:
                await asyncio.sleep(0.001)
    assert [one.getMessage() for one in caplog.records] == [
        "client 192.0.2.1:1234 refused (too-many-names): made-up0.example",
        "client 192.0.2.1:1234 refused (too-many-names): and 9999 more within 0.01 s",
    ]
    counted = clock.registry.get_sample_value("hsmitm_edge_refused_total", {"class": "too-many-names"})
    assert counted == 10_000
