"""Where exchanges happen: a thread with an event loop. Root gives it a network of its own, in which the kernel may be
told to redirect clients; what is opened in the thread, or started from it, is in that network."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self

APART = os.geteuid() == 0
"""Whether there is a network of its own."""
REDIRECTED = 0x4853
"""The mark on sockets of clients that are redirected."""


class Place:
    """One thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        if APART:
            os.unshare(os.CLONE_NEWNET)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
        self._loop.run_forever()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run[T](self, work: Coroutine[Any, Any, T], timeout_s: float = 60) -> T:
        """Do it there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def call[T](self, work: Callable[[], T], timeout_s: float = 60) -> T:
        """Call it there, while nothing else runs there, and wait for it."""
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001  # it is for whoever waits
                done.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return done.result(timeout_s)

    def redirect(self, to: int) -> None:
        """Have marked clients come to the port `to`, wherever they want to go."""
        rules = (
            "table ip exchanges { chain output { type nat hook output priority -100; "
            f"meta mark {REDIRECTED} meta l4proto tcp redirect to :{to}; }}; }}"
        )
        self.call(lambda: subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=10))
