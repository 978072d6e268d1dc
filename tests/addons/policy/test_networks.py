"""Networks and addresses: what is in what, however an address is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.policy.networks import Networks, NetworkTable, face_numbers, network, number


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.255.0.1", True),
        ("11.0.0.0", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:a00:1", True),
        ("fd12::1", True),
        ("fe80::1%eth0", False),
        ("fd12::1%eth0", True),
        ("fc00::1", False),
    ],
)
def test_addresses_in_networks(address: str, inside: bool) -> None:  # a table's columns
    """An address is found in its network, also as an IPv6 address that is an IPv4 address, and with a scope."""
    found = number(address)
    assert found is not None
    assert (found in Networks(["10.0.0.0/8", "fd00::/8"])) is inside


def test_networks_of_mapped_addresses() -> None:
    """A network of IPv4-mapped addresses is the IPv4 network."""
    assert str(network("::ffff:10.0.0.0/104")) == "10.0.0.0/8"
    assert str(network("10.1.2.3")) == "10.1.2.3/32"


@pytest.mark.parametrize("text", ["", "name", "10.0.0", "0x0a.1", "10.0.0.1:443", "2130706433", "1" * 65])
def test_what_is_no_address(text: str) -> None:
    """What only a resolver would take for an address is none here."""
    assert number(text) is None
    assert face_numbers(text) == ()


def test_an_address_that_carries_another() -> None:
    """An IPv4 address in an IPv6 one (NAT64) is seen beside it."""
    assert face_numbers("64:ff9b::10.0.0.1")[1] == number("10.0.0.1")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda one: not one.ipv4_mapped))
four = st.tuples(st.ip_addresses(v=4).map(int), st.integers(0, 32))
six = st.tuples(st.ip_addresses(v=6).map(int), st.integers(0, 95))
networks = st.one_of(
    four.map(lambda one: ipaddress.IPv4Network(one, strict=False)),
    six.map(lambda one: ipaddress.IPv6Network(one, strict=False)),
)


@given(st.lists(networks, max_size=6), addresses, st.data())
def test_the_table_agrees_with_ipaddress(
    all_: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    data: st.DataObject,
) -> None:
    """A look-up finds each network that has the address, and none else."""
    if all_ and data.draw(st.booleans()):
        address = data.draw(st.sampled_from(all_)).network_address
    table = NetworkTable((one, str(one)) for one in all_)
    found = number(str(address))
    assert found is not None
    expected = [str(one) for one in all_ if one.version == address.version and address in one]
    if not (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped):
        assert sorted(table.find(found)) == sorted(expected)
