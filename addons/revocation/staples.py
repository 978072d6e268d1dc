"""Keeps the OCSP responses fresh that a worker staples: from files that another program renews, or from the responder
that a certificate names. `addons/revocation/ocsp.py` says what may be stapled and when to ask again; who shows it in
handshakes is not known here. Workers and `hsmitm check` call it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from addons.revocation import ocsp
from addons.revocation.keeper import Keeper
from addons.revocation.origins import LOOK_S, File, Got, Origin, Responder, SharedResponder
from hsm.errors import MisconfiguredError

logger = logging.getLogger("hsmitm.ocsp")

_BEGIN_S = 3.0
"""So long a start waits for the signer to say what it keeps."""
_TOGETHER = 8
"""Fetches at once: a start with a thousand sites is no flood."""

_Clock = Callable[[], dt.datetime]


class Source(NamedTuple):
    """Where the response for one certificate comes from and goes to."""

    site: str
    """For messages."""
    leaf: bytes
    """DER."""
    issuer: bytes | None
    """The next certificate of the chain, DER. Without it a file's signature is not checked."""
    where: Path | Literal["fetch"]
    put: Callable[[bytes | None], None]
    """Takes the response from now on to be stapled (DER), or None; may raise ValueError for one it cannot use."""


class Staples:
    """The responses of one process, each kept by a task of its own between `start` and `close`."""

    def __init__(
        self,
        sources: Sequence[Source],
        keeper: Keeper | None = None,
        *,
        clock: _Clock = lambda: dt.datetime.now(dt.UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`keeper` is where what is fetched is shared with the host's other workers; without it nothing is.

        Raises MisconfiguredError, with the site, for a source that cannot work.
        """
        together = asyncio.Semaphore(_TOGETHER)
        self._kept = [_Staple(one, clock, together, keeper) for one in sources]
        self._sleep = sleep
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin. Responses that the signer keeps are there at the end of the call, others a little later."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_S):
                await asyncio.gather(*(one.begin() for one in self._kept))
        self._tasks = [asyncio.create_task(one.keep(self._sleep)) for one in self._kept]

    async def close(self) -> None:
        """End, and drop fetches under way. What is stapled stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


async def check(source: Source) -> str:
    """Get the response once and say until when it is valid. Raises MisconfiguredError with what is wrong."""
    staple = _Staple(source, lambda: dt.datetime.now(dt.UTC), asyncio.Semaphore())
    try:
        got = await staple.origin.ask(staple.verify, again=True)
    except ValueError as error:
        raise MisconfiguredError(f"{staple.name}: {error}") from error
    assert got is not None  # asked again, an origin answers or raises
    until = ocsp.utc(got.validity.next_update)
    return f"{staple.name}: the OCSP response {staple.origin.got} is valid until {until}"


class _Staple:
    """The response of one certificate."""

    def __init__(
        self, source: Source, clock: _Clock, together: asyncio.Semaphore, keeper: Keeper | None = None
    ) -> None:
        self._leaf, self._issuer = _certificates(source)
        kind = "RSA" if isinstance(self._leaf.public_key(), rsa.RSAPublicKey) else "ECDSA"
        self.name = f"site {source.site}, {kind} certificate"
        self.origin = _origin(source, self._leaf, self._issuer, together)
        if keeper is not None and isinstance(self.origin, Responder):
            self.origin = SharedResponder(self.origin, keeper, source.leaf, self.name)
        self._put, self._clock = source.put, clock
        self._due = clock()
        self._used: ocsp.Validity | None = None
        self._newest: dt.datetime | None = None  # of all that was believed, with those that revoked
        self._failures = 0
        self._complaint = ""

    async def begin(self) -> None:
        """Use what is kept from before, if it is still good; what is not is fetched in its time."""
        await self._try(self.origin.kept(self.verify))
        if self._used or self._failures:
            self._plan()

    async def keep(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        while True:
            self._expire()
            if self._clock() >= self._due:
                await self._renew()
            times = [self._due, self._used.next_update] if self._used else [self._due]
            wait = (min(times) - self._clock()).total_seconds()
            await sleep(min(LOOK_S, max(1.0, wait)))

    def verify(self, response: bytes) -> ocsp.Validity:
        validity = ocsp.verify(response, self._leaf, self._issuer, self._clock())
        # HTTP is not authentic: whoever answers could take a revocation back with the response from before.
        if self._newest and validity.this_update < self._newest:
            raise ValueError(f"the OCSP response, of {ocsp.utc(validity.this_update)}, is older than the one before")
        return validity

    def _expire(self) -> None:
        if self._used and self._used.next_update <= self._clock():
            logger.warning(
                f"{self.name}: the OCSP response expired at {ocsp.utc(self._used.next_update)}; nothing is stapled"
            )
            self._used = None
            self._put(None)

    async def _renew(self) -> None:
        await self._try(self.origin.ask(self.verify, again=self._failures > 0))
        self._plan()

    async def _try(self, asking: Awaitable[Got | None]) -> None:
        try:
            if (got := await asking) is not None:
                self._put(got.response)
                self._succeeded(got.validity)
        except ocsp.RevokedError as error:
            self._revoked(error)
        except ValueError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end the renewing unnoticed
            self._failed(f"unexpectedly {error!r}")

    def _plan(self) -> None:
        now, chance = self._clock(), random.random()  # noqa: S311  # no secret
        self._due = now + dt.timedelta(seconds=self.origin.pause_s(self._failures, self._used, now, chance))

    def _succeeded(self, validity: ocsp.Validity) -> None:
        self._used, self._newest, self._failures, self._complaint = validity, validity.this_update, 0, ""
        unchecked = "" if self._issuer else " (its signature was not checked: the chain has no issuer)"
        logger.info(
            f"{self.name}: OCSP response {self.origin.got}, valid until {ocsp.utc(validity.next_update)}{unchecked}"
        )

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self.origin.repeats and why == self._complaint:
            return
        self._complaint = why
        instead = (
            f"the old one is used until {ocsp.utc(self._used.next_update)}" if self._used else "nothing is stapled"
        )
        logger.warning(f"{self.name}: no new OCSP response: {why}; {instead}")

    def _revoked(self, error: ocsp.RevokedError) -> None:
        """As nginx does, the response is not stapled: it would only turn away the clients that look, from a server
        whose operator has to act anyway. But unlike nginx we do not go on showing the one from before, which says
        what we know to be wrong; unless this one is the older of the two.
        """
        if self._newest and error.this_update < self._newest:
            self._failed(f"an OCSP response older than the one before says that {error}")
            return
        self._newest = error.this_update
        self._failures += 1
        if self._used:
            self._used = None
            self._put(None)
        if not self.origin.repeats or str(error) != self._complaint:
            logger.error(f"{self.name}: {error}; nothing is stapled; replace the certificate")
        self._complaint = str(error)


def _certificates(source: Source) -> tuple[x509.Certificate, x509.Certificate | None]:
    try:
        leaf = x509.load_der_x509_certificate(source.leaf)
        leaf.public_key()
        issuer = x509.load_der_x509_certificate(source.issuer) if source.issuer is not None else None
    except ValueError as error:
        raise MisconfiguredError(f"site {source.site}: a certificate does not parse: {error}") from error
    if issuer and not ocsp.is_issuer(issuer, leaf):
        raise MisconfiguredError(
            f"site {source.site}: the second certificate of the chain, {issuer.subject.rfc4514_string()}, did not "
            "issue the first; put the chain in order: the site's certificate, then its issuer's"
        )
    return leaf, issuer


def _origin(
    source: Source, leaf: x509.Certificate, issuer: x509.Certificate | None, together: asyncio.Semaphore
) -> Origin:
    if isinstance(source.where, Path):
        return File(source.where)
    name = f'site {source.site}: ocsp = "fetch"'
    if issuer is None:
        raise MisconfiguredError(
            f"{name}, but the chain ends with the site's certificate; add its issuer's, or name a file that is renewed"
        )
    try:
        return Responder(ocsp.responder(leaf), ocsp.request(leaf, issuer), together)
    except ValueError as error:
        raise MisconfiguredError(f"{name}, but {error}; leave ocsp out, or name a file that is renewed") from error
