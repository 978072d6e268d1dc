"""A signature, and what its record says of it. No I/O."""

from __future__ import annotations

from typing import Self


class Signature(bytes):
    """A verified signature. `member` is the name of the one that made it, `ms` how long its attempt took."""

    member: str
    ms: float

    def __new__(cls, signature: bytes, member: str, ms: float) -> Self:
        """The bytes are the signature's own."""
        made = super().__new__(cls, signature)
        made.member, made.ms = member, ms
        return made
