"""Names to addresses: by the machine's own resolver, remembered, bounded, and with a limit for each client.

getaddrinfo(3), on a thread for each call in progress, and not a DNS client inside of the event loop. What was weighed:

* c-ares (aiodns 4.0, pycares 5.2): thousands of look-ups without a thread, the TTL of each answer, and a look-up can be
  given up. It knows hosts, resolv.conf, and search domains, but none of nsswitch.conf's other sources (mDNS, LDAP and
  SSSD, myhostname, containers' own), so `getent hosts NAME` and hsmitm would differ on some machines; and it is one
  more library in C that reads what a stranger's name server sends, in the process that has the traffic.
* mitmproxy_rs.dns (hickory): comes with mitmproxy, and does not block either. It reads resolv.conf once, in the life of
  a process, knows no nsswitch.conf, and gives no TTL.
* getaddrinfo as the loop calls it (uvloop, asyncio): four threads, or a few more, for everybody: a client that asks for
  four names whose servers do not answer has everybody wait.

The price here: a look-up that has begun cannot be taken back, it ends when the name servers' time is up
(`options timeout:` and `attempts:` of resolv.conf(5), 10 s and more); and no answer has a TTL. So places are what is
counted (`turns`), names of all kinds are remembered for a short and fixed time, and a name whose servers did not answer
is not asked for again at once. EDNS, TCP and search domains are the C library's, which notices a changed resolv.conf.
"""

from __future__ import annotations

import asyncio
import ipaddress
import queue
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct

from addons.turns import LineFullError, Turns

Found = tuple[int, tuple[Any, ...]]
"""An address family and a socket address of it, with port 0."""
Lookup = Callable[[str], tuple[Found, ...]]

POSITIVE_S, NEGATIVE_S = 30.0, 5.0
"""How long an answer is remembered. Long enough for what a page brings, short enough for a server that moves."""
PLACES = 256
"""Look-ups in progress, each a thread that sleeps: about 40 kB."""
_KEPT = 8
"""Threads that wait for the next look-up: to start one takes longer than most name servers do."""
_WAITING = 4
"""Look-ups of a client that wait, for each that it may have in progress."""
_REMEMBERED = 8192
"""Names with an address; a quarter as many without, which cost others nothing when a client asks for thousands."""
_LONGEST = 253


class TooManyLookupsError(OSError):
    """A client has more look-ups in progress and waiting than it may."""


class Answer(Struct, frozen=True):
    """What a look-up said, and until when (monotonic seconds) it counts."""

    found: tuple[Found, ...]
    error: str
    until: float


class _Memory:
    """The newest answers, bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def recall(self, name: str) -> Answer | None:
        answer = self._answers.get(name)
        if answer is None or answer.until <= time.monotonic():
            return None
        self._answers.move_to_end(name)
        return answer

    def keep(self, name: str, answer: Answer) -> None:
        self._answers[name] = answer
        self._answers.move_to_end(name)
        if len(self._answers) > self._limit:
            self._answers.popitem(last=False)

    def forget(self, name: str) -> None:
        self._answers.pop(name, None)


class Resolver:
    """One worker's resolver."""

    def __init__(self, *, per_client: int, lookup_s: float, places: int = PLACES, lookup: Lookup | None = None) -> None:
        """`per_client` look-ups of one client are in progress at a time, each may take `lookup_s`. `lookup` stands in
        for the machine's."""
        self._lookup = lookup or system_lookup
        self._lookup_s = lookup_s
        self._turns = Turns(per_client, places, _WAITING * per_client)
        self._known, self._failed = _Memory(_REMEMBERED), _Memory(_REMEMBERED // 4)
        self._running: dict[str, asyncio.Future[Answer]] = {}
        self._jobs: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self._idle = 0

    @property
    def in_progress(self) -> int:
        """Look-ups that have begun and not ended."""
        return self._turns.in_progress

    async def addresses(self, host: str, client: str) -> tuple[Found, ...]:
        """The addresses of `host`, in the order in which to try them, on the account of `client`.

        Raises TooManyLookupsError, TimeoutError, or another OSError where it has none; each with a sentence.
        """
        if literal := _literal(host):
            return literal
        name = ascii_name(host)
        answer = self._recall(name)
        if answer is None:
            answer = await self._asked(name, client)
        if answer.error:
            raise OSError(answer.error)
        return answer.found

    def forget(self, host: str) -> None:
        """Nothing of what we remember of `host` answers: it may have moved."""
        with suppress(OSError):
            self._known.forget(ascii_name(host))

    def _recall(self, name: str) -> Answer | None:
        return self._known.recall(name) or self._failed.recall(name)

    async def _asked(self, name: str, client: str) -> Answer:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._lookup_s
        running = self._running.get(name)
        if running is None:
            if not self._turns.take_at_once(client):
                await self._place(client, until)
            running = self._begin(name, client)
        await asyncio.wait([running], timeout=until - loop.time())  # which leaves it to others, where we are cancelled
        if running.done():
            return running.result()
        error = f"no name server has answered for {name} within {self._lookup_s:g} s"
        self._failed.keep(name, Answer((), error, time.monotonic() + NEGATIVE_S))
        raise TimeoutError(error)

    async def _place(self, client: str, until: float) -> None:
        """Wait for a place of `client`'s, until this time of the loop."""
        try:
            async with asyncio.timeout_at(until):
                await self._turns.take(client)
        except LineFullError:
            raise TooManyLookupsError("this client has too many in progress; try again later") from None
        except TimeoutError:
            raise TooManyLookupsError(
                "this client's earlier name look-ups have not been answered; try again later"
            ) from None

    def _begin(self, name: str, client: str) -> asyncio.Future[Answer]:
        """Begin a look-up, with a place of `client`'s. While that one was waited for, somebody else may have begun."""
        loop = asyncio.get_running_loop()
        running, answer = self._running.get(name), self._recall(name)
        if running is not None:
            self._turns.give_back(client)
            return running
        if answer is not None:
            self._turns.give_back(client)
            running = loop.create_future()
            running.set_result(answer)
            return running
        running = self._running[name] = loop.create_future()
        if self._idle > 0:
            self._idle -= 1
        else:
            try:
                threading.Thread(target=self._work, name="look-up", daemon=True).start()
            except RuntimeError:  # no more threads are to be had
                self._end(name, client, Answer((), "no thread for a name look-up is to be had", 0))
                return running
        self._jobs.put(partial(self._ask, loop, name, client))
        return running

    def _work(self) -> None:
        """A thread: one look-up after another. It is a daemon: a worker that ends does not wait for name servers, as
        it would with a ThreadPoolExecutor."""
        while (job := self._jobs.get()) is not None and job():
            pass

    def _ask(self, loop: asyncio.AbstractEventLoop, name: str, client: str) -> bool:
        """On a thread. Whether the loop that asked is still there."""
        found: tuple[Found, ...] = ()
        error = ""
        try:
            found = self._lookup(name)
        except (OSError, UnicodeError) as failure:
            error = f"{name} has no address: {getattr(failure, 'strerror', None) or failure}"
        answer = Answer(found, error, time.monotonic() + (NEGATIVE_S if error else POSITIVE_S))
        try:
            loop.call_soon_threadsafe(self._come_back, name, client, answer)
        except RuntimeError:  # it has ended
            return False
        return True

    def _come_back(self, name: str, client: str, answer: Answer) -> None:
        """A thread is free again: it waits for the next look-up, or ends where enough do."""
        if self._idle < _KEPT:
            self._idle += 1
        else:
            self._jobs.put(None)
        self._end(name, client, answer)

    def _end(self, name: str, client: str, answer: Answer) -> None:
        (self._failed if answer.error else self._known).keep(name, answer)
        if not answer.error:
            self._failed.forget(name)
        self._running.pop(name).set_result(answer)
        self._turns.give_back(client)


def system_lookup(name: str) -> tuple[Found, ...]:
    """The machine's answer (getaddrinfo(3), in the order of RFC 6724). Blocks; raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _literal(host: str) -> tuple[Found, ...] | None:
    """An address that is written as one needs nobody to ask; a scope is the kernel's to know."""
    if not host[-1:].isdigit() and ":" not in host:  # what most hosts are: an exception costs more
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return ((int(socket.AF_INET), (host, 0)),)
    if address.scope_id is None:
        return ((int(socket.AF_INET6), (host, 0, 0, 0)),)
    return None


def ascii_name(host: str) -> str:
    """The name as it is asked for: lower case, A-labels (the codec that leaves and their verification use, too).
    Raises OSError."""
    try:
        name = host.encode("ascii" if host.isascii() else "idna").decode().lower()
    except UnicodeError as error:
        raise OSError(f"{host[:_LONGEST]!r} is no host name: {error}") from None
    if not name or len(name.removesuffix(".")) > _LONGEST or "\0" in name:
        raise OSError(f"{name[:_LONGEST]!r} is no host name: 1 to {_LONGEST} characters are possible (RFC 1035)")
    return name


def spelt(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The address that `host` spells, also as inet_aton(3) reads numbers, and in digits of other scripts, as IDNA reads
    them; none for a name."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        name = ascii_name(host).removesuffix(".")
        if name[:1].isdigit() and not any(one.isspace() for one in name):
            return [ipaddress.IPv4Address(socket.inet_aton(name))]
    except OSError:
        pass
    return []
