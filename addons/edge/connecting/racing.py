"""One of several addresses: tried one after the other, each with a head start (Happy Eyeballs, RFC 8305).

Own code: asyncio has it in `create_connection`, which uvloop does not (it refuses `happy_eyeballs_delay`), and there it
comes behind a name look-up. What is needed is to connect to addresses that were looked at, and to nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

from addons.edge.connecting.resolver import Found

HEAD_START_S = 0.25
"""RFC 8305 section 8."""
_ALL_TRIED_S = 1.5
"""A name with many addresses is no reason to wait longer: each has a shorter head start, down to the least of RFC 8305
(section 5)."""
_LEAST_S = 0.01
_MOST = 32
"""Addresses of one name that are tried: who answers for a name chooses how many it has, and each takes a descriptor."""


async def first(found: Sequence[Found], port: int, local: tuple[Any, ...] | None = None) -> socket.socket:
    """A socket that is connected to `port` at the first of `found` that answers, from the address `local`.

    Raises OSError with what was wrong with each.
    """
    waiting = [(family, (address[0], port, *address[2:])) for family, address in in_turn(found)[:_MOST]]
    apart_s = max(_LEAST_S, min(HEAD_START_S, _ALL_TRIED_S / len(waiting)))
    if len(waiting) == 1:
        return await _attempt(*waiting[0], local)
    errors: list[OSError] = []
    attempts: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_attempt(*waiting.pop(0), local)))
            head_start = apart_s if waiting else None
            done, _ = await asyncio.wait(attempts, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            connected = None
            for one in done:
                if isinstance(error := one.exception(), OSError):
                    attempts.discard(one)
                    errors.append(error)
                elif error is not None:
                    raise error
                elif connected is None:
                    connected = one
            if connected is not None:
                attempts.discard(connected)
                return connected.result()
    finally:
        for one in attempts:
            one.cancel()
            one.add_done_callback(_close)
    raise OSError("; ".join(dict.fromkeys(map(str, errors))))


def in_turn(found: Sequence[Found]) -> list[Found]:
    """`found` with its families in turn, that of the first one first (RFC 8305 section 4)."""
    same = [one for one in found if one[0] == found[0][0]]
    others = [one for one in found if one[0] != found[0][0]]
    return [one for one in chain.from_iterable(zip_longest(same, others)) if one is not None]


async def _attempt(family: int, address: tuple[Any, ...], local: tuple[Any, ...] | None) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if local is not None:
            made.bind(local)
        await asyncio.get_running_loop().sock_connect(made, address)
    except OSError as error:
        made.close()
        raise in_words(error, address) from None
    except BaseException:
        made.close()
        raise
    return made


def in_words(error: OSError, address: tuple[Any, ...]) -> OSError:
    """The same error with a text for whoever reads a page or a log: which address, and why, without a number."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return type(error)(f"{_place(address)}: {reason}")


def _place(address: tuple[Any, ...]) -> str:
    return f"[{address[0]}]:{address[1]}" if len(address) > 2 else f"{address[0]}:{address[1]}"


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    """The loser of a race: it may have connected, too."""
    if not attempt.cancelled():
        with suppress(OSError):
            attempt.result().close()
