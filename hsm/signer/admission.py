"""Who may use the admin socket: who can read the token beside it, which is new with each start of the signer.

The kernel's word (SO_PEERCRED) says which user connects, and that is not enough: where workers are of the signer's own
user, one that is taken over connects, too. Landlock keeps it from files, the token among them, and cannot keep it from
the socket; neither pid nor parent would tell it from a command line for sure, since it may start other processes.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from contextlib import suppress

from hsm.errors import RefusedError
from hsm.wire.admin import Admit
from hsm.wire.run_directory import ADMIN_TOKEN, RunDirectory

logger = logging.getLogger("hsmitm.signer")


class Admission[C]:
    """Connections that have shown the token."""

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.path / ADMIN_TOKEN
        self._token = secrets.token_hex(32)
        self._admitted: set[C] = set()

    def publish(self) -> None:
        """Write the token for our own user. It stands there before anybody can connect."""
        unfinished = self._path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._token)
        unfinished.replace(self._path)

    def admit(self, channel: C, shown: Admit) -> None:
        """Take note of a token. Raises RefusedError for another one."""
        if not hmac.compare_digest(shown.token.encode(), self._token.encode()):
            raise RefusedError("that is not this signer's token")
        self._admitted.add(channel)

    def check(self, channel: C, pid: int) -> None:
        """Raise RefusedError unless the connection has shown the token."""
        if channel not in self._admitted:
            logger.warning("refused process %d on the admin socket: it has not shown the token", pid)
            raise RefusedError(f"show the token in {self._path} first; the command line of this version does")

    def forget(self, channel: C) -> None:
        """The connection has ended."""
        self._admitted.discard(channel)

    def close(self) -> None:
        """The token is of no use any more."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
