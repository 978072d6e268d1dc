"""The CRLs that certificates name: fetched once for all who ask, kept while they count, bounded in bytes."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from addons.revocation import crl
from addons.revocation.crl import Crl
from addons.revocation.download import Wanted
from addons.revocation.servers import Servers

MOST = 10 << 20
"""Bytes of a list. The longest of public CAs have a few million."""
_KEPT = 64 << 20
"""Bytes of all lists that are kept."""
_ENTRY = 4096
"""What a list takes beside its entries, about."""
_FETCH_S = 20.0
_FAILED_S, _FAILURES = 60.0, 256
"""So long a list that could not be had is not fetched again, and of so many that is remembered."""
_TOGETHER = 2
"""Downloads of lists at a time: each may take twice its size for a moment."""


RENEW = dt.timedelta(hours=12)
"""A list may count for ten days. After so long a newer one is fetched, and this one is used where there is none."""


class _Kept(Struct, frozen=True):
    """A list, and from when on a newer one is fetched."""

    found: Crl
    renew: dt.datetime


class Lists:
    """Those of one worker."""

    def __init__(self, servers: Servers, clock: Callable[[], dt.datetime]) -> None:
        self._servers = servers
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0
        self._failed: OrderedDict[bytes, tuple[float, ValueError]] = OrderedDict()
        self._fetched: dict[bytes, asyncio.Task[Crl]] = {}
        self._together = asyncio.Semaphore(_TOGETHER)

    async def find(self, url: str, issuer: x509.Certificate) -> Crl:
        """The list of `issuer` at `url`. Raises NoAnswerError, or ValueError with what is wrong with it."""
        key = hashlib.sha256(issuer.public_bytes(Encoding.DER) + url.encode()).digest()
        kept, now = self._kept.get(key), self._clock()
        if kept is not None:
            self._kept.move_to_end(key)
            if now < kept.renew:
                return kept.found
        try:
            return await self._newest(key, url, issuer)
        except ValueError:
            if kept is not None and now < kept.found.next_update:
                return kept.found
            raise

    async def _newest(self, key: bytes, url: str, issuer: x509.Certificate) -> Crl:
        until, error = self._failed.get(key, (0.0, ValueError()))
        if time.monotonic() < until:
            raise type(error)(str(error))
        task = self._fetched.get(key)
        if task is None:
            task = self._fetched[key] = asyncio.ensure_future(self._fetch(key, url, issuer))
            task.add_done_callback(partial(self._over, key))
        return await asyncio.shield(task)

    def _over(self, key: bytes, task: asyncio.Task[Crl]) -> None:
        self._fetched.pop(key, None)
        if not task.cancelled() and isinstance(error := task.exception(), ValueError):
            self._failed[key] = (time.monotonic() + _FAILED_S, error)
            if len(self._failed) > _FAILURES:
                self._failed.popitem(last=False)

    async def _fetch(self, key: bytes, url: str, issuer: x509.Certificate) -> Crl:
        wanted = Wanted("the server of the CRL", url, MOST, _FETCH_S, "application/pkix-crl")
        async with self._together:
            data = await self._servers.ask(wanted)
            found = await asyncio.to_thread(crl.read, data, issuer, self._clock())
        return self._keep(key, found)

    def _keep(self, key: bytes, found: Crl) -> Crl:
        """Keep the newer one of this and the one before: an old list may be shown again by whoever is on the way."""
        if (old := self._kept.pop(key, None)) is not None:
            self._bytes -= old.found.size + _ENTRY
            if old.found.this_update > found.this_update and self._clock() < old.found.next_update:
                found = old.found
        self._kept[key] = _Kept(found, min(found.next_update, self._clock() + RENEW))
        self._bytes += found.size + _ENTRY
        while self._bytes > _KEPT:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.found.size + _ENTRY
        return found
