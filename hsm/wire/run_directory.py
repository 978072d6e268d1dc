"""The private directory of the sockets: made or checked, locked for one signer, and the sockets' names."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
from pathlib import Path

from msgspec import Struct

from hsm.errors import MisconfiguredError

WORKER_SOCKET = "signer.sock"

ADMIN_SOCKET = "admin.sock"

ADMIN_TOKEN = "admin.token"  # noqa: S105  # a file's name


STATUS_SOCKET = "status.sock"


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
            owner = user_name(found.st_uid)
            raise MisconfiguredError(f"the run directory {self.path} belongs to {owner}; it must be ours or root's")
        if self.group is not None and found.st_uid == os.geteuid():
            try:
                os.chown(self.path, -1, gid_of(self.group))
                self.path.chmod(0o710)
            except OSError as error:
                raise MisconfiguredError(
                    f"cannot give the run directory {self.path} to the group '{self.group}': {error.strerror}; "
                    "are we a member of it?"
                ) from error

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


def gid_of(group: str) -> int:
    """The group's number. Raises MisconfiguredError where there is no such group."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise MisconfiguredError(f"there is no group '{group}' on this machine") from error


def group_of(user: str) -> str:
    """The name of the user's own group. Raises MisconfiguredError where there is none."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError as error:
        raise MisconfiguredError(f"the user '{user}' or its group is not on this machine") from error


def user_name(uid: int) -> str:
    """What to call a user in a message."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
