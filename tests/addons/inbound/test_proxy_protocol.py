"""The PROXY header, byte for byte; a real server reads it in tests/integration/test_inbound_told.py."""

from __future__ import annotations

import pytest

from addons.inbound.proxy_protocol import header

_SIGNATURE = "0d0a0d0a000d0a515549540a"


@pytest.mark.parametrize(
    ("client", "reached", "rest"),
    [
        (("192.0.2.7", 49152), ("198.51.100.1", 443), "21 11 000c c0000207 c6336401 c000 01bb"),
        (
            ("2001:db8::7", 1), ("2001:db8::1", 65535),
            "21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000001 0001 ffff",
        ),
        (
            ("192.0.2.7", 2), ("fe80::1%eth0", 3),
            "21 21 0024 00000000000000000000ffffc0000207 fe800000000000000000000000000001 0002 0003",
        ),
    ],
)  # fmt: skip
def test_header(client: tuple[str, int], reached: tuple[str, int], rest: str) -> None:
    """Version 2, PROXY, TCP over IPv4 or IPv6: addresses and ports of both ends, in network order."""
    assert header(client, reached) == bytes.fromhex(_SIGNATURE + rest)
