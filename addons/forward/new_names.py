"""How many names that nobody has asked for before a client may bring: each is a signature of the HSM.

A bucket for each client address (an IPv6 /64): `burst` names at once, `per_s` on average, in each worker. A CONNECT
pays for its name at once, so that who has none left costs no connection to a server, and hears it in HTTP; where there
is no CONNECT, or TLS asks for another name than that did, the handshake pays, and an alert says it. Refusals are told
of in one line and, a while later, one with a count. And of those that a client may bring a few are signed at a time,
the others wait: an HSM that needs 100 ms for each would have everybody else's new names behind all of them.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from mitmproxy import connection
from msgspec import Struct

from addons.account import account
from addons.edge.refusal import EdgeRefusal, Refusals
from addons.turns import LineFullError, Turns
from hsm.errors import DeadlineError, TryLaterError

_CLIENTS = 65536
"""Clients that are told apart. Who has been quiet for the longest is forgotten first: its bucket is full again."""
_TELL_AGAIN_S = 10.0
_AT_ONCE, _AT_ONCE_IN_ALL = 8, 64
"""Mints in flight. A member has eight sessions by default, and a signature of a quick HSM is over in 5 ms."""


class _Bucket(Struct):
    left: float
    at: float
    refused: int = 0


class _Connect(Struct):
    """What a client has connected for, and whether it has paid for it and had nothing for that yet."""

    host: str
    paid: bool


class NewNames:
    """The budgets of one worker's clients."""

    def __init__(self, per_s: float, burst: int, refusals: Refusals) -> None:
        self._per_s = per_s
        self._burst = burst
        self._refusals = refusals
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._connects: dict[str, _Connect] = {}  # by the client connection's id
        self._expected: Counter[str] = Counter()
        self._turns = Turns(_AT_ONCE, _AT_ONCE_IN_ALL, burst)

    def connect(self, client: connection.Client, host: str) -> bool:
        """A CONNECT for `host`, of which no leaf is here: whether it may go on. Of many at the same time one pays."""
        paid = host not in self._expected
        if paid and not self.take(client):
            return False
        self.gone(client)
        self._connects[client.id] = _Connect(host, paid)
        self._expected[host] += 1
        return True

    def pay(self, client: connection.Client, host: str) -> bool:
        """A handshake for `host` whose leaf is to be minted: whether it may be."""
        connected = self._connects.get(client.id)
        if connected is not None and (connected.paid or connected.host == host):
            connected.paid = False
            return True
        return self.take(client)

    def gone(self, client: connection.Client) -> None:
        """A client's connection has ended."""
        connected = self._connects.pop(client.id, None)
        if connected is not None:
            self._expected[connected.host] -= 1
            if not self._expected[connected.host]:
                del self._expected[connected.host]

    def take(self, client: connection.Client) -> bool:
        """Take a new name for `client`. Whether there was one."""
        bucket = self._bucket(client)
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    async def turn(self, client: connection.Client, within_s: float) -> Callable[[], None]:
        """Wait until a name of `client` may be minted; what to call when it is. Raises DeadlineError, TryLaterError."""
        owner = account(client.peername[0])
        if not self._turns.take_at_once(owner):
            try:
                async with asyncio.timeout(within_s):
                    await self._turns.take(owner)
            except TimeoutError:
                raise DeadlineError(f"this client's other new names were not minted within {within_s:g} s") from None
            except LineFullError:
                raise TryLaterError("this client has too many new names waiting") from None
        return functools.partial(self._turns.give_back, owner)

    def refuse(self, client: connection.Client, host: str) -> None:
        """Count that `client` has used up its names, and tell of the first one at once, of others together."""
        bucket = self._bucket(client)
        bucket.refused += 1
        if bucket.refused > 1:
            self._refusals.count("too-many-names")
            return
        self._refusals.edge_refused(EdgeRefusal(client, "too-many-names", host))
        asyncio.get_running_loop().call_later(_TELL_AGAIN_S, self._tell_rest, client, bucket)

    def _tell_rest(self, client: connection.Client, bucket: _Bucket) -> None:
        more, bucket.refused = bucket.refused - 1, 0
        if more:
            self._refusals.tell(EdgeRefusal(client, "too-many-names", f"and {more} more within {_TELL_AGAIN_S:g} s"))

    def _bucket(self, client: connection.Client) -> _Bucket:
        owner, now = account(client.peername[0]), time.monotonic()
        bucket = self._buckets.get(owner)
        if bucket is None:
            bucket = self._buckets[owner] = _Bucket(float(self._burst), now)
            if len(self._buckets) > _CLIENTS:
                self._buckets.popitem(last=False)
        else:
            bucket.left = min(float(self._burst), bucket.left + (now - bucket.at) * self._per_s)
            bucket.at = now
            self._buckets.move_to_end(owner)
        return bucket
