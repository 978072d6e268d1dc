"""Connections that end while their client still sends."""

from __future__ import annotations

import pytest

from tests.addons.edge.talk import Talk

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
TOO_LARGE = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 33_000


@pytest.mark.parametrize("way", ["time", "bytes", "end"])
def test_what_still_comes_is_dropped_for_a_while(way: str) -> None:
    """Until the client has had time to read its answer, has sent a mebibyte more, or has ended its direction."""
    talk = Talk().client(TOO_LARGE, GET * 10)
    assert talk.status == "431"
    assert talk.closed == []
    if way == "time":
        talk.later()
    elif way == "bytes":
        talk.client(*[b"a" * 65536] * 16)
    else:
        talk.client_ends(half=True)
    assert talk.closed == ["client"]
    assert talk.to_server == b""
