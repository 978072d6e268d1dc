"""Connection options: what a peer names of its own goes, what is ours or a script's it cannot name."""

from __future__ import annotations

import pytest

from addons.edge.http1 import hops
from addons.edge.http1.heads import Fields, read_fields


def received(*lines: bytes) -> Fields:
    """What is left of a head's fields."""
    fields, named = read_fields(list(lines))
    return hops.received(fields, named)


def test_what_the_sender_names_is_its_connections_alone() -> None:
    """RFC 9110 section 7.6.1, in whatever case and however many fields the options are."""
    lines = [b"A: 1", b"X-One: 2", b"Connection: x-ONE, close", b"connection: Y", b"Y: 3", b"Z: 4"]
    assert [name for name, _ in received(*lines)] == [b"A", b"Connection", b"connection", b"Z"]


@pytest.mark.parametrize("name", [b"Host", b"Cookie", b"X-Forwarded-For", b"Authorization", b"Content-Length"])
def test_what_is_for_all_recipients_cannot_be_named(name: bytes) -> None:
    """A client cannot have fields dropped that say who it is, or where its message ends."""
    assert (name, b"x") in received(name + b": x", b"Connection: " + name)


@pytest.mark.parametrize("way", ["named", "alone"])
def test_what_is_about_one_connection_stays_there(way: str) -> None:
    """How long a server keeps its connection is no promise of ours, and a proxy's option is nothing for a server."""
    fields = [(b"Keep-Alive", b"timeout=5"), (b"A", b"1"), (b"Proxy-Connection", b"keep-alive")]
    if way == "named":
        fields.append((b"Connection", b"keep-alive"))
    assert hops.sent(fields) == [(b"A", b"1"), *fields[3:]]


@pytest.mark.parametrize(
    ("connection", "passed"),
    [
        (b"close", b"close"), (b"Keep-Alive", b"Keep-Alive"), (b"keep-alive, Upgrade", b"keep-alive, Upgrade"),
        (b"Client-Cert", None), (b"close, client-cert-chain", b"close"), (b"Client-Cert, Keep-Alive ,X", b"Keep-Alive"),
        (b"", None), (b", ,", None), (b"Client_Cert", None),
    ],
)  # fmt: skip
def test_options_that_name_fields_do_not_go_on(connection: bytes, passed: bytes | None) -> None:
    """The server behind us is not told to drop the certificate that we show it; what is usual stays as it is."""
    fields = [(b"Client-Cert", b":genuine:"), (b"Connection", connection), (b"Upgrade", b"websocket")]
    expected = [(b"Client-Cert", b":genuine:"), (b"Upgrade", b"websocket")]
    if passed is not None:
        expected.insert(1, (b"Connection", passed))
    assert hops.sent(fields) == expected


@pytest.mark.parametrize(
    ("upgrade", "passed"),
    [
        (b"websocket", b"websocket"), (b"h2c", None), (b"H2C", None), (b"h2c, websocket", b"websocket"),
        (b"websocket,h2c", b"websocket"), (b"HTTP/2.0", None), (b"TLS/1.2", None), (b"TLS/1.0, HTTP/1.1", None),
    ],
)  # fmt: skip
def test_no_switch_to_what_nobody_could_inspect(upgrade: bytes, passed: bytes | None) -> None:
    """HTTP/2 or TLS behind an Upgrade would go round inspection: it is not offered to the server."""
    fields = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", upgrade), (b"HTTP2-Settings", b"AAMAAABk")]
    expected = [(b"Connection", b"Upgrade"), (b"Upgrade", passed)] if passed else []
    assert hops.sent(fields) == expected
    assert hops.offered(hops.sent(fields)) == ([passed] if passed else [])


@pytest.mark.parametrize(
    ("te", "passed"),
    [(b"trailers", b"trailers"), (b"gzip", None), (b"gzip;q=0.5, trailers", b"trailers"), (b"Trailers", b"Trailers")],
)
def test_of_te_only_trailers_is_true_of_us(te: bytes, passed: bytes | None) -> None:
    """A client's promise to understand gzip as a transfer coding is not ours; that it takes trailers is."""
    fields = [(b"TE", te), (b"Connection", b"TE")]
    assert hops.sent(fields) == ([(b"TE", passed), (b"Connection", b"TE")] if passed else [])


def test_what_is_not_about_a_connection_is_not_touched() -> None:
    """Byte for byte, in its order."""
    fields = [(b"a", b"1"), (b"B", b"2"), (b"a", b"3"), (b"Pragma", b"x")]
    assert hops.sent(fields) == fields
