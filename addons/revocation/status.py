"""Whether a server's certificates are revoked: remembered, asked once for all who wait, and nobody waits for long.

What a stapled response says is believed first (RFC 6066 section 8): it costs nobody a question. Else the certificate's
responder is asked, then its issuer's list. A connection waits for that as long as its profile says
(`Profile.status_wait_s`); an answer that comes later counts for the next one. So in the built-in profile, where an
answer in time is no condition, the first connection to a certificate whose responder is slow is a second slower, and no
other is; and one that was revoked passes at most until its responder has answered. What it tells the responder is
which certificates are met here, not by whom: there is one question for a certificate and some hours, for all clients.

Only a chain that was verified up to a root is asked about: then it is a CA that has named the addresses.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import hashlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from addons.revocation import ocsp
from addons.revocation.answers import Answer, worst
from addons.revocation.named import STRANGE

logger = logging.getLogger("hsmitm.revocation")

_ANSWERS, _CHAINS = 16384, 4096
"""So many are remembered."""
_IN_PROGRESS = 256
"""So many certificates are asked about at a time; of a further one it is said that there is no answer."""
_TRUSTED = Answer("good", "its certificate is trusted as it is")
_STRANGE_CHAIN = Answer("unknown", "its certificates cannot be read, or do not follow from each other")

Key = tuple[bytes, int]
"""A certificate as its issuer knows it: SHA-256 of the issuer's key, and the serial number."""


class Checks(Protocol):
    """Where answers come from: `addons.revocation.check.Check`."""

    def stapled(self, staple: bytes, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer | None:
        """What a stapled response says."""

    async def ask(self, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer:
        """What those say that the certificate names."""


class Status:
    """What one worker knows. Among its addons, so that it is found there."""

    name = "status"

    def __init__(self, checks: Checks, clock: Callable[[], dt.datetime]) -> None:
        self._checks = checks
        self._clock = clock
        self._chains: OrderedDict[bytes, tuple[Key, ...]] = OrderedDict()
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._asked: dict[Key, asyncio.Task[None]] = {}

    def of(self, chain: Sequence[bytes], staple: bytes, within_s: float) -> Answer | Awaitable[Answer]:
        """The status of the server's `chain` (DER; its own certificate first, the root last), at once where it is
        known, else after at most `within_s`. `staple` is the response that came with it (DER), or empty.

        The root, which the operator has chosen, is not asked about.
        """
        digest = hashlib.sha256(b"".join(chain)).digest()
        keys = self._chains.get(digest)
        if keys is not None:
            known = [self._fresh(key, b"" if number else staple) for number, key in enumerate(keys)]
            if all(known):
                return worst(one for one in known if one is not None) if known else _TRUSTED
        return self._looked_up(digest, chain, staple, within_s)

    def _looked_up(
        self, digest: bytes, chain: Sequence[bytes], staple: bytes, within_s: float
    ) -> Answer | Awaitable[Answer]:
        try:
            certificates = [x509.load_der_x509_certificate(one) for one in chain]
            keys = self._keys(digest, certificates)
        except STRANGE:
            return _STRANGE_CHAIN
        if keys is None:
            return _STRANGE_CHAIN
        if not keys:
            return _TRUSTED
        waited: list[asyncio.Task[None]] = []
        for number, key in enumerate(keys):
            task = self._begin(key, certificates[number], certificates[number + 1], b"" if number else staple)
            if task is not None:
                waited.append(task)
        return self._after(keys, waited, within_s) if waited else self._sum(keys, within_s)

    def _keys(self, digest: bytes, certificates: Sequence[x509.Certificate]) -> tuple[Key, ...] | None:
        """Of all but the root; None for certificates that are no chain."""
        if (kept := self._chains.get(digest)) is not None:
            self._chains.move_to_end(digest)
            return kept
        pairs = list(itertools.pairwise(certificates))
        if not certificates or not all(ocsp.is_issuer(issuer, one) for one, issuer in pairs):
            return None
        keys = tuple((_key_hash(issuer), one.serial_number) for one, issuer in pairs)
        self._chains[digest] = keys
        if len(self._chains) > _CHAINS:
            self._chains.popitem(last=False)
        return keys

    def _begin(
        self, key: Key, certificate: x509.Certificate, issuer: x509.Certificate, staple: bytes
    ) -> asyncio.Task[None] | None:
        """See to an answer for this certificate; what is to be waited for."""
        if self._fresh(key, staple) is not None:
            self._answers.move_to_end(key)
            return None
        if staple and (said := self._checks.stapled(staple, certificate, issuer)) is not None:
            self._learn(key, said)
            return None
        if staple and self._fresh(key, b"") is not None:
            return None
        task = self._asked.get(key)
        if task is None and len(self._asked) < _IN_PROGRESS:
            # Eager tasks begin here, in the context of a client's connection, which is none of theirs.
            task = asyncio.get_running_loop().create_task(
                self._ask(key, certificate, issuer), context=contextvars.Context()
            )
            if not task.done():
                self._asked[key] = task
                task.add_done_callback(partial(self._over, key))
        known = self._answers.get(key)
        counts = known is not None and self._clock().timestamp() < known.until
        return None if counts or task is None or task.done() else task

    def _fresh(self, key: Key, staple: bytes) -> Answer | None:
        """What is known, if there is no need to look further: a staple may say what nobody else did."""
        known = self._answers.get(key)
        if known is None or self._clock().timestamp() >= known.renew:
            return None
        return known if known.status in ("good", "revoked") or not staple else None

    async def _ask(self, key: Key, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
        try:
            answer = await self._checks.ask(certificate, issuer)
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end in silence, nor in a connection's end
            logger.warning("the status of a certificate could not be asked for, unexpectedly: %r", error)
            until = self._clock().timestamp() + 60
            answer = Answer("unknown", "whether its certificate is revoked could not be asked", 0.0, until, until)
        self._learn(key, answer)

    def _over(self, key: Key, _: object) -> None:
        del self._asked[key]

    def _learn(self, key: Key, answer: Answer) -> None:
        """Remember it, unless something newer is known: what a CA said before a revocation may be shown for days."""
        known, now = self._answers.get(key), self._clock().timestamp()
        if known is not None and known.told > answer.told and now < known.until:
            # Nothing new: the old answer counts, and its source is left alone for as long as this one would be.
            answer = Answer(known.status, known.words, known.told, min(answer.renew, known.until), known.until)
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > _ANSWERS:
            self._answers.popitem(last=False)

    async def _after(self, keys: Sequence[Key], waited: list[asyncio.Task[None]], within_s: float) -> Answer:
        await asyncio.wait(waited, timeout=within_s)  # which leaves them be, for those who come next
        return self._sum(keys, within_s)

    def _sum(self, keys: Sequence[Key], within_s: float) -> Answer:
        now = self._clock().timestamp()
        late = Answer("timeout", f"whether its certificate is revoked was not known within {within_s:g} s")
        known = (self._answers.get(key) for key in keys)
        return worst(one if one is not None and now < one.until else late for one in known)


def _key_hash(issuer: x509.Certificate) -> bytes:
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()
