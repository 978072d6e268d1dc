"""A PKCS#11 module that is otherwise than the one behind it, as other vendors' modules are: builds `quirks_module.c`,
whose first comment is the manual, and steers it.

A `QuirksModule` stands for one HSM: its quirks hold for, and its counts are of, all processes that were given its
`environment`. It writes the quirks file and reads the stats page; it never loads the module.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rig.faulty_module import FUNCTIONS, build, put_lines

_SOURCE = Path(__file__).with_suffix(".c")
_MAX_SEEN = 0x1100


class _Page(ctypes.Structure):
    """`struct page` of the C source, which refuses a stats page of another size."""

    _fields_ = (
        ("calls", ctypes.c_uint64 * len(FUNCTIONS)),
        ("wrong_pins", ctypes.c_uint64),
        ("without_locking", ctypes.c_uint64),
        ("refused_initializations", ctypes.c_uint64),
        ("most_at_once", ctypes.c_uint64),
        ("sign_inits", ctypes.c_uint64 * _MAX_SEEN),
    )


class QuirksModule:
    """One HSM with quirks: a directory with a quirks file and a stats page."""

    def __init__(self, directory: Path, *lines: str) -> None:
        """Uses `directory` (made if need be) and its counts; the quirks are these `lines`, or what it has."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "quirks"
        self._stats = directory / "quirks-stats"
        self.path = build(directory, _SOURCE)
        if not self._stats.exists():
            self._stats.write_bytes(bytes(ctypes.sizeof(_Page)))
        if lines or not self._file.exists():
            self.quirks(*lines)

    def environment(self, real_module: str | Path) -> dict[str, str]:
        """What a process needs that loads `path` in the place of `real_module`."""
        return {
            "QUIRKS_MODULE": str(real_module),
            "QUIRKS_FILE": str(self._file),
            "QUIRKS_STATS": str(self._stats),
        }

    def quirks(self, *lines: str) -> None:
        """Put these in the place of all others. They hold for every call that begins after this returns."""
        put_lines(self._file, *lines)

    @contextmanager
    def quirk(self, *lines: str) -> Iterator[None]:
        """These beside those that stand, which stand alone again after it."""
        before = self._file.read_text().splitlines()
        self.quirks(*before, *lines)
        try:
            yield
        finally:
            self.quirks(*before)

    def calls(self, function: str) -> int:
        """How often processes called this C_ function since the stats page was made."""
        return int(self._page().calls[FUNCTIONS.index(function)])

    def signed_with(self, mechanism: int) -> int:
        """How often C_SignInit was called with this CKM_ number (below 0x1100)."""
        return int(self._page().sign_inits[mechanism])

    @property
    def wrong_pins(self) -> int:
        """How many C_Login in a row were refused."""
        return int(self._page().wrong_pins)

    @property
    def initialized_without_locking(self) -> int:
        """How many C_Initialize came with neither CKF_OS_LOCKING_OK nor mutex functions."""
        return int(self._page().without_locking)

    @property
    def most_at_once(self) -> int:
        """The greatest number of calls that one process had in progress at the same time."""
        return int(self._page().most_at_once)

    def _page(self) -> _Page:
        return _Page.from_buffer_copy(self._stats.read_bytes())
