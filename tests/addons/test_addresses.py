"""Which other addresses an address stands for."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from addons.addresses import faces


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_found_in_its_mapped_form(address: ipaddress.IPv4Address) -> None:
    """Whatever is denied as IPv4 is denied in an IPv6 socket's spelling."""
    assert address in faces(ipaddress.IPv6Address(f"::ffff:{address}"))
    assert address in faces(ipaddress.IPv6Address(f"64:ff9b::{address}"))


@given(st.ip_addresses(v=6))
def test_an_address_is_always_judged_as_itself(address: ipaddress.IPv6Address) -> None:
    """What an address may stand for comes on top of what it is."""
    assert next(iter(faces(address))) == address
