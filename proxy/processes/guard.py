"""Only one supervisor of a configuration: a lock in the run directory; and what a killed one has left behind.

The run directory is private, so nobody else can take the lock: an address in the abstract namespace, which was used
before, can be bound by any user of the machine. Where the run directory is another user's (`hsmitm proxy`), the process
table says who runs, and the reserved addresses keep a second one out.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from hsm.errors import MisconfiguredError
from hsm.wire.run_directory import RunDirectory

_TRIES, _PAUSE_S = 5, 0.1
"""`holder` takes the lock for a moment to see whether it is free."""
_COMMANDS = (b"run", b"proxy")


class Guard:
    """The place of the one supervisor."""

    def __init__(self, run: RunDirectory, config: Path) -> None:
        """`config` is the absolute path of the configuration."""
        self._config = config
        digest = hashlib.sha256(os.fsencode(config)).hexdigest()[:16]
        self._lock = run.path / f"supervisor-{digest}.lock"

    def hold(self) -> ExitStack:
        """Become the supervisor, until the answer is closed. Raises MisconfiguredError where another one is."""
        held = ExitStack()
        if os.access(self._lock.parent, os.W_OK):
            descriptor = os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            held.callback(os.close, descriptor)
            if not any(_taken(descriptor) for _ in range(_TRIES)):
                held.close()
                raise _runs_already()
            os.truncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        if self._parents() - {os.getpid()}:
            held.close()
            raise _runs_already()
        return held

    def holder(self) -> int:
        """The process id of the supervisor, 0 where there is none."""
        with suppress(OSError, ValueError):
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(os.read(descriptor, 32))
            finally:
                os.close(descriptor)
        return next(iter(self._parents()), 0)

    def orphans(self) -> list[int]:
        """Processes of a killed supervisor of this configuration that are still here."""
        return [pid for pid, parent in _supervised(self._config) if parent != os.getpid() and not _supervises(parent)]

    def dismiss(self) -> bool:
        """Tell the orphans to leave: flows in progress end, and they go. Whether there are any."""
        found = self.orphans()
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        return bool(found)

    def _parents(self) -> set[int]:
        return {parent for _, parent in _supervised(self._config) if _supervises(parent)}


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_PAUSE_S)
        return False
    return True


def _runs_already() -> MisconfiguredError:
    return MisconfiguredError("hsmitm runs already with this configuration; stop that one first")


def _supervised(config: Path) -> Iterator[tuple[int, int]]:
    """Pid and parent of each process that a supervisor of this configuration has started; those of our own user, and
    as root of any: workers have a user of their own there."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            argv = _argv(int(process.name))
            ours = os.geteuid() in (0, process.stat().st_uid)
            if ours and b"--supervised" in argv and os.fsencode(config) in argv:
                yield int(process.name), int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _argv(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _supervises(pid: int) -> bool:
    """Whether it is an `hsmitm run` or `hsmitm proxy`, and not who took a dead one's children in: a shell, an init."""
    with suppress(OSError):
        argv = _argv(pid)
        program = any(one == b"proxy.main" or one.endswith(b"hsmitm") for one in argv)
        return program and any(one in _COMMANDS for one in argv)
    return False
