"""asyncio client of the signer, for addons and the command line. Knows the socket's path and nothing of the HSM.

It keeps one connection and makes it again when it is lost: the signer may be restarted, and its socket deleted, at any
time. A call that finds no connection waits for one a moment, so that a restart of the signer is not seen.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from hsm.backoff import Backoff
from hsm.errors import DeadlineError, MemberLostError, TryLaterError
from hsm.wire import admin, worker
from hsm.wire.channel import Channel
from hsm.wire.frames import Codec
from hsm.wire.run_directory import ADMIN_SOCKET, ADMIN_TOKEN
from hsm.wire.worker import Reply, Request

logger = logging.getLogger("hsmitm.client")

_RECONNECT = Backoff(0.02, 0.5)
WAIT_FOR_SIGNER_S = 3.0
"""How long a call waits for the signer to come back; a restarted signer serves within a second."""


class SignerClient:
    """A connection to the signer that heals itself. Use it as an async context manager."""

    def __init__(self, path: Path) -> None:
        """`path` is the signer's socket."""
        self._path = path
        self._channel: Channel[Request, Reply] | None = None
        self._connected = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._why = "not connected yet"
        self.generation = 0
        """How many connections there were. It changes whenever the signer may have been restarted."""

    async def __aenter__(self) -> Self:
        """Begin to connect; does not wait."""
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the connection."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._channel is not None:
            self._channel.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connected.is_set()

    async def _keep(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            lost = asyncio.Event()
            channel = Channel(worker.CODEC, lost=_setter(lost))
            try:
                await loop.create_unix_connection(functools.partial(_itself, channel), str(self._path))
            except OSError as error:
                self._why = f"cannot connect to {self._path}: {error.strerror or error}"
                failures += 1
                await asyncio.sleep(_RECONNECT.after(failures))
                continue
            failures = 0
            self._channel = channel
            self.generation += 1
            self._connected.set()
            await lost.wait()
            self._connected.clear()
            self._why = "the signer closed the connection"
            logger.warning("lost the signer; connecting again")
            await asyncio.sleep(_RECONNECT.first_s)  # a signer that admits and then closes at once must not be spun on

    async def call(self, body: Request, timeout_s: float) -> Reply:
        """Ask the signer; at most `timeout_s` seconds in all.

        A call that the connection is lost under is asked once more: nothing that the signer does for us is harmful
        twice. Raises TryLaterError where there is no signer, DeadlineError, or the error that the signer named.
        """
        deadline = time.monotonic() + timeout_s
        for last in (False, True):
            await self._wait(deadline)
            assert self._channel is not None
            try:
                return await self._channel.call(body, deadline)
            except MemberLostError as error:
                if last or self._channel.connected:
                    raise TryLaterError(f"the signer did not answer: {error}") from error
                self._connected.clear()
        raise DeadlineError("unreachable")

    async def _wait(self, deadline: float) -> None:
        if self._connected.is_set():
            return
        remaining = min(WAIT_FOR_SIGNER_S, deadline - time.monotonic())
        try:
            async with asyncio.timeout(remaining):
                await self._connected.wait()
        except TimeoutError:
            raise TryLaterError(f"the signer is not there ({self._why}); is 'hsmitm signer' running?") from None


def _setter(event: asyncio.Event) -> Callable[[Channel[Request, Reply]], None]:
    return lambda _channel: event.set()


def _itself(channel: Channel[Request, Reply]) -> Channel[Request, Reply]:
    return channel


async def ask[Q, A](path: Path, codec: Codec[Q, A], body: Q, timeout_s: float) -> A:
    """One call on a connection of its own, for the command line. Raises TryLaterError where it gets no answer."""
    channel: Channel[Any, A]
    loop = asyncio.get_running_loop()
    try:
        _, channel = await loop.create_unix_connection(lambda: Channel(codec), str(path))
    except OSError as error:
        raise TryLaterError(f"no signer listens at {path} ({error.strerror}); start one with 'hsmitm run'") from error
    deadline = time.monotonic() + timeout_s
    try:
        if path.name == ADMIN_SOCKET and (token := _token(path)):
            await channel.call(admin.Admit(token), deadline)
        return await channel.call(body, deadline)
    except MemberLostError as error:
        raise TryLaterError(
            f"the signer at {path} closed the connection; only its own user and root may ask"
        ) from error
    finally:
        channel.close()


def _token(socket: Path) -> str:
    """What admits to the admin socket. Empty where we may not read it, and with a signer of before, which has none."""
    try:
        return socket.with_name(ADMIN_TOKEN).read_text()
    except OSError:
        return ""
