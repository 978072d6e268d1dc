"""What is kept of a PIN that was tried: a salted scrypt digest, how often, and what came of it. No I/O.

The place that it was tried at (module, partition, user type) is part of what is digested: the same PIN on another
partition is another try.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from msgspec import Struct, structs

_DIGEST_DIGITS = 128
"""64 bytes of scrypt in hexadecimal."""
_FIELDS = 4


class Record(Struct, frozen=True):
    """One line of text. `tries` are those without a plain answer; `why` is the last one's end in words, where no other
    follows by itself. `placed` is whether the place is digested, too: earlier versions had salt and PIN alone."""

    salt: str
    digest: str
    tries: int = 0
    why: str = ""
    placed: bool = True

    @classmethod
    def of(cls, pin: str, place: str, salt: str = "") -> Record:
        """A record of a PIN (some 50 ms of a core), with this salt or a new one."""
        salt = salt or secrets.token_hex(16)
        return cls(salt, _digest(_tried(pin, place), salt))

    @classmethod
    def parse(cls, line: str) -> Record:
        """As `str` made it, or an earlier version. Raises ValueError."""
        salt, digest, *rest = line.strip().split(":", _FIELDS - 1)
        if len(digest) != _DIGEST_DIGITS or len(rest) == 1:
            raise ValueError("no record of a PIN")
        bytes.fromhex(salt + digest)
        return cls(salt, digest, int(rest[0]), rest[1]) if rest else cls(salt, digest, placed=False)

    def __str__(self) -> str:
        return f"{self.salt}:{self.digest}:{self.tries}:{' '.join(self.why.split())}"

    def again(self) -> Record:
        """The same PIN, with one try more."""
        return structs.replace(self, tries=self.tries + 1, why="")

    def is_of(self, pin: str, place: str) -> bool:
        """Whether it is this PIN's, tried at this place."""
        return hmac.compare_digest(self.digest, _digest(_tried(pin, place) if self.placed else pin, self.salt))


def _tried(pin: str, place: str) -> str:
    return f"{pin}\0{place}"


def _digest(text: str, salt: str) -> str:
    return hashlib.scrypt(text.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1).hex()
