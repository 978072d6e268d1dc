"""A direction of a stream that carries much, left to the kernel: splice(2) moves its bytes from socket to pipe to
socket, and none of them is copied into this process.

The sockets stay their transports': those close them, and hear of it first. Here they are watched by a second epoll
instance, which the event loop watches as one more descriptor. There are only so many pipes: a stream that finds none
left goes on as it did.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

MOST = 64
"""Directions at a time: a pipe each, two descriptors, and what a slow peer leaves in it."""
_ONE_OF = 64
"""Of so many descriptors that a process may have, one direction has its two: `limits` leaves a tenth of all to others
than clients and servers."""
_PIPE = 262_144
"""Bytes; an unprivileged user has 64 MiB of pipes (pipe(7), pipe-user-pages-soft)."""
_MOVES = 4
"""Of one direction in a turn of the loop."""
_ENOUGH, _REST_S = 131_072, 0.001
"""Where less than this has come, the next is left to gather for so long: else each packet would cost a turn."""


class Splice:
    """One direction, from the descriptor `source` to `sink`. `moved` is told how many bytes have come, `over` how it
    ended: with None where the source has ended and all is through, or with an error and whether it is the source's."""

    def __init__(
        self,
        source: int,
        sink: int,
        moved: Callable[[int], None],
        over: Callable[[OSError | None, bool], None],
    ) -> None:
        """Raises OSError where there is no pipe to be had."""
        self.source, self.sink = source, sink
        self._moved, self._over = moved, over
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE)
        self._room = fcntl.fcntl(self._in, fcntl.F_GETPIPE_SZ)
        self._held = 0
        self._ended = False
        self.stopped = self.rests = False
        self.came = 0
        """Bytes, in the last run."""

    def run(self) -> bool:
        """Move what can be moved; whether there may be more at once."""
        self.came = 0
        for _ in range(_MOVES):
            if self.stopped or not (self._fill() | self._drain()):
                return False
        return not self.stopped

    def interest(self, descriptor: int) -> int:
        """What it waits for at one of its sockets (epoll(7))."""
        if self.stopped or self.rests:
            return 0
        if self._held:
            return select.EPOLLOUT if descriptor == self.sink else 0
        return select.EPOLLIN | select.EPOLLRDHUP if descriptor == self.source else 0

    def _fill(self) -> bool:
        if self._ended or self._held >= self._room:
            return False
        try:
            size = os.splice(self.source, self._in, self._room - self._held, flags=_FLAGS)
        except BlockingIOError:  # nothing has come, or the pipe has no place for another packet
            return False
        except OSError as error:
            self._end(error, of_source=True)
            return False
        self._ended = size == 0
        self._held += size
        self.came += size
        self._moved(size)
        if self._ended and not self._held:
            self._end(None, of_source=True)
        return size > 0

    def _drain(self) -> bool:
        if self.stopped or not self._held:
            return False
        try:
            size = os.splice(self._out, self.sink, self._held, flags=_FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            self._end(error, of_source=False)
            return False
        self._held -= size
        if self._ended and not self._held:
            self._end(None, of_source=True)
        return size > 0

    def _end(self, error: OSError | None, *, of_source: bool) -> None:
        self.stop()
        self._over(error, of_source)

    def stop(self) -> None:
        """Nothing is moved any more."""
        if not self.stopped:
            self.stopped = True
            os.close(self._in)
            os.close(self._out)


_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if hasattr(os, "splice") else 0


class Splicing:
    """All such directions of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._at: dict[int, list[Splice]] = {}
        self._number = 0
        self._most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _ONE_OF) if _works() else 0
        loop.add_reader(self._epoll.fileno(), self._ready)

    @property
    def full(self) -> bool:
        """Whether there is no place for another one."""
        return self._number >= self._most

    def begin(self, one: Splice) -> None:
        """Watch both of its sockets from now on; what has come already is moved."""
        self._number += 1
        for descriptor in (one.source, one.sink):
            there = self._at.setdefault(descriptor, [])
            there.append(one)
            if len(there) == 1:
                self._epoll.register(descriptor, select.EPOLLONESHOT)
        self._run(one)

    def end(self, one: Splice) -> None:
        """Before one of its sockets is closed: its number may be another's soon."""
        one.stop()
        for descriptor in (one.source, one.sink):
            there = self._at.get(descriptor, [])
            if one in there:
                there.remove(one)
                if descriptor == one.source:
                    self._number -= 1
            if not there and self._at.pop(descriptor, None) is not None:
                with suppress(OSError):
                    self._epoll.unregister(descriptor)

    def _ready(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            for one in list(self._at.get(descriptor, ())):
                if not one.interest(descriptor):
                    continue
                if one.came >= _ENOUGH:
                    self._run(one)
                else:
                    one.rests = True
                    self.loop.call_later(_REST_S, self._run, one)
            self._arm(descriptor)

    def _run(self, one: Splice) -> None:
        one.rests = False
        if one.run():
            one.rests = True
            self.loop.call_soon(self._run, one)
        elif not one.stopped:
            self._arm(one.source)
            self._arm(one.sink)

    def _arm(self, descriptor: int) -> None:
        """Watch a socket for what those wait for that it is one of: once, until it is watched again."""
        wanted = 0
        for one in self._at.get(descriptor, ()):
            wanted |= one.interest(descriptor)
        if wanted:
            self._epoll.modify(descriptor, wanted | select.EPOLLONESHOT)


def _works() -> bool:
    """Whether this kernel, and whoever stands between it and us, has splice(2) for sockets."""
    one, other = socket.socketpair()
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        one.send(b"!")
        return os.splice(other.fileno(), into, 1, flags=_FLAGS) == 1
    except (OSError, AttributeError):
        return False
    finally:
        one.close()
        other.close()
        os.close(out)
        os.close(into)


class _Here(threading.local):
    splicing: Splicing | None = None


_here = _Here()


def splicing() -> Splicing:
    """That of the running loop."""
    loop, found = asyncio.get_running_loop(), _here.splicing
    if found is None or found.loop is not loop:
        found = _here.splicing = Splicing(loop)
    return found
