"""A view of the file system of one's own (mount_namespaces(7)), in which a user gets behind closed directories.

Python under /root, or a configuration in a directory of mode 0700: what stands there may be readable by a worker's
user, who cannot get through. In a mount namespace of its own each such closed directory is covered by an empty one, and
only the paths that are needed are put back in their places. So it sees more, and less: nothing else of the covered
directory exists for it. For root alone.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

_NEWNS = 0x00020000
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _SLAVE = 1, 2, 4, 32, 4096, 16384, 1 << 19
_ROUNDS = 8

_libc = ctypes.CDLL(None, use_errno=True)


def closed(path: Path, uid: int, groups: Collection[int]) -> Path | None:
    """The first directory above `path` that the user cannot get through; None where there is none."""
    for directory in reversed(path.parents):
        with suppress(OSError):
            if not _may_search(directory.stat(), uid, groups):
                return directory
    return None


def _may_search(found: os.stat_result, uid: int, groups: Collection[int]) -> bool:
    if found.st_uid == uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid in groups:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def open_to(paths: Iterable[str], uid: int, groups: Collection[int]) -> None:
    """Make the paths reachable for the user, in a view of this process and of those that it starts. Raises OSError."""
    wanted = {Path(one): closed(Path(one), uid, groups) for one in paths}
    if not any(wanted.values()):
        return
    if _libc.unshare(_NEWNS):
        raise _error("a mount namespace")
    _mount(None, "/", _REC | _SLAVE)
    opened = {}
    for path in wanted:
        with suppress(OSError):
            opened[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)
    for _ in range(_ROUNDS):
        covers = {cover for path in opened if (cover := closed(path, uid, groups))}
        for cover in covers - {inner for inner in covers if covers & set(inner.parents)}:
            _cover(cover, {path: one for path, one in opened.items() if cover in path.parents})
        if not covers:
            break
    for descriptor in opened.values():
        os.close(descriptor)


def _cover(directory: Path, inside: dict[Path, int]) -> None:
    _mount("tmpfs", str(directory), _NOSUID | _NODEV, b"mode=0755,size=1m", b"tmpfs")
    for path in sorted(inside, key=lambda one: len(one.parts)):
        if path.exists():  # within one that was put back before
            continue
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(inside[path]).st_mode):
            path.mkdir(mode=0o755)
        else:
            path.touch(mode=0o644)
        _mount(f"/proc/self/fd/{inside[path]}", str(path), _BIND | _REC)
    _mount(None, str(directory), _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _mount(source: str | None, target: str, flags: int, data: bytes | None = None, kind: bytes | None = None) -> None:
    given = source.encode() if source is not None else None
    if _libc.mount(given, os.fsencode(target), kind, ctypes.c_ulong(flags), data):
        raise _error(target)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
