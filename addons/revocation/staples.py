"""Keeps the OCSP responses fresh that a worker staples: from files that another program renews, or from the responder
that a certificate names. `addons/revocation/ocsp.py` says what may be stapled and when to ask again; who shows it in
handshakes is not known here. Workers and `hsmitm check` call it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from addons.revocation import ocsp, ocsp_http
from addons.revocation.ocsp_http import MAX_BYTES
from hsm.errors import MisconfiguredError

logger = logging.getLogger("hsmitm.ocsp")

_LOOK_S = 60.0
"""Files are looked at, and the clock: nothing else notices that it was set or that the machine slept."""
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
        *,
        clock: _Clock = lambda: dt.datetime.now(dt.UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Raises MisconfiguredError, with the site, for a source that cannot work."""
        together = asyncio.Semaphore(_TOGETHER)
        self._kept = [_Staple(one, clock, together) for one in sources]
        self._sleep = sleep
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin; the first responses are there a little later."""
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
        validity = staple.verify(await staple.origin.ask(again=True) or b"")
    except ValueError as error:
        raise MisconfiguredError(f"{staple.name}: {error}") from error
    return f"{staple.name}: the OCSP response {staple.origin.got} is valid until {ocsp.utc(validity.next_update)}"


class _Staple:
    """The response of one certificate."""

    def __init__(self, source: Source, clock: _Clock, together: asyncio.Semaphore) -> None:
        self._leaf, self._issuer = _certificates(source)
        kind = "RSA" if isinstance(self._leaf.public_key(), rsa.RSAPublicKey) else "ECDSA"
        self.name = f"site {source.site}, {kind} certificate"
        self.origin = _origin(source, self._leaf, self._issuer, together)
        self._put, self._clock = source.put, clock
        self._due = clock()
        self._used: ocsp.Validity | None = None
        self._newest: dt.datetime | None = None  # of all that was believed, with those that revoked
        self._failures = 0
        self._complaint = ""

    async def keep(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        while True:
            self._expire()
            if self._clock() >= self._due:
                await self._renew()
            times = [self._due, self._used.next_update] if self._used else [self._due]
            wait = (min(times) - self._clock()).total_seconds()
            await sleep(min(_LOOK_S, max(1.0, wait)))

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
        try:
            response = await self.origin.ask(again=self._failures > 0)
            if response is not None:
                validity = self.verify(response)
                self._put(response)
                self._succeeded(validity)
        except ocsp.RevokedError as error:
            self._revoked(error)
        except ValueError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours must not end the renewing unnoticed
            self._failed(f"unexpectedly {error!r}")
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
) -> _File | _Responder:
    if isinstance(source.where, Path):
        return _File(source.where)
    name = f'site {source.site}: ocsp = "fetch"'
    if issuer is None:
        raise MisconfiguredError(
            f"{name}, but the chain ends with the site's certificate; add its issuer's, or name a file that is renewed"
        )
    try:
        return _Responder(ocsp.responder(leaf), ocsp.request(leaf, issuer), together)
    except ValueError as error:
        raise MisconfiguredError(f"{name}, but {error}; leave ocsp out, or name a file that is renewed") from error


class _File:
    """Another program's. It is looked at so often that the same complaint is logged only once."""

    repeats = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self.got = f"read from {path}"

    async def ask(self, *, again: bool) -> bytes | None:
        """None where the file is as before, unless `again` is asked. Raises ValueError."""
        return self._read(again=again)

    def _read(self, *, again: bool) -> bytes | None:
        try:
            found = self._path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{self._path} is not a regular file")
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen and not again:
                return None
            with self._path.open("rb") as file:
                response = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"cannot read {self._path}: {error.strerror or error}") from error
        self._seen = seen
        if len(response) > MAX_BYTES:
            raise ValueError(f"{self._path} has more than {MAX_BYTES // 1024} KiB")
        return response

    def pause_s(self, failures: int, used: ocsp.Validity | None, now: dt.datetime, chance: float) -> float:
        return _LOOK_S


class _Responder:
    """The one that the certificate names."""

    repeats = False

    def __init__(self, url: str, request: bytes, together: asyncio.Semaphore) -> None:
        self._url, self._request, self._together = url, request, together
        self.got = f"fetched from {url}"

    async def ask(self, *, again: bool) -> bytes:
        async with self._together:
            return await ocsp_http.fetch(self._url, self._request)

    def pause_s(self, failures: int, used: ocsp.Validity | None, now: dt.datetime, chance: float) -> float:
        if failures or not used:
            return ocsp.retry_s(max(1, failures), used, now, chance)
        return ocsp.refresh_s(used, now, chance)
