"""Content as it arrives: the same in any pieces, and chunks that are nothing but chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.edge.http1.bodies import Body, body
from addons.edge.http1.faults import FaultError, MalformedError, OversizedTrailersError
from addons.edge.http1.framing import CHUNKED, UNTIL_CLOSE
from addons.edge.settings import Bounds
from tests.addons.edge.http1.test_sections import cut

BOUNDS = Bounds()


def read(reader: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The content, and what came behind it."""
    content = b""
    for number, piece in enumerate(pieces):
        at = reader.take(piece, 0)
        content += reader.content
        if reader.done:
            return content, piece[at:] + b"".join(pieces[number + 1 :])
    return content, b""


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40)), places=st.lists(st.integers(0, 900), max_size=12),
    trailers=st.lists(st.sampled_from([b"Grpc-Status: 0", b"X: ", b"Content-Digest: a"])),
)  # fmt: skip
def test_the_pieces_do_not_matter(chunks: list[bytes], places: list[int], trailers: list[bytes]) -> None:
    """However the network cuts chunks and trailers: the same content, the same trailers, the same rest."""
    sent = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    sent += b"".join(line + b"\r\n" for line in trailers) + b"\r\n"
    reader = body(CHUNKED, BOUNDS, strict=True)
    assert read(reader, cut(sent + b"GET /next", places)) == (b"".join(chunks), b"GET /next")
    assert [b"%s: %s" % field for field in reader.trailers] == trailers


@given(length=st.integers(0, 100), places=st.lists(st.integers(0, 200), max_size=6))
def test_a_length_ends_where_it_says(length: int, places: list[int]) -> None:
    """Not a byte more or less."""
    data = bytes(range(100)) + b"rest"
    reader = body(length, BOUNDS, strict=True)
    if not length:
        assert reader.done
    else:
        assert read(reader, cut(data, places)) == (data[:length], data[length:])


@pytest.mark.parametrize(
    "sent",
    [
        b"x\r\n", b"-5\r\nabcde\r\n", b"+5\r\n", b"0x5\r\n", b" 5\r\n", b"5 \r\n", b"5\t\r\n", b"5\n", b"5\nabcde\n",
        b"5\r\nabcdef\r\n", b"5\r\nabcdeX", b"5\r\nabcde\n", b"5\r\nabcde\rX", b"5\rabcde\r\n", b"5;\x00\r\n",
        b"5;a\rb\r\n", b"5;a\x0bb\r\n", b"5;\r\n", b"5 5\r\n", b"5,5\r\n", b"5 a=b\r\n", b'5;a="\r\n', b"\r\n",
        b"8000000000000000\r\n", b"10000000000000005\r\n", b"00000000000000005\r\n", b"\xb2\r\n", b"5_0\r\n",
        b"g\r\n", b"0\n\n", b"0\r\n\n", b"0\r\nA: b\n\r\n", b"0\r\nA: b\r\n c\r\n\r\n", b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n", b"0\r\nA: b\rC: d\r\n\r\n", b"0\r\nA\r\n\r\n", b"0\r\n: b\r\n\r\n", b"5.\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 1000])
def test_chunks_that_are_none_are_refused(sent: bytes, step: int) -> None:
    """Sizes that are no hexadecimal number, line ends that are none, content beyond its size, folded trailers: where
    such a message ends is a matter of opinion."""
    with pytest.raises(FaultError):
        read(body(CHUNKED, BOUNDS, strict=True), [sent[at : at + step] for at in range(0, len(sent), step)])


@pytest.mark.parametrize("extension", [b"", b";a", b";a=b", b' ; a = "b\\"; c" ;d', b";a=b;c=d"])
def test_extensions_are_read_over(extension: bytes) -> None:
    """They mean nothing to us (RFC 9112 section 7.1.1), and go no further."""
    sent = b"5" + extension + b"\r\nabcde\r\n0" + extension + b"\r\n\r\n"
    assert read(body(CHUNKED, BOUNDS, strict=True), [sent]) == (b"abcde", b"")


def test_a_server_may_put_spaces_behind_a_size() -> None:
    """Old ones do; nothing hangs on it, as what goes on is framed by us."""
    assert read(body(CHUNKED, BOUNDS, strict=False), [b"5  \r\nabcde\r\n0 \r\n\r\n"]) == (b"abcde", b"")


@pytest.mark.parametrize(
    ("sent", "repeated"),
    [
        (b"5;", b"a=b;"), (b"", b"1;abcdefgh=ijklmnop\r\nx\r\n"), (b"0\r\nA: ", b"b" * 99), (b"0\r\n", b"A: b\r\n"),
        (b"1", b"0"),
    ],
)  # fmt: skip
def test_extensions_and_trailers_have_bounds(sent: bytes, repeated: bytes) -> None:
    """A line before a chunk that never ends, or extensions on every byte, or trailers without end."""
    with pytest.raises(OversizedTrailersError):
        read(body(CHUNKED, BOUNDS, strict=True), [sent] * bool(sent) + [repeated] * 5000)


def test_what_is_signed_chunk_by_chunk_goes_through() -> None:
    """Extensions that are less than what they are about are no attack, however many they are."""
    chunk = b"400;chunk-signature=" + b"a" * 64 + b"\r\n" + b"x" * 1024 + b"\r\n"
    content, _ = read(body(CHUNKED, BOUNDS, strict=True), [chunk] * 500 + [b"0\r\n\r\n"])
    assert len(content) == 500 * 1024


def test_many_small_chunks_go_on_as_one_piece() -> None:
    """A thousand chunks of one byte in one read are one event for the layers above, not a thousand."""
    reader = body(CHUNKED, BOUNDS, strict=True)
    reader.take(b"1\r\na\r\n" * 1000, 0)
    assert reader.content == b"a" * 1000


def test_an_end_before_the_end_is_no_end() -> None:
    """A message that was cut off is not passed for a whole one, but where the connection's end is the message's."""
    for length in (5, CHUNKED):
        with pytest.raises(MalformedError, match="peer closed connection"):
            body(length, BOUNDS, strict=False).end()
    reader = body(UNTIL_CLOSE, BOUNDS, strict=False)
    assert read(reader, [b"a", b"b"]) == (b"ab", b"")
    reader.end()
    assert reader.done
