"""Files that the configuration names for workers, opened by the supervisor for a worker that may not open them itself.

One message is a path, its answer a descriptor, open for reading. What may be asked for is what hsmitm.toml names for
workers at that moment, so that a reload and a renewed certificate work, and nothing that leads to a key, whatever a
link points to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from hsm.errors import HsmitmError
from proxy.config.file import Config
from proxy.processes import reach
from proxy.processes.line import GIVEN, LONGEST, REFUSED

logger = logging.getLogger("hsmitm.supervisor")


class Desk:
    """The supervisor's end."""

    def __init__(self, reread: Callable[[], Config]) -> None:
        """`reread` gives the configuration as it stands now. Raises MisconfiguredError."""
        self._reread = reread

    def line(self) -> socket.socket:
        """The end of a new line, for one process. It is served until that process ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._answer, ours)
        return theirs

    def _answer(self, ours: socket.socket) -> None:
        try:
            asked = ours.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            asked = b""
        if not asked:  # the process has ended
            asyncio.get_running_loop().remove_reader(ours)
            ours.close()
            return
        descriptor = self._opened(Path(os.fsdecode(asked)))
        try:
            if descriptor is None:
                ours.send(REFUSED)
            else:
                socket.send_fds(ours, [GIVEN], [descriptor])
        except OSError:
            logger.warning("a worker does not take the files that it asks for")
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _opened(self, path: Path) -> int | None:
        try:
            config = self._reread()
            if path not in reach.named(config):
                logger.warning("refused to open a file for a worker that hsmitm.toml does not name for it")
                return None
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError, HsmitmError):
            return None
        real = Path(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        hidden = {Path(os.path.realpath(one)) for one in reach.secrets(config)}
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or real in hidden or hidden & set(real.parents):
            logger.warning("refused to open %s for a worker: it is no file for it", path)
            os.close(descriptor)
            return None
        return descriptor
