"""The name server of the edge measurement."""

from __future__ import annotations

import pytest

from bench.edge.name_server import reply
from bench.edge.target import SILENT


def query(name: str, kind: int) -> bytes:
    """As RFC 1035 section 4.1 has it."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0" + labels + b"\0" + kind.to_bytes(2) + b"\0\1"


@pytest.mark.parametrize(
    ("name", "kind", "answers", "code"),
    [("w0.bench.test", 1, 1, 0), ("W0.Bench.Test", 1, 1, 0), ("w0.bench.test", 28, 0, 0), ("example.com", 1, 0, 3)],
)
def test_replies(name: str, kind: int, answers: int, code: int) -> None:
    """Names of .test are this machine, by IPv4 alone; others do not exist."""
    told = reply(query(name, kind))
    assert told[:2] == b"\x12\x34"
    assert told[3] & 0x0F == code
    assert int.from_bytes(told[6:8]) == answers
    if answers:
        assert told.endswith(b"\0\4\x7f\0\0\1")


def test_silence() -> None:
    """Some names get no answer, which is what they are for."""
    assert reply(query(f"n1.{SILENT}", 1)) == b""
