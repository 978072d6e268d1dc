"""How many names that nobody has asked for before a client may bring: each is a signature of the HSM.

A bucket for each client address (an IPv6 /64): `burst` names at once, `per_s` on average, in each worker. Who has used
them up is refused, in HTTP where there is a CONNECT, else by an alert, and told of in one line and, a while later, one
with a count.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from mitmproxy import connection
from msgspec import Struct

from addons.edge.account import account
from addons.edge.refusal import EdgeRefusal, Refusals

_CLIENTS = 65536
"""Clients that are told apart. Who has been quiet for the longest is forgotten first: its bucket is full again."""
_TELL_AGAIN_S = 10.0


class _Bucket(Struct):
    left: float
    at: float
    refused: int = 0


class NewNames:
    """The budgets of one worker's clients."""

    def __init__(self, per_s: float, burst: int, refusals: Refusals) -> None:
        self._per_s = per_s
        self._burst = burst
        self._refusals = refusals
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def has(self, client: connection.Client) -> bool:
        """Whether `client` could have a new name now; nothing is taken."""
        return self._bucket(client).left >= 1

    def take(self, client: connection.Client) -> bool:
        """Take a new name for `client`. Whether there was one."""
        bucket = self._bucket(client)
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

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
