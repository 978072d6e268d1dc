"""How a file that the configuration names is opened: by ourselves, or by who has started us and still may.

A worker is kept from the files of this machine. Which files it needs changes while it runs (a renewed certificate has
another inode, a reload names others), so it asks its supervisor, which opens what hsmitm.toml names for workers at that
moment and nothing else. Everybody else opens files themselves: `use` is never called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

Ask = Callable[[Path], int | None]
"""A descriptor of the file, open for reading; None where it is refused."""

_ask: Ask | None = None
_copies: dict[Path, int] = {}


def use(ask: Ask | None) -> None:
    """From now on ask for what we may not open."""
    global _ask  # noqa: PLW0603  # one for each process, and it begins with none
    _ask = ask


def open_file(path: Path) -> BinaryIO:
    """`path`, open for reading. Raises OSError as `open`."""
    try:
        return open(path, "rb", opener=_at_once)  # Path.open has no opener
    except (PermissionError, FileNotFoundError):
        descriptor = _ask(path) if _ask is not None else None
        if descriptor is None:
            raise
        return os.fdopen(descriptor, "rb")


def _at_once(path: str, flags: int) -> int:
    """What is no file, but a pipe without a writer, blocks nobody."""
    return os.open(path, flags | os.O_NONBLOCK)


def contents(path: Path) -> bytes:
    """All of it. Raises OSError."""
    with open_file(path) as file:
        return file.read()


def for_libraries(path: Path) -> Path:
    """A path by which a library can open it, now and as it is now: itself, or that of a copy in memory.

    Raises OSError. A later call for the same path ends the copy of before.
    """
    try:
        open(path, "rb", opener=_at_once).close()
    except OSError:
        data = contents(path)
        if path in _copies:
            os.close(_copies.pop(path))
        copy = _copies[path] = os.memfd_create(path.name)
        os.write(copy, data)
        return Path(f"/proc/self/fd/{copy}")
    return path
