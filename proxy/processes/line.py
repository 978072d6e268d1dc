"""A worker's end of the line on which its supervisor opens files for it (`proxy.processes.files`).

One message is a path, LOG or TALLY, its answer a descriptor. It is waited for: what asks reads a certificate or the
configuration.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

GIVEN, REFUSED = b"+", b"-"
LOG, TALLY = b"\0log", b"\0tally"
"""No paths: the decryption log is meant, wherever it is; and the memory of the worker's own tally."""
LONGEST = 4096
_WAIT_S = 3.0


class Line:
    """It ends with the supervisor, or when that does not answer: an answer that comes late would be another one's."""

    def __init__(self, descriptor: int) -> None:
        self._line = socket.socket(fileno=descriptor)
        self._line.settimeout(_WAIT_S)
        self._turn = threading.Lock()  # an answer goes to whoever has asked

    def ask(self, path: Path) -> int | None:
        """For `hsm.reading.use`: a descriptor of the file, None where it is refused or nobody answers."""
        return self._asked(os.fsencode(path))

    def ask_for_log(self) -> int | None:
        """A descriptor of the decryption log, open for appending; None as `ask`."""
        return self._asked(LOG)

    def ask_for_tally(self) -> int | None:
        """A descriptor of the memory in which this worker's place is counted (`tally`); None as `ask`."""
        return self._asked(TALLY)

    def _asked(self, message: bytes) -> int | None:
        try:
            with self._turn:
                self._line.send(message)
                answer, descriptors, _, _ = socket.recv_fds(self._line, 1, 1)
        except OSError:
            self.close()
            return None
        if answer != GIVEN or not descriptors:
            return None
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]

    def close(self) -> None:
        """No file can be asked for any more."""
        self._line.close()
