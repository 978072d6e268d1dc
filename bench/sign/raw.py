"""The depth `raw`: a process that calls the module in a tight loop, a thread for each session. The limit of the others.

It is `hsm.token.module` that opens the module, for it alone knows how that is done for threads; what is called is the
bare function of python-pkcs11, and between two calls is nothing but the clock. `python -m bench.sign.raw`, started by
`bench.sign.player.Player`.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable

from bench.sign.player import MOST_ERRORS, Load, Opened, Opening, Taken, answer, read
from bench.sign.work import digests, verification_us, verified
from hsm.errors import HsmitmError
from hsm.schemes import SCHEMES
from hsm.token.module import Module
from hsm.token.private_key import PrivateKey
from hsm.token.token import Session
from hsm.token.translation import translated
from hsm.wire.member import Open


class _Partition:
    """A logged-in partition with its sessions."""

    def __init__(self, opening: Open) -> None:
        assert opening.pin is not None
        self._opening = opening
        token = Module(opening.module).token(opening.selector)
        self._anchor = token.log_in(opening.pin, writable=opening.writable, user_type=opening.user_type)
        limit = token.info.max_sessions
        wanted = opening.sessions if limit is None else max(1, min(opening.sessions, limit - 1))
        self.sessions = [token.session() for _ in range(wanted)]
        self._keys: dict[tuple[Session, str], PrivateKey] = {}

    def turn(self, load: Load) -> Taken:
        """Sign on the first `load.callers` sessions."""
        keys = [self._key(session, load.key) for session in self.sessions[: load.callers]]
        pace = _Pace(load)
        threads = [threading.Thread(target=pace.sign, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        pace.begin()
        for thread in threads:
            thread.join()
        return pace.taken()

    def _key(self, session: Session, name: str) -> PrivateKey:
        place = (session, name)
        if place not in self._keys:
            self._keys[place] = session.key(self._opening.keys[name], self._opening.spkis[name])
        return self._keys[place]


class _Pace:
    """When each thread signs next, and what they found."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._scheme = SCHEMES[load.scheme]
        self._digests = digests(load)
        self._starting = threading.Event()
        self._numbers = iter(range(int(load.rate * load.seconds)))  # next() of it is atomic
        self._begin = self._until = 0.0
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._ends: list[float] = []
        self._errors: list[str] = []
        self._last: list[tuple[bytes, bytes]] = []

    def begin(self) -> None:
        """Let the threads sign: their time runs from here."""
        self._begin = time.monotonic()
        self._until = self._begin + self._load.seconds
        self._starting.set()

    def sign(self, key: PrivateKey) -> None:
        """A thread's whole turn."""
        self._starting.wait()
        try:
            calls = [key.prepared(self._scheme, digest) for digest in self._digests]
            with translated("signing"):
                if self._load.rate:
                    self._paced(calls)
                else:
                    self._tight(calls)
        except HsmitmError as error:
            self._errors.append(str(error))

    def _tight(self, calls: list[Callable[[], bytes]]) -> None:
        until, now, last = self._until, time.monotonic, (b"", b"")
        latencies, ends = [], []
        began = now()
        for digest, call in itertools.cycle(zip(self._digests, calls, strict=True)):
            if began >= until:
                break
            last = digest, call()
            ended = now()
            latencies.append(ended - began)
            ends.append(ended)
            began = ended
        self._latencies += latencies
        self._ends += ends
        self._last.append(last)

    def _paced(self, calls: list[Callable[[], bytes]]) -> None:
        for number in self._numbers:
            due = self._begin + number / self._load.rate
            time.sleep(max(0.0, due - time.monotonic()))
            self._late.append(time.monotonic() - due)
            place = number % len(calls)
            signature = calls[place]()
            ended = time.monotonic()
            self._latencies.append(ended - due)
            self._ends.append(ended)
            self._last = [(self._digests[place], signature)]

    def taken(self) -> Taken:
        """The result, when all threads have ended."""
        last = [(digest, self._scheme.encode(raw)) for digest, raw in self._last]
        wrong = [error for digest, signature in last for error in verified(self._load, digest, signature)]
        verify_us = verification_us(self._load, *last[0]) if last else 0.0
        return Taken(
            sum(ended <= self._until for ended in self._ends),
            [1000 * value for value in self._latencies],
            [1000 * value for value in self._late],
            [*self._errors, *wrong][:MOST_ERRORS],
            verify_us,
        )


def main() -> None:
    """Turn after turn, until our standard input ends."""
    try:
        opening = read(Opening, sys.stdin.buffer)
        assert opening is not None
        partition = _Partition(opening.partitions[0])
        answer(Opened(len(partition.sessions)))
        while load := read(Load, sys.stdin.buffer):
            answer(partition.turn(load))
    except HsmitmError as error:
        answer(error)
    finally:
        sys.stdout.flush()
        os._exit(0)  # the interpreter would run C_Finalize with the GIL held, and a hung module hang the exit


if __name__ == "__main__":
    main()
