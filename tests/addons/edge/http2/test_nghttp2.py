"""What an operator reads where nghttp2 cannot be used, and how fields are handed to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.edge.http2 import nghttp2
from hsm.errors import MisconfiguredError


def test_missing_library() -> None:
    """An operator without nghttp2 reads which package is missing."""
    with pytest.raises(MisconfiguredError, match=r"libnghttp2.so.99 cannot be used: .*needs nghttp2 .*libnghttp2-14"):
        nghttp2.load("libnghttp2.so.99")


def test_other_library() -> None:
    """A library that is no nghttp2 is refused with a text, not with a crash."""
    with pytest.raises(MisconfiguredError, match=r"libc.so.6 cannot be used: .*nghttp2_version"):
        nghttp2.load("libc.so.6")


def test_old_library() -> None:
    """An nghttp2 that is too old is named with its version."""
    with pytest.raises(MisconfiguredError, match=r"libnghttp2.so.14 is nghttp2 1\.\d+\.\d+, which is too old"):
        nghttp2.load(oldest=(9, 0, 0))


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=30))
def test_fields_are_handed_over_as_they_are(pairs: list[tuple[bytes, bytes]]) -> None:
    """Names and values of any bytes and length reach the library whole and in their order."""
    entries, number, alive = nghttp2.fields(pairs)
    buffer = nghttp2.ffi.buffer
    assert [
        (bytes(buffer(one.name, one.namelen)), bytes(buffer(one.value, one.valuelen)))
        for one in (entries[index] for index in range(number))
    ] == pairs
    del alive


def test_errors_have_words() -> None:
    """Codes of the library and of the protocol are told in words."""
    assert "Flooding" in nghttp2.reason(nghttp2.ERR_FLOODED)
    assert nghttp2.reason(nghttp2.ENHANCE_YOUR_CALM) == "ENHANCE_YOUR_CALM"
