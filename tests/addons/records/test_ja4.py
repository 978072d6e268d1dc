"""The fingerprint of a TLS client, held to the values that its specification gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.records.ja4 import GREASE, _text, ja4

_CIPHERS = "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"
_EXTENSIONS = "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"
_SIGNATURES = "0403,0804,0401,0503,0805,0501,0806,0601"
"""The client of JA4.md, in the order of its ClientHello."""


def _numbers(listed: str) -> list[int]:
    return [int(one, 16) for one in listed.split(",") if one]


def _vector(listed: str, length_bytes: int = 2) -> bytes:
    content = b"".join(one.to_bytes(2) for one in _numbers(listed))
    return len(content).to_bytes(length_bytes) + content


def _client(ciphers: str = _CIPHERS, extensions: str = _EXTENSIONS, signatures: str | None = _SIGNATURES) -> str:
    found = dict.fromkeys(_numbers(extensions), b"")
    if signatures is not None and 13 in found:
        found[13] = _vector(signatures)
    if 43 in found:
        found[43] = _vector("7a7a,0304,0303", 1)
    return ja4(0x0303, _numbers(ciphers), found, b"h2" if 16 in found else b"")


def test_the_client_of_the_specification_has_its_fingerprint() -> None:
    """JA4.md's own example."""
    assert _client() == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_grease_is_ignored_everywhere() -> None:
    """What a browser sprinkles differs from connection to connection, and its fingerprint does not."""
    greased = _client(f"0a0a,{_CIPHERS}", f"1a1a,{_EXTENSIONS},fafa", f"{_SIGNATURES},2a2a")
    assert greased == _client()
    assert len(GREASE) == 16


def test_a_hello_without_signature_algorithms_is_hashed_without_them() -> None:
    """JA4.md's value for the same extensions: no underscore at the end of what is hashed."""
    assert _client(signatures=None) == "t13d1516h2_8daaf6152771_6d807ffa2a79"


def test_what_is_not_there_is_zeros() -> None:
    """No ciphers, no extensions, no name, no protocol."""
    assert ja4(0x0303, [], {}, b"") == "t12i000000_000000000000_000000000000"
    assert ja4(0x0303, [], {0: b"", 16: b""}, b"").endswith("_000000000000")


@pytest.mark.parametrize(
    ("alpn", "ends"),
    [
        (b"http/1.1", "h1"),
        (b"a", "aa"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"\x30\xab", "3b"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ],
)
def test_the_first_protocol_stands_as_its_ends(alpn: bytes, ends: str) -> None:
    """JA4.md's examples, those that are no letters among them."""
    assert ja4(0x0303, [], {}, alpn)[8:10] == ends


@pytest.mark.parametrize(
    ("version", "shown"),
    [(0x0303, "12"), (0x0302, "11"), (0x0301, "10"), (0x0300, "s3"), (0x0002, "s2"), (0x7F00, "00")],
)
def test_a_client_without_supported_versions_has_its_legacy_version(version: int, shown: str) -> None:
    """Versions that nobody knows are zeros."""
    assert ja4(version, [], {}, b"")[1:3] == shown


def test_counts_end_at_99() -> None:
    """Two characters are all that there is room for."""
    assert ja4(0x0303, range(1, 200), dict.fromkeys(range(100, 300), b""), b"")[4:8] == "9999"


@given(st.dictionaries(st.integers(0, 65535), st.binary(max_size=9)), st.binary(max_size=4))
def test_any_hello_has_a_fingerprint(extensions: dict[int, bytes], alpn: bytes) -> None:
    """Vectors that are cut short, too."""
    assert len(ja4(0x0303, [0x1301], extensions, alpn)) == 36


def test_hellos_that_fill_their_bound_are_not_remembered() -> None:
    """A client that makes up a large hello each time takes no memory: each would be a megabyte."""
    _text.cache_clear()
    for number in range(8):
        made = ja4(0x0303, range(number, 30_000), {}, b"")
        assert made.startswith("t12i99")
    assert _text.cache_info().currsize == 0
    ja4(0x0303, range(20), {}, b"h2")
    assert _text.cache_info().currsize == 1
