"""What becomes of hsmitm's processes, its metrics and its log while it is attacked, beside a quiet moment before."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from msgspec import Struct

from bench.report.processes import tree

_EVERY_S = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")
LIMIT_MB = 1500.0
"""A process that is larger is ended, and the attack with it: the machine has to survive."""
_SHOWN = 3


class Held(Struct):
    """What a process held at first and at most: megabytes, and descriptors."""

    role: str
    first_mb: float
    most_mb: float
    first_descriptors: int
    most_descriptors: int


class Watch:
    """Looks at all processes below `pid` again and again. Use it as a context manager."""

    def __init__(self, pid: int, excess: Callable[[], None]) -> None:
        """`excess` is called, once and on another thread, when a process is larger than LIMIT_MB."""
        self._pid, self._excess = pid, excess
        self.held: dict[int, Held] = {}
        self.exceeded = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Look once, and go on looking."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def growth_mb(self) -> dict[str, float]:
        """By role: what the process of it that grew most grew by."""
        found: dict[str, float] = {}
        for one in self.held.values():
            found[one.role] = max(found.get(one.role, 0.0), one.most_mb - one.first_mb)
        return found

    def descriptors(self) -> int:
        """What the process that grew most in descriptors grew by."""
        return max((one.most_descriptors - one.first_descriptors for one in self.held.values()), default=0)

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()
            if not self.exceeded and (large := [one for one in self.held.values() if one.most_mb > LIMIT_MB]):
                self.exceeded = f"{large[0].role} was ended at {large[0].most_mb:.0f} MB"
                self._excess()

    def _look(self) -> None:
        for pid in tree(self._pid):
            with suppress(OSError, IndexError, ValueError):
                mb = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6
                count = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # twenty times a second
                held = self.held.setdefault(pid, Held(role(pid), mb, mb, count, count))
                held.most_mb, held.most_descriptors = max(held.most_mb, mb), max(held.most_descriptors, count)


def role(pid: int) -> str:
    """What a process of hsmitm is, by its command line. Raises OSError where it has ended."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if "-m" not in words:
        return "hsmitm"
    module, *more = words[words.index("-m") + 1 :]
    if "--index" in more:
        return f"worker {more[more.index('--index') + 1]}"
    named = next((word for word in more[:1] if word.isalpha()), "")
    return named or module.removesuffix(".main").rpartition(".")[2]


def end(pids: list[int]) -> None:
    """Kill processes, those that are there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def samples(page: str | None) -> dict[str, float]:
    """Prometheus' text format: by name and labels, the values; none of a page that did not come."""
    found = {}
    for line in (page or "").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            with suppress(ValueError):
                found[name] = float(value)
    return found


def risen(before: dict[str, float], after: dict[str, float]) -> set[str]:
    """The counters that are larger than before, or new, histograms aside."""
    return {
        name
        for name, value in after.items()
        if value > before.get(name, 0.0) and name.partition("{")[0].endswith("_total")
    }


_RECORD = b" minted names="


class Lines(Struct, frozen=True):
    """What was added to a log: how many lines, the longest in bytes, and by kind an example of each. Records of leaves
    are not counted: each is wanted, and the quota of a worker bounds them."""

    number: int
    longest: int
    kinds: dict[str, str]

    @classmethod
    def of(cls, log: Path, begin: int, end: int | None = None) -> Self:
        """From the byte `begin` on. A kind is a line without what differs in it."""
        with log.open("rb") as file:
            file.seek(begin)
            added = file.read(-1 if end is None else end - begin).split(b"\n")
        kinds: dict[str, str] = {}
        number = longest = 0
        for line in added:
            if line:
                number, longest = number + (_RECORD not in line), max(longest, len(line))
                if number < 20_000:
                    text = line[:300].decode(errors="replace")
                    kinds.setdefault(_VARIES.sub("#", text)[:120], text)
        return cls(number, longest, kinds)

    def without(self, other: Lines) -> list[str]:
        """Examples of kinds that the other has not."""
        return [text for kind, text in self.kinds.items() if kind not in other.kinds][:_SHOWN]


_VARIES = re.compile(r"\S*\d\S*|\S+\.test\S*|'[^']*'")
