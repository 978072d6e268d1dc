"""Heads as they arrive: in any pieces, never more than the bounds, never looked at twice."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.edge.http1.faults import FaultError, MalformedError, OversizedHeadError
from addons.edge.http1.sections import Section


def read(section: Section, pieces: list[bytes]) -> tuple[list[bytes] | None, bytes]:
    """The lines, and what came behind them."""
    for number, piece in enumerate(pieces):
        at = 0
        while at < len(piece):
            at = section.take(piece, at)
            if section.lines is not None:
                return section.lines, piece[at:] + b"".join(pieces[number + 1 :])
    return None, b""


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(marks) if end > begin]


@given(places=st.lists(st.integers(0, 200), max_size=8), empty=st.integers(0, 4))
def test_the_pieces_do_not_matter(places: list[int], empty: int) -> None:
    """However the network cuts a head, it is the same head, and the same rest behind it."""
    data = b"\r\n" * empty + b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest\r\n\r\nof it"
    section = Section(4096, 10, 1000, empty_lines=4)
    assert read(section, cut(data, places)) == ([b"GET / HTTP/1.1", b"Host: a"], b"rest\r\n\r\nof it")


@given(
    places=st.lists(st.integers(0, 200), max_size=8), trailers=st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"])
)
def test_trailers_may_be_none(places: list[int], trailers: bytes) -> None:
    """Behind the last chunk an empty line is enough."""
    section = Section(4096, 10, 1000, trailers=True)
    lines = trailers.split(b"\r\n")[:-1]
    assert read(section, cut(trailers + b"\r\nNEXT", places)) == (lines, b"NEXT")


@pytest.mark.parametrize(
    "text", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: a\n\n", b"GET\rX", b"GET /\x00", b"\n"]
)
@pytest.mark.parametrize("step", [1, 100])
def test_wrong_line_ends_are_seen_as_they_come(text: bytes, step: int) -> None:
    """Who ends lines with LF alone is told so at once, not after an idle time-out."""
    with pytest.raises(MalformedError):
        read(Section(4096, 10, 1000, empty_lines=4), [text[at : at + step] for at in range(0, len(text), step)])


@pytest.mark.parametrize("step", [1, 7, 65536])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 500 + b"\r\n") * 30, "larger than 4096 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"A:\r\n" * 90, "more than 50 fields"),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 1100, "longer than 1000 bytes"),
        (b"GET /" + b"a" * 1100, "longer than 1000 bytes"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_each_bound_holds_while_a_head_arrives(step: int, text: bytes, sentence: str, end: bytes) -> None:
    """A head that is too large is refused before it is whole, and no more than a piece of it is kept beyond that."""
    section = Section(4096, 50, 1000)
    text += end
    with pytest.raises(OversizedHeadError, match=sentence):
        read(section, [text[at : at + step] for at in range(0, len(text), step)])
    assert section.kept <= 4096 + step


def test_a_head_may_be_as_large_as_its_bounds() -> None:
    """The bounds are what may be, not what may not."""
    text = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 49 + b"C: " + b"d" * 997
    lines, _ = read(Section(len(text), 50, 1000), [text + b"\r\n\r\n"])
    assert lines is not None
    assert len(lines) == 51


def test_empty_lines_in_front_are_few() -> None:
    """One is left by old clients; a stream of them is no request."""
    with pytest.raises(MalformedError, match="empty line"):
        read(Section(4096, 10, 1000, empty_lines=4), [b"\r\n"] * 5)
    with pytest.raises(FaultError):
        read(Section(4096, 10, 1000), [b"\r\nHTTP/1.1 200 OK\r\n\r\n"])


@pytest.mark.alone
def test_one_byte_at_a_time_costs_no_more_for_a_long_head() -> None:
    """A head of 60 kB in pieces of one byte: the last ones are as cheap as the first."""

    def taken(length: int) -> float:
        section = Section(1 << 20, 10, 1 << 20)
        begun = time.process_time()
        for _ in range(length):
            section.take(b"a", 0)
        return (time.process_time() - begun) / length

    assert min(taken(60_000) for _ in range(3)) < 3 * min(taken(3_000) for _ in range(3))
