"""A PKCS#11 module that fails on command: builds `faulty_module.c`, whose first comment is the manual, and steers it.

A `FaultyModule` stands for one HSM: its rules hold for, and its counts are of, all processes that were given its
`environment`. It writes the control file and reads the stats page; it never loads the module.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsm.errors import MisconfiguredError

_SOURCE = Path(__file__).with_suffix(".c")
_SHARED = _SOURCE.with_name("cryptoki.h")
FUNCTIONS = re.findall(r"\bX\((C_\w+)\)", _SHARED.read_text())
"""The C_ functions in the order of CK_FUNCTION_LIST."""
_MAX_RULES, _MAX_VERSIONS = 32, 64

_built: dict[str, Path] = {}


class _Counts(ctypes.Structure):
    """Of one version of the control file: its inode, size and mtime in ns, then a count for each rule."""

    _fields_ = (
        ("version", ctypes.c_uint64 * 3),
        ("matched", ctypes.c_uint64 * _MAX_RULES),
        ("fired", ctypes.c_uint64 * _MAX_RULES),
    )


class _Page(ctypes.Structure):
    """`struct page` of the C source, which refuses a stats page of another size."""

    _fields_ = (
        ("calls", ctypes.c_uint64 * len(FUNCTIONS)),
        ("wrong_pins", ctypes.c_uint64),
        ("versions", ctypes.c_uint64),
        ("counts", _Counts * _MAX_VERSIONS),
    )


def build(directory: Path, source: Path = _SOURCE) -> Path:
    """The module, or another library of one C `source`, compiled into `directory`; once for each process and source.

    Raises MisconfiguredError where there is no C compiler.
    """
    headers = sorted(source.parent.glob("*.h"))
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in (source, *headers))).hexdigest()[:16]
    if digest in _built and _built[digest].exists():
        return _built[digest]
    gcc = shutil.which("gcc")
    if gcc is None:
        raise MisconfiguredError(f"{source.name} is compiled where it is used: install gcc and libc6-dev")
    library = directory / f"{source.stem}-{digest}.so"
    unfinished = directory / f"{library.name}.{os.getpid()}"
    options = ["-std=c11", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    done = subprocess.run(
        [gcc, *options, "-o", str(unfinished), str(source), "-ldl"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MisconfiguredError(f"gcc cannot compile {source}; are libc6-dev's headers there? {done.stderr}")
    unfinished.rename(library)
    _built[digest] = library
    return library


def put_lines(control: Path, *lines: str) -> None:
    """Make these the lines of a module's control file. They hold for every call that begins after this returns."""
    following = control.with_suffix(".next")
    following.write_text("".join(f"{line}\n" for line in lines))
    # A file system may give two files the same inode and, within a tick of its clock, the same mtime.
    before = control.stat().st_mtime_ns if control.exists() else 0
    now = max(time.time_ns(), before + 1)
    os.utime(following, ns=(now, now))
    following.replace(control)


class FaultyModule:
    """One HSM that fails on command: a directory with a control file and a stats page."""

    def __init__(self, directory: Path, seed: int | None = None) -> None:
        """Uses `directory` (made if need be) with the rules and counts that it has. `seed` is for rules with p=."""
        directory.mkdir(parents=True, exist_ok=True)
        self._control = directory / "control"
        self._stats = directory / "stats"
        self._seed = seed
        self._always: tuple[str, ...] = ()
        self.path = build(directory)
        if not self._stats.exists():
            self._stats.write_bytes(bytes(ctypes.sizeof(_Page)))
        if not self._control.exists():
            self.clear()

    def environment(self, real_module: str | Path) -> dict[str, str]:
        """What a process needs that loads `path` in the place of `real_module`."""
        seed = {} if self._seed is None else {"FAULTY_SEED": str(self._seed)}
        return {
            "FAULTY_MODULE": str(real_module),
            "FAULTY_CONTROL": str(self._control),
            "FAULTY_STATS": str(self._stats),
        } | seed

    def rules(self, *lines: str) -> None:
        """Put these rules in the place of all others. They hold for every call that begins after this returns."""
        put_lines(self._control, *self._always, *lines)

    def latency(self, milliseconds: float) -> None:
        """From now on, beside all rules to come, each signature takes so much longer: a network HSM's answer."""
        self._always = (f"C_Sign delay {milliseconds:g}",) if milliseconds else ()
        self.clear()

    def clear(self) -> None:
        """Let everything through."""
        self.rules()

    @contextmanager
    def fault(self, *lines: str) -> Iterator[None]:
        """These rules alone, and none after it."""
        self.rules(*lines)
        try:
            yield
        finally:
            self.clear()

    def calls(self, function: str) -> int:
        """How often processes called this C_ function since the stats page was made."""
        return int(self._page().calls[FUNCTIONS.index(function)])

    def fired(self, index: int = 0) -> int:
        """How often the rule on line `index` (from 0) of the present control file was applied, by all processes."""
        if not 0 <= index < len(self._control.read_text().splitlines()):
            raise IndexError(f"the control file has no rule {index}")
        file = self._control.stat()
        version = [file.st_ino, file.st_size, file.st_mtime_ns]
        return next((int(one.fired[index]) for one in self._page().counts if list(one.version) == version), 0)

    def _page(self) -> _Page:
        return _Page.from_buffer_copy(self._stats.read_bytes())
