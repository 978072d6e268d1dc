"""Where OCSP responses come from: a file that another program renews, the responder that the certificate names, or
that responder asked by one worker for all of a host (`addons.revocation.staples` says when, and uses what it gets).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from addons.revocation import ocsp, ocsp_http
from addons.revocation.keeper import Keeper
from addons.revocation.ocsp_http import MAX_BYTES
from hsm import reading
from hsm.wire.worker import StapleFound

logger = logging.getLogger("hsmitm.ocsp")

LOOK_S = 60.0
"""Files are looked at, and the clock: nothing else notices that it was set or that the machine slept."""
_WAITS = 8
"""While another worker has the turn the signer is asked after 1, 2, 3 ... seconds, so often: more than half a minute,
and the turn of one that hangs is over twice. Then we fetch, whatever the signer says."""
_JUST_S = ocsp.SOONEST_S / 2
"""A responder that another worker asked in vain so short a time ago need not be asked again."""
_BELIEVED = 2
"""So often in a row it is believed that another worker has just asked the responder in vain; then we ask ourselves."""

Verify = Callable[[bytes], ocsp.Validity]
"""A response (DER) -> when it may be stapled. Raises ValueError; RevokedError where it says that."""


class Got(NamedTuple):
    """A response that was verified."""

    response: bytes
    validity: ocsp.Validity


class Origin(Protocol):
    """Where the response of one certificate comes from. `got` says in words how the last one was come by; where
    something fails the same way each time, `repeats`, it is said once."""

    got: str
    repeats: bool

    async def kept(self, verify: Verify) -> Got | None:
        """What is there from before, without asking the responder; None for nothing. Raises RevokedError."""

    async def ask(self, verify: Verify, *, again: bool) -> Got | None:
        """The response of now; None where there is nothing new, unless `again` is asked. Raises ValueError."""

    def pause_s(self, failures: int, used: ocsp.Validity | None, now: dt.datetime, chance: float) -> float:
        """Seconds until it is to be asked again. `chance`: of [0, 1)."""


class File:
    """Another program's. It is looked at so often that the same complaint is logged only once."""

    repeats = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self.got = f"read from {path}"

    async def kept(self, verify: Verify) -> Got | None:
        """Nothing: it is read by the first `ask`, at once."""
        return None

    async def ask(self, verify: Verify, *, again: bool) -> Got | None:
        """None where the file is as before."""
        response = self._read(again=again)
        return None if response is None else Got(response, verify(response))

    def _read(self, *, again: bool) -> bytes | None:
        try:
            with reading.open_file(self._path) as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise ValueError(f"{self._path} is not a regular file")
                seen = (found.st_mtime_ns, found.st_size, found.st_ino)
                if seen == self._seen and not again:
                    return None
                response = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"cannot read {self._path}: {error.strerror or error}") from error
        self._seen = seen
        if len(response) > MAX_BYTES:
            raise ValueError(f"{self._path} has more than {MAX_BYTES // 1024} KiB")
        return response

    def pause_s(self, failures: int, used: ocsp.Validity | None, now: dt.datetime, chance: float) -> float:
        """The same always."""
        return LOOK_S


class Responder:
    """The one that the certificate names, asked by this worker for itself."""

    repeats = False

    def __init__(self, url: str, request: bytes, together: asyncio.Semaphore) -> None:
        """`together` bounds the fetches of a process."""
        self._url, self._request = url, request
        self.together = together
        self.got = f"fetched from {url}"

    async def kept(self, verify: Verify) -> Got | None:
        """Nothing is kept for it elsewhere."""
        return None

    async def ask(self, verify: Verify, *, again: bool) -> Got | None:
        """A response, always: never None."""
        async with self.together:
            response = await self.fetch()
        return Got(response, verify(response))

    async def fetch(self) -> bytes:
        """What the responder answers. Raises ValueError."""
        return await ocsp_http.fetch(self._url, self._request)

    def pause_s(self, failures: int, used: ocsp.Validity | None, now: dt.datetime, chance: float) -> float:
        """As `ocsp.refresh_s` and `ocsp.retry_s`."""
        if failures or not used:
            return ocsp.retry_s(max(1, failures), used, now, chance)
        return ocsp.refresh_s(used, now, chance)


class SharedResponder:
    """A responder that one worker at a time asks for all workers of a host, as the signer gives the turns.

    The signer is asked first, whenever a response is due: others' responses need no way of their own to us. Whatever
    it answers, or other workers have handed in, cannot keep us from a response for long: what does not verify is passed
    over, and waiting and believing have an end.
    """

    repeats = False

    def __init__(self, responder: Responder, keeper: Keeper, leaf: bytes, name: str) -> None:
        """`leaf` is the certificate (DER), `name` what messages call it."""
        self._responder, self._keeper, self._name = responder, keeper, name
        self._certificate = hashlib.sha256(leaf).digest()
        self._seen = b""
        self._waits = self._beliefs = 0
        self._vain = 0  # what others have asked in vain since there was a response counts as failures of ours
        self._within_s = _JUST_S
        self.got = ""

    async def kept(self, verify: Verify) -> Got | None:
        """What the signer keeps, if it is good."""
        found = await self._keeper.find(self._certificate, self._seen, 0, fetches=False)
        return self._take_over(found.response, verify) if found is not None and found.response else None

    async def ask(self, verify: Verify, *, again: bool) -> Got | None:
        """None also while it is another worker's turn, or where that one has asked in vain."""
        async with self._responder.together:  # a turn is short: nothing may be waited for in it
            found = await self._find()
            if found is not None and found.response:
                if (got := self._take_over(found.response, verify)) is not None:
                    return got
                found = await self._find()  # what was no good is not sent again
            if found is not None and self._believe(found):
                return None
            return await self._fetch(verify)

    async def _find(self) -> StapleFound | None:
        return await self._keeper.find(self._certificate, self._seen, self._within_s)

    def _take_over(self, response: bytes, verify: Verify) -> Got | None:
        """Another worker's response; None where it is no good. Raises RevokedError."""
        self._seen = hashlib.sha256(response).digest()
        self.got = "taken over from the signer"
        try:
            validity = verify(response)
        except ocsp.RevokedError:
            self._waits = self._beliefs = 0
            raise
        except ValueError as error:
            logger.warning(f"{self._name}: the OCSP response that the signer keeps is not used: {error}")
            self._within_s = 0.0  # whoever handed that in has not asked for us
            return None
        self._waits = self._beliefs = self._vain = 0
        return Got(response, validity)

    def _believe(self, found: StapleFound) -> bool:
        """Whether to leave it at what another worker does or has done."""
        if found.turn == "other":
            self._waits += 1
            self._within_s = _JUST_S  # what that one does while we wait, it does for us
            return self._waits <= _WAITS
        self._waits = 0
        if found.turn == "tried":
            self._beliefs += 1
            self._vain += 1
            if self._beliefs <= _BELIEVED:
                logger.info(f"{self._name}: another worker has just asked the OCSP responder; there is nothing new")
                return True
        return False

    async def _fetch(self, verify: Verify) -> Got:
        self._waits = self._beliefs = 0
        self.got = self._responder.got
        try:
            response = await self._responder.fetch()
            validity = verify(response)
        except ocsp.RevokedError:  # authentic, and for all to know
            await self._hand_in(response)
            raise
        except ValueError:
            await self._keeper.keep(self._certificate, b"")
            raise
        self._vain = 0
        await self._hand_in(response)
        return Got(response, validity)

    async def _hand_in(self, response: bytes) -> None:
        self._seen = hashlib.sha256(response).digest()
        await self._keeper.keep(self._certificate, response)

    def pause_s(self, failures: int, used: ocsp.Validity | None, now: dt.datetime, chance: float) -> float:
        """A moment while it is another worker's turn, else as a responder of our own."""
        if self._waits:
            return float(self._waits)
        failing = failures or not used
        pause = self._responder.pause_s(failures + self._vain if failing else 0, used, now, chance)
        # Who has got the old response in the second half of our pause has got it for us, too. But a responder that
        # failed may be back: an hour's pause is not made longer by another worker's failure half an hour ago.
        self._within_s = _JUST_S if failing else pause / 2
        return pause
