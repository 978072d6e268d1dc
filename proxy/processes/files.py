"""Files that the configuration names for workers, opened by the supervisor for a worker that may not open them itself.

One message is a path, its answer a descriptor, open for reading; or LOG, for the decryption log, to append to. What may
be asked for is what hsmitm.toml names for workers at that moment, so that a reload and a renewed certificate work, and
nothing that leads to a key, whatever a link points to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import time
from pathlib import Path

from hsm.errors import HsmitmError
from proxy.config.file import load
from proxy.processes import reach, tally
from proxy.processes.line import GIVEN, LOG, LONGEST, REFUSED, TALLY
from proxy.processes.record_file import FOR_APPENDING, MODE

logger = logging.getLogger("hsmitm.supervisor")

_TELL_EVERY_S = 10.0


class Desk:
    """The supervisor's end."""

    def __init__(self, config: Path) -> None:
        """`config` is the path of the configuration, which is read again when it is another file than before."""
        self._config = config
        self._seen: tuple[int, int, int] | None = None
        self._named: frozenset[Path] = frozenset()
        self._hidden: frozenset[Path] = frozenset()
        self._log_file: Path | None = None
        self._lines: dict[socket.socket, str] = {}
        self._tallies: dict[str, int] = {}
        self._silent_until = 0.0

    def line(self, name: str) -> socket.socket:
        """The end of a new line, for one process. It is served until that process ends; the next one of its name finds
        the tally that it has left."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._answer, ours)
        self._lines[ours] = name
        return theirs

    def close(self) -> None:
        """End every line."""
        for ours in list(self._lines):
            self._end(ours)
        for descriptor in self._tallies.values():
            os.close(descriptor)
        self._tallies.clear()

    def _tell(self, text: str) -> None:
        """One line in a while: a worker that is taken over may ask without end."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _TELL_EVERY_S
            logger.warning("%s", text)

    def _end(self, ours: socket.socket) -> None:
        self._lines.pop(ours, None)
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()

    def _answer(self, ours: socket.socket) -> None:
        try:
            asked = ours.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            asked = b""
        if not asked:  # the process has ended
            self._end(ours)
            return
        if asked == LOG:
            descriptor = self._log()
        elif asked == TALLY:
            descriptor = self._tally(self._lines[ours])
        else:
            descriptor = self._opened(Path(os.fsdecode(asked)))
        try:
            if descriptor is None:
                ours.send(REFUSED)
            else:
                socket.send_fds(ours, [GIVEN], [descriptor])
        except OSError:
            self._tell("a worker does not take the files that it asks for")
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _tally(self, name: str) -> int:
        if name not in self._tallies:
            self._tallies[name] = tally.make(name)
        return os.dup(self._tallies[name])

    def _look(self) -> None:
        """What the configuration names now. One that is wrong names nothing. Raises OSError, HsmitmError."""
        found = self._config.stat()
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return
        self._seen, self._named, self._log_file = seen, frozenset(), None
        config = load(self._config)
        self._named = frozenset(reach.named(config))
        self._hidden = frozenset(Path(os.path.realpath(one)) for one in reach.secrets(config))
        self._log_file = config.decryption_log

    def _opened(self, path: Path) -> int | None:
        try:
            self._look()
            if path not in self._named:
                self._tell("refused to open a file for a worker that hsmitm.toml does not name for it")
                return None
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError, HsmitmError):
            return None
        return self._judged(descriptor, path)

    def _log(self) -> int | None:
        """The decryption log, to append to: made where it is not there, never emptied."""
        try:
            self._look()
            if self._log_file is None:
                self._tell("refused to open a decryption log for a worker: hsmitm.toml names none")
                return None
            descriptor = os.open(self._log_file, FOR_APPENDING, MODE)
        except (OSError, HsmitmError) as error:
            self._tell(f"decryption_log.file: {error}")
            return None
        return self._judged(descriptor, self._log_file)

    def _judged(self, descriptor: int, path: Path) -> int | None:
        real = Path(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or self._hidden & {real, *real.parents}:
            self._tell(f"refused to open {path} for a worker: it is no file for it")
            os.close(descriptor)
            return None
        return descriptor
