"""One try of a PIN, noted on disk before it is made: whatever ends us or fills the disk, the next start knows of it.

The note is one file, locked for as long as the try lasts: a second hsmitm process (`check` beside `run`) does not try
meanwhile. A refusal renames it and success removes it: neither needs room on the disk, nor a byte written.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import structs

from hsm.errors import MisconfiguredError, TryLaterError
from hsm.secrets.record import Record

_NOT_HERE = frozenset({errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a file system says that has no locks, or cannot write a directory out (some network ones): the note is there all
the same."""
MOST_TRIES = 2
"""Of one PIN by ourselves, where no try got an answer. An answer, whatever it says, ends them: it is the last."""


class Attempt:
    """The note of a try, which nobody else has. It says that the try's end is not known until one of its methods is
    called; `close` it in any case."""

    def __init__(self, path: Path, refused: Path) -> None:
        """Take the note at `path` that is there, or make one; `refused` is its name once the PIN was refused.

        Raises TryLaterError where another process tries now, or where nothing can be noted; MisconfiguredError where it
        cannot be read what was noted.
        """
        self._path, self._refused = path, refused
        self.before: Record | None = None
        """What was noted of earlier tries of some PIN."""
        try:
            self._file = _taken(path)
        except BlockingIOError:
            raise TryLaterError("another process of hsmitm tries this member's PIN at this moment") from None
        except OSError as error:
            raise _not_noted(path, error) from error
        try:
            if text := os.pread(self._file, 4096, 0):
                self.before = Record.parse(text.decode().partition("\n")[0])
        except (OSError, ValueError):
            self.close()
            raise unreadable(path) from None

    def begin(self, record: Record) -> None:
        """Note that the PIN of `record` is tried now. Raises TryLaterError where that cannot be noted."""
        self._record = record
        try:
            self._write(record)
            self._keep_name()
        except OSError as error:
            self.undo()
            raise _not_noted(self._path, error) from error

    def accepted(self) -> None:
        """The token accepted the PIN: nothing is held against any."""
        self._path.unlink(missing_ok=True)
        self._refused.unlink(missing_ok=True)

    def refused(self) -> None:
        """The token refused the PIN."""
        with suppress(OSError):  # then the note that it was tried stands
            self._path.replace(self._refused)
            self._keep_name()

    def unclear(self, why: str) -> None:
        """The token gave an answer that does not say whether the PIN is right: it is not tried again by ourselves."""
        try:
            self._write(structs.replace(self._record, why=why[:500]))
        except OSError:  # a full disk: what needs no room says more than is known, but risks no try
            self.refused()

    def unanswered(self, why: str) -> None:
        """There was no answer: the try counts, and this is how it ended."""
        if self.last:
            with suppress(OSError):
                self._write(structs.replace(self._record, why=why[:500]))

    @property
    def last(self) -> bool:
        """Whether this was the last try by ourselves."""
        return self._record.tries >= MOST_TRIES

    def undo(self) -> None:
        """The PIN was not tried, or what the token said was not about it: as before."""
        with suppress(OSError):
            if self.before is None:
                self._path.unlink(missing_ok=True)
            else:
                self._write(self.before)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._file)

    def _keep_name(self) -> None:
        """Have the directory on disk, too."""
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            with _where_there_is():
                os.fsync(directory)
        finally:
            os.close(directory)

    def _write(self, record: Record) -> None:
        line = f"{record}\n".encode()
        if os.pwrite(self._file, line, 0) < len(line):
            raise OSError(0, "the disk is full")
        os.ftruncate(self._file, len(line))
        os.fsync(self._file)


@contextmanager
def _where_there_is() -> Iterator[None]:
    """What some file systems do not have."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise


def _taken(path: Path) -> int:
    """The file at `path`, locked. Whoever had it may have renamed or removed it meanwhile."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            with _where_there_is():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _not_noted(path: Path, error: OSError) -> TryLaterError:
    return TryLaterError(
        f"the PIN is not tried, because the try cannot be noted in {path} before it: {error.strerror}. Make room, or "
        "give hsmitm the right to write there"
    )


def unreadable(path: Path) -> MisconfiguredError:
    """A file of ours that may stand for a PIN that was refused."""
    return MisconfiguredError(f"cannot read {path}, which remembers a tried PIN; remove it when the PIN is right")
