"""TLS handshakes on threads: a step that waits for the HSM holds a thread, never the event loop.

GnuTLS cannot suspend a handshake while its signature is made, so each step of one runs on a bounded pool. A step can be
given up at any time: the request to the signer is withdrawn, and its thread is free at once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from mitmproxy import connection
from mitmproxy.proxy import commands

from addons.gnutls.connection import Connection
from addons.tls.refusal import Refusal
from hsm.errors import DeadlineError


class Step:
    """One go at `do_handshake`. What it raises is kept, for whoever asks next."""

    def __init__(self, connection: Connection | Refusal, deadline: float) -> None:
        """`deadline` is on CLOCK_MONOTONIC: later than that no key is asked. `asked` is whether one was, `given_up` why
        it is of no use any more."""
        self.deadline = deadline
        self.failure: BaseException | None = None
        self.asked = False
        self.member = ""
        self.sign_ms = 0.0
        """Whose signature it got, and how long that took there."""
        self._connection = connection
        self._lock = threading.Lock()
        self._request: concurrent.futures.Future[Any] | None = None
        self.given_up = ""

    def run(self) -> None:
        """On a thread of the pool."""
        _thread.step = self
        try:
            self._connection.do_handshake()
        except BaseException as error:  # noqa: BLE001  # raised again where the layer asks for the outcome
            self.failure = error
        finally:
            _thread.step = None

    def give_up(self, why: str) -> None:
        """Called on the event loop: the key's answer is of no use any more."""
        with self._lock:
            self.given_up = self.given_up or why
            if self._request is not None:
                self._request.cancel()

    def ask(self, question: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
        """On a thread: have `loop` answer `question`. Raises DeadlineError where the step was given up."""
        with self._lock:
            if self.given_up:
                question.close()
                raise DeadlineError(self.given_up)
            self.asked = True
            self._request = asyncio.run_coroutine_threadsafe(question, loop)
        try:
            return self._request.result()
        except concurrent.futures.CancelledError:
            raise DeadlineError(self.given_up or "the worker ends") from None
        finally:
            self._request = None


class _Thread(threading.local):
    step: Step | None = None


_thread = _Thread()


def current() -> Step:
    """The step that runs on this thread."""
    assert _thread.step is not None
    return _thread.step


class Handshakes:
    """The pool. It belongs to one event loop."""

    def __init__(self, threads: int) -> None:
        """At most `threads` steps at a time; others wait their turn."""
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="handshake")
        self._waiting: dict[Step, concurrent.futures.Future[None]] = {}

    @property
    def in_progress(self) -> int:
        """Steps that run or wait for a thread."""
        return len(self._waiting)

    async def run(self, step: Step) -> None:
        """Run `step` to its end. Returns also when it was given up before it began."""
        future = self._waiting[step] = self._pool.submit(step.run)
        timer = asyncio.get_running_loop().call_later(
            max(0.0, step.deadline - time.monotonic()), self.give_up, step, "the handshake's time is up"
        )
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():  # this task was, not the step
                self.give_up(step, "the worker ends")
                raise
            step.failure = DeadlineError(step.given_up)
        finally:
            timer.cancel()
            self._waiting.pop(step, None)

    def give_up(self, step: Step, why: str) -> None:
        """End `step` as soon as it can be: at once where it waits for a thread or for a key."""
        step.give_up(why)
        if (future := self._waiting.get(step)) is not None:
            future.cancel()

    def close(self) -> None:
        """Give up what runs, and end the threads without waiting for them."""
        for step in list(self._waiting):
            self.give_up(step, "the worker ends")
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class HandshakeData:
    """A step of a handshake that is to be run."""

    client: connection.Client
    step: Step


@dataclass
class InboundHandshakeHook(commands.StartHook):
    """A handshake can go on. Blocking: the layer waits until the step has been run."""

    data: HandshakeData
