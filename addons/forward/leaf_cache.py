"""Leaves that were minted: bounded in number (`leaf_store`), checked for expiry on use, renewed before they expire, one
mint for each leaf at a time.

The order of a look-up: a valid leaf -> the mint in flight for it -> a mint of its own. A leaf past four fifths of its
life is still handed out while one background mint renews it, so that no client waits for a renewal, and a signer that
is away for hours is not noticed by hosts that are known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct
from OpenSSL import crypto

from addons.forward.leaf_keys import LeafKind
from addons.forward.leaf_store import LeafStore
from addons.records import legs
from addons.records.facts import CertificateFacts, Facts, Lookup
from addons.records.metrics import Outcome
from hsm.wire.worker import Authority, Minted

logger = logging.getLogger("hsmitm.leaf_cache")

RENEW_AT = 0.8
RENEWAL_PAUSE_S = 60.0
"""After a renewal that failed, how long before the next use tries again: a signer that is away is not asked for each
connection."""


class LeafKey(Struct, frozen=True):
    """What makes two connections share a leaf."""

    authority: Authority
    kind: LeafKind
    names: tuple[str, ...]


class Leaf(Struct):
    """A minted certificate, as OpenSSL has it: parsing it for each connection took 3 % of a worker's time.

    Times are seconds since the epoch.
    """

    certificate: crypto.X509
    not_after: float
    renew_at: float
    shown: CertificateFacts | None = None
    serial: str = ""
    """In hex, as the signer's log has it."""
    member: str = ""
    sign_ms: float = 0.0

    def note(self, facts: Facts, authority: Authority, lookup: Lookup) -> None:
        """A client gets it: which it is, and, where the client had to wait for it, what it cost."""
        facts.authority, facts.leaf_serial, facts.leaf_cache = authority, self.serial, lookup
        facts.client_leg.certificate = self.shown
        if lookup != "hit":
            facts.member, facts.sign_ms = self.member, self.sign_ms


Mint = Callable[[LeafKey], Awaitable[Leaf]]


def leaf(minted: Minted) -> Leaf:
    """A leaf from what the signer sent. Its life counts from now: back-dating is no part of it."""
    begins = max(minted.not_before, time.time())
    certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, minted.certificate)
    return Leaf(
        certificate,
        minted.not_after,
        begins + RENEW_AT * (minted.not_after - begins),
        legs.certificate(certificate.to_cryptography()),
        f"{certificate.get_serial_number():x}",
        minted.member,
        minted.sign_ms,
    )


class LeafCache:
    """A worker's leaves."""

    def __init__(self, mint: Mint, limit: int, count: Callable[[Outcome], None]) -> None:
        """`limit` is the number of leaves kept; `count` is told how each look-up ended."""
        self._mint = mint
        self._count = count
        self._leaves: LeafStore[LeafKey, Leaf] = LeafStore(limit)
        self._by_name: dict[str, LeafKey] = {}
        self._minting: dict[LeafKey, asyncio.Task[Leaf]] = {}

    def __len__(self) -> int:
        return len(self._leaves)

    def __contains__(self, key: LeafKey) -> bool:
        """Whether a valid leaf for `key` is here."""
        found = self._leaves.look(key)
        return found is not None and found.not_after > time.time()

    def mints(self, key: LeafKey) -> bool:
        """Whether a mint for `key` is in flight: who asks for it joins."""
        return key in self._minting

    def clear(self) -> None:
        """Forget every leaf; mints in flight go on."""
        self._leaves.clear()
        self._by_name.clear()

    def covers(self, host: str) -> bool:
        """Whether a valid leaf for `host` (a checked name) is likely here: by its name or by a wildcard of its parent.

        It may say no where an older leaf would do: the newest leaf with a name stands for it.
        """
        now = time.time()
        for name in (host, f"*.{host.partition('.')[2]}"):
            key = self._by_name.get(name)
            found = self._leaves.look(key) if key is not None else None
            if found is not None and found.not_after > now:
                return True
        return False

    def take(self, key: LeafKey) -> Leaf | None:
        """The leaf for `key`, if a valid one is here."""
        found = self._leaves.look(key)
        now = time.time()
        if found is None or found.not_after <= now:
            return None
        self._leaves.use(key)
        self._count("hit")
        if now >= found.renew_at and key not in self._minting:
            found.renew_at = now + RENEWAL_PAUSE_S
            self._start(key).add_done_callback(_log_failed_renewal)
        return found

    async def leaf(self, key: LeafKey, ended: Callable[[], None] = lambda: None) -> Leaf:
        """The leaf for `key`. Raises the mint's error where there is none; a failed mint is not remembered.

        `ended` is called when the mint that this look-up begins is over; where it begins none, at once.
        """
        task = self._minting.get(key)
        if (found := self.take(key)) is not None or task is not None:
            ended()
        if found is not None:
            return found
        self._count("miss" if task is None else "joined")
        # Shielded: a client that goes away must not take the mint from the others that wait for it.
        if task is None:
            task = self._start(key)
            task.add_done_callback(lambda _: ended())
        task.add_done_callback(_retrieve)  # all who waited may be gone when it fails
        return await asyncio.shield(task)

    def _start(self, key: LeafKey) -> asyncio.Task[Leaf]:
        task = asyncio.get_running_loop().create_task(self._minted(key))
        if not task.done():  # an eager task may have ended already
            self._minting[key] = task
            task.add_done_callback(lambda _: self._minting.pop(key, None))
        return task

    async def _minted(self, key: LeafKey) -> Leaf:
        minted = await self._mint(key)
        for name in key.names:
            self._by_name[name] = key
        for forgotten in self._leaves.keep(key, minted):
            for name in forgotten.names:
                if self._by_name.get(name) == forgotten:
                    del self._by_name[name]
        return minted


def _retrieve(task: asyncio.Task[Leaf]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _log_failed_renewal(task: asyncio.Task[Leaf]) -> None:
    if (error := _retrieve(task)) is not None:
        logger.warning("a leaf could not be renewed yet, the old one goes on: %s", error)
