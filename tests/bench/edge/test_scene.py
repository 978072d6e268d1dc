"""What attackers say of what they meet."""

from __future__ import annotations

import socket
import ssl

import pytest

from bench.edge.scene import RefusedError, Scene, answer, outcome, status
from bench.edge.target import Target


@pytest.fixture
def scene() -> Scene:
    """Of a second, aimed at nothing."""
    return Scene(
        Target(
            seconds=0.3, proxy="", socks="", passing="", inbound="", inbound_h2="", own_port=0, status="",
            worker_socket="", worker_ids=[], ca="", origin_ca="", certificate="", key="", client_certificate="",
            client_key="", tls_port=0, h2_port=0,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RefusedError("status 403"), "status 403"),
        (ssl.SSLEOFError(), "closed"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (TimeoutError(), "no answer, or not read"),
        (ssl.SSLError(), "TLS: error"),
        (ValueError("x"), "ValueError: x"),
    ],
)
def test_words(error: Exception, words: str) -> None:
    """Every way in which a connection can end has a word."""
    assert outcome(error) == words


def test_an_alert_is_named() -> None:
    """A TLS alert is told by its name: it is what a client sees of a refusal."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(b"\x15\x03\x03\x00\x02\x02\x32")
    with pytest.raises(ssl.SSLError) as met:
        client.do_handshake()
    assert outcome(met.value) == "alert decode_error"


def test_variants(scene: Scene) -> None:
    """All variants have their outcome, those that fail as well."""

    def fails() -> str:
        raise ConnectionResetError

    scene.each([("a", lambda: "status 400"), ("b", fails)])
    scene.again(fails, threads=2)
    assert scene.over
    assert scene.seen.outcomes.pop("reset") > 2
    assert scene.seen.outcomes == {"a: status 400": 1, "b: reset": 1}


def test_flood(scene: Scene) -> None:
    """A flood ends with its time, and what could be sent is told."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        scene.flood(ours, [b"x" * 1000] * 5)
        assert scene.seen.sent_mb == pytest.approx(0.005)
        theirs.sendall(b"HTTP/1.1 431 Too Large\r\n\r\n")
        assert status(answer(ours, quiet_s=0.05)) == "status 431"
    assert status(b"") == "closed"
