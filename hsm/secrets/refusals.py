"""The PINs that a token refused. A wrong one is tried exactly once: it is remembered on disk, as a salted scrypt
digest, so that no restart of any process tries it again.

Each start of a member asks `check` before it logs in, and says what came of it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from hsm.errors import MisconfiguredError, PinRefusedError

_DIGEST_DIGITS = 128
"""64 bytes of scrypt in hexadecimal."""


class Refusals:
    """One file for each member whose last PIN was refused, in a directory of the signer's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory. Raises MisconfiguredError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MisconfiguredError(f"cannot make the state directory {self._directory}: {error.strerror}") from error

    def path(self, member: str) -> Path:
        """The file that remembers this member's refused PIN."""
        return self._directory / f"{member}.pin-refused"

    def check(self, member: str, pin: str) -> None:
        """Raise PinRefusedError where this very PIN was refused before. A different PIN is a new try.

        A file that cannot be read as one of ours raises MisconfiguredError: it may stand for a PIN that was refused.
        """
        path = self.path(member)
        try:
            salt, _, digest = path.read_text().strip().partition(":")
            same = len(digest) == _DIGEST_DIGITS and hmac.compare_digest(bytes.fromhex(digest), _digest(pin, salt))
            spoilt = len(digest) != _DIGEST_DIGITS
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            same, spoilt = False, True
        if spoilt:
            raise MisconfiguredError(
                f"cannot read {path}, which remembers a refused PIN; remove it when the PIN is right"
            )
        if same:
            raise PinRefusedError(
                f"the partition refused this PIN before; it is not tried again, because tries lock a partition. "
                f"Give the right PIN; if it was right after all, remove {path}"
            )

    def remember(self, member: str, pin: str) -> None:
        """Note on disk that the token refused this PIN: whole or not at all, whenever the machine stops."""
        salt = secrets.token_hex(16)
        path = self.path(member)
        unfinished = path.with_suffix(".new")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{salt}:{_digest(pin, salt).hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def forget(self, member: str) -> None:
        """The token accepted a PIN."""
        self.path(member).unlink(missing_ok=True)


def _digest(pin: str, salt: str) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1)
