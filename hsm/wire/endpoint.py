"""Where processes meet: listening UNIX sockets in the run directory, and who may connect (SO_PEERCRED).

Connections are accepted here, not by asyncio: it would accept a whole backlog before anybody looks who they are, and
descriptors would be gone.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import resource
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

from hsm.errors import MisconfiguredError
from hsm.wire.census import Census, Limits
from hsm.wire.channel import Channel
from hsm.wire.run_directory import RunDirectory, gid_of, user_name

logger = logging.getLogger("hsmitm.endpoint")

_WATCH_S = 0.5
"""How soon a deleted socket is made again: well inside the time that a client's `connect` retries."""
_BACKLOG = 256
_ACCEPTS = 16
"""Connections that are looked at in a turn of the event loop."""
_REST_S = 0.1
_TELL_EVERY_S, _TOLD = 10.0, 64
"""One line of refusals for each process in so many seconds; so many processes are remembered."""


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
        limits: Limits,
        refused: Callable[[str], None] | None = None,
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """`users` are the uids that may connect beside our own and root's; `make(pid)` makes a connection's channel.
        A process that the kernel does not name, of another container, has a negative number for each connection.
        `refused` is told of each connection that was not admitted: "user" or "limit".

        A socket that admits others belongs to the directory's group; one that does not is closed to it. `before` puts
        into the directory what must stand there before anybody connects, each time that the socket is made.
        """
        self._directory = directory
        self._group = directory.group if users else None
        self._path = directory.socket(name)
        self._users = users | {0, os.geteuid()}
        self._make = make
        self._before = before
        self._census = Census(limits.within(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        self._refused = refused or _untold
        self._told: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._strangers = itertools.count(1)
        """Of processes of another pid namespace, which the kernel calls 0: each connection is one of its own."""
        self._listener: socket.socket | None = None
        self._inode = 0
        self._watcher: asyncio.Task[None] | None = None
        self._beginning: set[asyncio.Task[None]] = set()

    async def open(self) -> Self:
        """Listen. The caller holds the directory's lock, so a socket file that is there is a dead one's."""
        self._listen()
        self._watcher = asyncio.create_task(self._watch())
        return self

    def _listen(self) -> None:
        self._directory.prepare()
        self._path.unlink(missing_ok=True)
        self._before()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(str(self._path))
            self._path.chmod(0o600 if self._group is None else 0o660)
            if self._group is not None:
                os.chown(self._path, -1, gid_of(self._group))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise MisconfiguredError(f"cannot make the socket {self._path}: {error.strerror}") from error
        self._listener = listener
        self._inode = self._path.stat().st_ino
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    # who comes

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left: somebody's will be, in a moment
                loop.remove_reader(listener)
                loop.call_later(_REST_S, self._accept_again, listener)
                self._tell(0, f"no connection can be accepted at {self._path}: {error.strerror}")
                return
            if (admitted := self._admit(connection)) is None:
                connection.close()
                continue
            connection.setblocking(False)
            task = loop.create_task(self._begin(connection, *admitted))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener is self._listener:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _admit(self, connection: socket.socket) -> tuple[int, int] | None:
        """The process and the user at the other end, by the kernel's word; None where they may not connect now."""
        pid, uid = peer(connection)
        pid = pid or -next(self._strangers)
        if uid not in self._users:
            self._tell(pid, f"refused a connection of user {user_name(uid)} (pid {pid})")
            self._refused("user")
        elif full := self._census.full(pid, uid):
            self._tell(pid, f"refused a connection of process {pid} (user {user_name(uid)}): {full}")
            self._refused("limit")
        else:
            self._census.join(pid, uid)
            return pid, uid
        return None

    async def _begin(self, connection: socket.socket, pid: int, uid: int) -> None:
        leave = functools.partial(self._census.leave, pid, uid)

        def made() -> Channel[Any, Any]:
            channel = self._make(pid)
            channel.peer, channel.gone = f"process {pid}", leave
            return channel

        try:
            await asyncio.get_running_loop().connect_accepted_socket(made, connection)
        except OSError:  # it has gone again
            connection.close()
            leave()

    def _tell(self, pid: int, line: str) -> None:
        """Log `line`; of one process one in a while, with how many were not."""
        now = time.monotonic()
        told_at, more = self._told.pop(pid, (float("-inf"), 0))
        if now - told_at < _TELL_EVERY_S:
            self._told[pid] = told_at, more + 1
            return
        logger.warning("%s%s", line, f" ({more} more like this were not told)" if more else "")
        self._told[pid] = now, 0
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)

    # the file

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                if self._path.stat().st_ino == self._inode:
                    continue
            except OSError:
                logger.warning("the socket %s is gone; making it again", self._path)
            self._stop()  # connections that were accepted go on
            try:
                self._listen()
            except MisconfiguredError as error:
                logger.error("%s", error)  # noqa: TRY400  # an operator's sentence, no traceback

    def _stop(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        """Stop listening and remove the file."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._stop()
        for task in list(self._beginning):
            await task
        self._path.unlink(missing_ok=True)


def _untold(_why: str) -> None:
    """Nobody counts them."""
