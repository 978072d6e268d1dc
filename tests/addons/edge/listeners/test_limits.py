"""Connections and handshakes have a number, in all and for each client address."""

from __future__ import annotations

from addons.edge.listeners.limits import Limits
from addons.edge.settings import Bounds


def _limits(descriptors: int = 1024, **bounds: int) -> Limits:
    return Limits(Bounds(**bounds), descriptors)


def test_each_client_has_room_for_its_server() -> None:
    """By default clients fill up what lets each of them have a server, and a tenth stays for all else."""
    limits = _limits()
    while limits.refusal(f"192.0.2.{limits.clients % 200}") is None:
        limits.join(f"192.0.2.{limits.clients % 200}")
    assert limits.clients == limits.most == 460
    assert limits.full
    assert all(limits.open_server() for _ in range(limits.clients))
    assert limits.clients + limits.servers <= 1024 * 9 // 10
    while limits.open_server():
        pass
    assert limits.clients + limits.servers == 1024 * 9 // 10


def test_many_servers_leave_no_room_for_clients() -> None:
    """A few clients with many servers count as what they need."""
    limits = _limits(100)
    limits.join("192.0.2.1")
    while limits.open_server():
        pass
    assert limits.refusal("192.0.2.2") == "too-many-connections"
    for _ in range(5):
        limits.close_server()
    assert limits.refusal("192.0.2.2") is None


def test_one_address_has_a_share() -> None:
    """Who has as many connections as it may does not keep others out, and comes in again when one is gone."""
    limits = _limits(connections_per_client=2)
    limits.join("192.0.2.1")
    limits.join("192.0.2.1")
    assert limits.refusal("192.0.2.1") == "too-many-of-client"
    assert limits.refusal("192.0.2.2") is None
    limits.leave("192.0.2.1")
    assert limits.refusal("192.0.2.1") is None


def test_an_ipv6_client_is_its_network() -> None:
    """Somebody with a /64 has 2^64 addresses and is one client; IPv4 in IPv6 is IPv4."""
    limits = _limits(connections_per_client=2)
    limits.join("2001:db8::1")
    limits.join("2001:db8::ffff:2")
    assert limits.refusal("2001:db8::3") == "too-many-of-client"
    assert limits.refusal("2001:db8:0:1::3") is None
    limits.join("::ffff:192.0.2.1")
    limits.join("192.0.2.1")
    assert limits.refusal("192.0.2.1") == "too-many-of-client"


def test_a_number_that_descriptors_do_not_carry_is_lowered() -> None:
    """What an operator asks for is had as far as it can be; a worker never runs out of descriptors."""
    assert (_limits(connections=100).most, _limits(connections=100).lowered) == (100, False)
    assert (_limits(connections=5000).most, _limits(connections=5000).lowered) == (460, True)


def test_handshakes_in_progress_have_a_number() -> None:
    """An address's handshakes are counted while they last."""
    limits = _limits(handshakes_per_client=1)
    assert limits.begin_handshake("192.0.2.1")
    assert not limits.begin_handshake("192.0.2.1")
    assert limits.begin_handshake("192.0.2.2")
    limits.end_handshake("192.0.2.1")
    assert limits.begin_handshake("192.0.2.1")
