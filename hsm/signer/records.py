"""Where the record of each leaf goes before the leaf does: who mints waits until it is written.

This room writes no files and knows no processes. `Records` is the log as the standard library has it, which takes a
line at once; the signer's process gives one that tells when a line has left the process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger("hsmitm.signer")

LOST = "no leaf without a record of it, and the log takes none"
"""How the refusal of a leaf begins whose record cannot be written."""
_NAMES = 3000
"""Bytes of names in one line: a line of the log has 4 KiB."""


class Records:
    """The log of whoever runs the signer."""

    async def room(self, deadline: float) -> None:
        """Return once a record has a prospect of being written. Raises TryLaterError at `deadline` (seconds on
        CLOCK_MONOTONIC): no signature is spent on a leaf that would be refused after it."""

    async def write(self, lines: Sequence[str], deadline: float) -> None:
        """Return once `lines` are written. Raises TryLaterError where they are not until `deadline`."""
        for line in lines:
            logger.info("%s", line)


def lines_of(names: Sequence[str], rest: str) -> list[str]:
    """The record of one leaf: all its names, in as many lines as that takes."""
    parts: list[list[str]] = [[]]
    size = 0
    for name in names:
        if size + len(name) > _NAMES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += len(name) + 1
    if len(parts) == 1:
        return [f"minted names={','.join(names)} {rest}"]
    return [f"minted names={','.join(part)} {rest} part={at}/{len(parts)}" for at, part in enumerate(parts, 1)]
