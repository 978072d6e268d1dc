"""Which other addresses an address stands for."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.addresses import faces, same_address


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_found_in_its_mapped_form(address: ipaddress.IPv4Address) -> None:
    """Whatever is denied as IPv4 is denied in an IPv6 socket's spelling."""
    assert address in faces(ipaddress.IPv6Address(f"::ffff:{address}"))
    assert address in faces(ipaddress.IPv6Address(f"64:ff9b::{address}"))


@given(st.ip_addresses(v=6))
def test_an_address_is_always_judged_as_itself(address: ipaddress.IPv6Address) -> None:
    """What an address may stand for comes on top of what it is."""
    assert next(iter(faces(address))) == address


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:0DB8:0:0::1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("64:ff9b::c000:201", "192.0.2.1", False),
    ],
)
def test_an_address_in_other_words(one: str, other: str, same: bool) -> None:
    """Spellings, scopes and IPv4 in IPv6 are one address; one that another network translates is not."""
    assert same_address(one, other) is same
