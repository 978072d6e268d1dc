"""What a member process says on standard output and error: a vendor's library, mostly. A few lines of it are logged.

It says it into a pipe of ours and not into our own log: there a library that prints would wait for whoever reads the
log, and with it the HSM. So the pipe is always read, and most of what a talkative library says is left out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import cast

logger = logging.getLogger("hsmitm.member")

LINES, PERIOD_S, LONGEST = 10, 1.0, 500
"""So many lines are logged in each period, of so many bytes each."""


class Speech(asyncio.Protocol):
    """The reading end of one process's output."""

    def __init__(self) -> None:
        self._pid = 0
        self._transport: asyncio.ReadTransport | None = None
        self._begun, self._logged = 0.0, 0
        self._partial = b""
        self._tail = b""
        self._left_out = 0

    @classmethod
    async def open(cls) -> tuple[Speech, int]:
        """The reading end, and the descriptor that a process says into; the caller closes that."""
        reading, writing = os.pipe()
        _, speech = await asyncio.get_running_loop().connect_read_pipe(cls, os.fdopen(reading, "rb", buffering=0))
        return speech, writing

    def hear(self, pid: int) -> None:
        """The process is there: listen to it."""
        assert self._transport is not None
        self._pid = pid
        self._transport.resume_reading()

    def close(self) -> None:
        """Listen no more."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio hands over the transport."""
        self._transport = cast(asyncio.ReadTransport, transport)
        self._transport.pause_reading()  # until it is known whose words they are

    def data_received(self, data: bytes) -> None:
        """Some more of it, at any point of a line."""
        now = time.monotonic()
        if now - self._begun >= PERIOD_S:
            self._begun, self._logged = now, 0
        while data and self._logged < LINES:
            line, end, data = data.partition(b"\n")
            self._partial += line
            if end or len(self._partial) >= LONGEST:
                self._say()
        if data:
            self._left_out += len(data)
            self._tail = (self._tail + data)[-LONGEST:]

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has ended; its last words are logged in any case, and may lack a newline."""
        if self._left_out:
            self._partial = self._tail.rstrip().rpartition(b"\n")[2]
        self._say()

    def _say(self) -> None:
        line, self._partial = self._partial, b""
        if not line.strip():
            return
        self._logged += 1
        before = f" ({self._left_out} bytes before it are left out)" if self._left_out else ""
        self._left_out, self._tail = 0, b""
        text = line[:LONGEST].decode(errors="replace")
        logger.warning("member process %d says: %s%s", self._pid, text, before, extra={"log_class": "what members say"})
