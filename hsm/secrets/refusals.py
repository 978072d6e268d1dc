"""The PINs that a token refused, or may have refused. One is tried exactly once for each answer: it is remembered on
disk, as a salted scrypt digest, so that no restart of any process tries it again.

Each login asks `check` before anything is started, and `begin` before the PIN leaves us; what comes of it is said to
the `Attempt` that `begin` gives.

    <member>.pin-tried     the try that is made now, or that had no plain answer: we were killed, the module hung
    <member>.pin-refused   the token said that this PIN is wrong

A PIN whose try had no answer is tried once more by ourselves where the token counts no wrong PIN: an HSM that was
switched off in the middle of a login comes back without an operator, and a wrong PIN costs two tries at most. One that
had an answer, whatever it was, is tried again only for an operator.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from hsm.errors import LoginError, MisconfiguredError, PinRefusedError
from hsm.secrets.attempt import MOST_TRIES, Attempt, unreadable
from hsm.secrets.record import Record


class Refusals:
    """Two files at most for each member, in a directory of the signer's own. Every method reads or writes files, and
    most digest for 50 ms: not for an event loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = secrets.token_bytes(32)
        self._records: dict[bytes, Record] = {}

    def prepare(self) -> None:
        """Make the directory. Raises MisconfiguredError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MisconfiguredError(f"cannot make the state directory {self._directory}: {error.strerror}") from error

    def path(self, member: str) -> Path:
        """The file that remembers this member's refused PIN."""
        return self._directory / f"{member}.pin-refused"

    def tried_path(self, member: str) -> Path:
        """The file that notes a try of this member's PIN."""
        return self._directory / f"{member}.pin-tried"

    def check(self, member: str, pin: str, place: str = "", *, asked: bool = False) -> None:
        """Raise PinRefusedError where this very PIN was refused before at this place, LoginError where it was tried and
        only an operator may have it tried again: `asked` says that one does. A different PIN is a new try.

        A file that cannot be read as one of ours raises MisconfiguredError: it may stand for a PIN that was refused.
        """
        refused = _read(self.path(member))
        if refused is not None and refused.is_of(pin, place):
            raise self._refused_before(member)
        tried = _read(self.tried_path(member), begun=True)
        held = tried is not None and (tried.tries >= MOST_TRIES or tried.why)
        if tried is not None and held and not asked and tried.is_of(pin, place):
            raise self._left(member, tried)

    def _record(self, member: str, pin: str, place: str) -> Record:
        """A new record of a member's PIN. It is made once: a member that is started again must not wait for that."""
        of_what = hmac.digest(self._key, f"{member}\0{pin}\0{place}".encode(), "sha256")
        if of_what not in self._records:
            self._records[of_what] = Record.of(pin, place)
        return self._records[of_what]

    def begin(
        self,
        member: str,
        pin: str,
        place: str = "",
        *,
        counted: bool = False,
        asked: bool = False,
    ) -> Attempt:
        """Note that the PIN is tried now. `counted` is whether the token says that it counts a wrong PIN.

        Raises what `check` raises; PinRefusedError, too, where the token counts a wrong PIN since a try whose end is
        not known; TryLaterError where another process tries it, or where the try cannot be noted.
        """
        attempt = Attempt(self.tried_path(member), self.path(member))
        try:
            before = attempt.before
            if before is None or not before.is_of(pin, place):
                before = self._record(member, pin, place)
            if before.tries and counted:
                attempt.refused()
            self.check(member, pin, place, asked=asked)
            attempt.begin(before.again())
        except BaseException:
            if attempt.before is None:
                attempt.undo()
            attempt.close()
            raise
        return attempt

    def _refused_before(self, member: str) -> PinRefusedError:
        return PinRefusedError(
            f"the partition refused this PIN before; it is not tried again, because tries lock a partition. "
            f"Give the right PIN; if it was right after all, remove {self.path(member)}"
        )

    def _left(self, member: str, tried: Record) -> LoginError:
        why = f" ({tried.why})" if tried.why else ""
        return LoginError(
            f"{tried.tries} login{'s' * (tried.tries > 1)} with this PIN had no answer that says whether it is right"
            f"{why}; it is not tried again by itself, because tries lock a partition. See that HSM and PIN are right, "
            f"then run 'hsmitm hsm reset {member}', or remove {self.tried_path(member)}"
        )


def _read(path: Path, *, begun: bool = False) -> Record | None:
    """`begun`: a file without content is one that nothing was written into yet."""
    try:
        text = path.read_text()
        return Record.parse(text.partition("\n")[0]) if text or not begun else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise unreadable(path) from None
