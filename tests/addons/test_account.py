"""Who is one client, and who is another."""

from __future__ import annotations

import pytest

from addons.account import account


@pytest.mark.parametrize(
    ("host", "owner"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("fe80::2", "fe80::2"),
        ("a socket", "unknown"),
    ],
)
def test_a_client_is_an_address_or_a_network_that_one_client_commands(host: str, owner: str) -> None:
    """An IPv4 address is a client, and so is an IPv6 /64: who has one makes up addresses in it as it likes."""
    assert account(host) == owner
