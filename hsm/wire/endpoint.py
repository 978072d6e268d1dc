"""Where processes meet: a private run directory, listening UNIX sockets in it, and who may connect (SO_PEERCRED)."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

from msgspec import Struct

from hsm.errors import MisconfiguredError
from hsm.wire.channel import Channel

logger = logging.getLogger("hsmitm.endpoint")

WORKER_SOCKET = "signer.sock"
ADMIN_SOCKET = "admin.sock"
_WATCH_S = 0.5
"""How soon a deleted socket is made again: well inside the time that a client's `connect` retries."""


class RunDirectory(Struct, frozen=True):
    """The directory of the sockets. `group` lets workers of another user reach the signer: 0710, not 0700."""

    path: Path
    group: str | None = None

    def prepare(self) -> None:
        """Make the directory, or check the one that is there. Raises MisconfiguredError where others can write."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.stat()
        except OSError as error:
            raise MisconfiguredError(f"cannot use the run directory {self.path}: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise MisconfiguredError(f"the run directory {self.path} is not a directory")
        if found.st_mode & 0o022:
            raise MisconfiguredError(
                f"the run directory {self.path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}): "
                f"whoever can replace a socket can ask for certificates. Run: chmod go-w {self.path}"
            )
        if found.st_uid not in (0, os.geteuid()):
            owner = _user(found.st_uid)
            raise MisconfiguredError(f"the run directory {self.path} belongs to {owner}; it must be ours or root's")
        if self.group is not None and found.st_uid == os.geteuid():
            os.chown(self.path, -1, _gid(self.group))
            self.path.chmod(0o710)

    def socket(self, name: str) -> Path:
        """The path of a socket. Raises MisconfiguredError where a UNIX address cannot hold it (107 bytes, unix(7))."""
        path = self.path / name
        if len(os.fsencode(path)) > 107:
            raise MisconfiguredError(f"the socket path {path} is longer than 107 bytes; choose a shorter run directory")
        return path

    def lock(self, name: str) -> int:
        """Take the lock `name` for the life of this process. Returns its descriptor; MisconfiguredError if taken."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise MisconfiguredError(f"another {name} is running with the run directory {self.path}") from error
        return descriptor


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise MisconfiguredError(f"there is no group '{group}' on this machine") from error


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and uid at the other end of a UNIX socket, as the kernel knows them (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", raw)
    return pid, uid


class Endpoint:
    """A listening UNIX socket that admits some users only, and that comes back when its file is deleted."""

    def __init__(
        self, directory: RunDirectory, name: str, users: frozenset[int], make: Callable[[int], Channel[Any, Any]]
    ) -> None:
        """`users` are the uids that may connect beside our own and root's; `make(pid)` makes a connection's channel.

        A socket that admits others belongs to the directory's group; one that does not is closed to it.
        """
        self._directory = directory
        self._group = directory.group if users else None
        self._path = directory.socket(name)
        self._users = users | {0, os.geteuid()}
        self._make = make
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
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600 if self._group is None else 0o660)
            if self._group is not None:
                os.chown(self._path, -1, _gid(self._group))
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
            logger.warning("refused a connection of user %s (pid %d)", _user(uid), pid)
            transport.abort()
            return
        channel = self._make(pid)
        transport.set_protocol(channel)
        channel.connection_made(transport)
