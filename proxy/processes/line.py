"""A worker's end of the line on which its supervisor opens files for it (`proxy.processes.files`).

One message is a path, its answer a descriptor. It is waited for: what asks reads a certificate or the configuration.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

GIVEN, REFUSED = b"+", b"-"
LONGEST = 4096
_WAIT_S = 3.0


def asking(descriptor: int) -> Callable[[Path], int | None]:
    """For `hsm.reading.use`. A supervisor that is gone, or stopped, opens nothing."""
    line = socket.socket(fileno=descriptor)
    line.settimeout(_WAIT_S)

    def ask(path: Path) -> int | None:
        try:
            line.send(os.fsencode(path))
            answer, descriptors, _, _ = socket.recv_fds(line, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            line.close()  # an answer that comes late would be taken for the next one
            return None
        return descriptors[0] if answer == GIVEN and descriptors else None

    return ask
