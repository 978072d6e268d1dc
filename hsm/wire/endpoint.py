"""Where processes meet: listening UNIX sockets in the run directory, and who may connect (SO_PEERCRED)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Self, cast

from hsm.errors import MisconfiguredError
from hsm.wire.channel import Channel
from hsm.wire.run_directory import RunDirectory, gid_of, user_name

logger = logging.getLogger("hsmitm.endpoint")

_WATCH_S = 0.5
"""How soon a deleted socket is made again: well inside the time that a client's `connect` retries."""


def peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and uid at the other end of a UNIX socket, as the kernel knows them (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid


class Endpoint:
    """A listening UNIX socket that admits some users only, and that comes back when its file is deleted."""

    def __init__(
        self,
        directory: RunDirectory,
        name: str,
        users: frozenset[int],
        make: Callable[[int], Channel[Any, Any]],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """`users` are the uids that may connect beside our own and root's; `make(pid)` makes a connection's channel.

        A socket that admits others belongs to the directory's group; one that does not is closed to it. `before` puts
        into the directory what must stand there before anybody connects, each time that the socket is made.
        """
        self._directory = directory
        self._group = directory.group if users else None
        self._path = directory.socket(name)
        self._users = users | {0, os.geteuid()}
        self._make = make
        self._before = before
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Listen. The caller holds the directory's lock, so a socket file that is there is a dead one's."""
        await self._listen()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def _listen(self) -> None:
        self._directory.prepare()
        self._path.unlink(missing_ok=True)
        self._before()
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600 if self._group is None else 0o660)
            if self._group is not None:
                os.chown(self._path, -1, gid_of(self._group))
        except OSError as error:
            listener.close()
            raise MisconfiguredError(f"cannot make the socket {self._path}: {error.strerror}") from error
        self._server = await loop.create_unix_server(self._admit, sock=listener, backlog=256)
        self._inode = self._path.stat().st_ino

    def _admit(self) -> asyncio.Protocol:
        return _Admission(self._users, self._make)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                if self._path.stat().st_ino == self._inode:
                    continue
            except OSError:
                logger.warning("the socket %s is gone; making it again", self._path)
            if self._server is not None:
                self._server.close()  # stops listening; connections that were accepted go on
            try:
                await self._listen()
            except MisconfiguredError as error:
                logger.error("%s", error)  # noqa: TRY400  # an operator's sentence, no traceback

    async def close(self) -> None:
        """Stop listening and remove the file."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)


class _Admission(asyncio.Protocol):
    """The first moment of a connection: look who it is, then become its channel or end."""

    def __init__(self, users: frozenset[int], make: Callable[[int], Channel[Any, Any]]) -> None:
        self._users = users
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit or refuse by the kernel's word."""
        transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from asyncio's
        pid, uid = peer(transport.get_extra_info("socket"))
        if uid not in self._users:
            logger.warning("refused a connection of user %s (pid %d)", user_name(uid), pid)
            transport.abort()
            return
        channel = self._make(pid)
        transport.set_protocol(channel)
        channel.connection_made(transport)
