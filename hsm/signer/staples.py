"""OCSP responses of the sites' certificates, kept for all workers of the host and over a restart of any process.

The signer fetches none and reads nothing in them: they are bytes that one worker handed in for the others, which verify
them like any that they fetched. A worker that is taken over can hand in junk: it costs each other worker one
verification, and one of them a fetch. How much, for how many certificates and how often is bounded here; that workers
need not wait for one that does nothing with its turn is their own business (`addons.revocation.origins`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from msgspec import Struct, field

from hsm.errors import RefusedError, TryLaterError
from hsm.signer.sites import Sites
from hsm.signer.workers import WorkerChannel
from hsm.wire.frames import Done
from hsm.wire.worker import MAX_STAPLE, FindStaple, KeepStaple, StapleFound

logger = logging.getLogger("hsmitm.ocsp")

TURN_S = 15.0
"""A turn ends when a response is handed in, with its worker's connection, or after so long: a fetch takes 10 s at most,
but a worker may hang."""
WINDOW_S = 240.0
TURNS = 4
"""Of one certificate's turns, this many begin within the window, each with another connection: a worker of ours does
not ask a responder again before 300 s, and more than one has a turn only where the one before is killed, hangs or hands
in junk. So this is all that a worker that is taken over can have written to disk."""

_OURS = re.compile(r"[0-9a-f]{64}\.(der|new)")

Refuse = Callable[[str], RefusedError]
"""Notes a worker's request that is refused, with the reason; the error to raise."""


class _Kept(Struct):
    """What there is of one certificate. `turns` are those of the last WINDOW_S: when each began and whose it is; the
    last one is going on until `until`."""

    site: str
    path: Path
    response: bytes = b""
    turns: list[tuple[float, WorkerChannel]] = field(default_factory=list)
    until: float = 0.0
    tried: float = float("-inf")

    def holder(self, now: float) -> WorkerChannel | None:
        """Whose turn it is. One that has no connection any more has none."""
        holder = self.turns[-1][1] if self.turns and now < self.until else None
        return holder if holder is not None and holder.connected else None

    def begin(self, channel: WorkerChannel, now: float) -> bool:
        """Give `channel` its turn, which nobody has now; false where it, or all together, had too many of late."""
        self.turns = [turn for turn in self.turns if turn[0] > now - WINDOW_S]
        if len(self.turns) >= TURNS or any(one is channel for _, one in self.turns):
            return False
        self.turns.append((now, channel))
        self.until = now + TURN_S
        return True

    def end(self, now: float) -> None:
        """The turn's worker has asked the responder."""
        self.until = 0.0
        self.tried = now


class KeptStaples:
    """The responses, one file for each in a directory of the signer's own: `openssl ocsp -respin` shows them."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`state` is the signer's directory."""
        self._directory = state / "staples"
        self._clock = clock
        self._kept: dict[bytes, _Kept] = {}
        self._left: frozenset[bytes] = frozenset()

    def take(self, sites: Sites) -> None:
        """Keep the responses of these sites' certificates from now on, those on disk too, and no others."""
        before = self._kept
        self._kept = {}
        for site in sites.sites:
            digest = site.chain[0].fingerprint(hashes.SHA256())
            path = self._directory / f"{digest.hex()}.der"
            self._kept[digest] = before.get(digest) or _Kept(site.name, path, _read(path))
        # Workers learn of a reload with their next report: what they ask until then is no sign of an attack.
        self._left = frozenset(before.keys() - self._kept.keys())
        self._remove_others()

    def serve(
        self, channel: WorkerChannel, pid: int, request: FindStaple | KeepStaple, refuse: Refuse
    ) -> StapleFound | Done:
        """Answer a worker. Raises what `refuse` makes of a request that no worker of ours makes, or TryLaterError for a
        response that comes when it is not the worker's turn, and for a certificate that was replaced a moment ago."""
        if request.certificate in self._left:
            raise TryLaterError("the site has another certificate since the last reload")
        kept = self._kept.get(request.certificate)
        if kept is None:
            raise refuse(f"no site has the certificate {request.certificate[:32].hex()}")
        match request:
            case FindStaple():
                return self._find(channel, request, kept)
            case KeepStaple():
                if len(request.response) > MAX_STAPLE:
                    raise refuse(f"an OCSP response of {len(request.response)} bytes; at most {MAX_STAPLE} are kept")
                self._keep(channel, pid, request.response, kept)
                return Done()

    def _find(self, channel: WorkerChannel, request: FindStaple, kept: _Kept) -> StapleFound:
        now = self._clock()
        if kept.response and hashlib.sha256(kept.response).digest() != request.seen:
            return StapleFound(kept.response, "kept")
        if not request.fetches:
            return StapleFound(b"", "other")
        if (holder := kept.holder(now)) is not None:
            return StapleFound(b"", "yours" if holder is channel else "other")
        if now - kept.tried < request.within_s:
            return StapleFound(b"", "tried")
        return StapleFound(b"", "yours" if kept.begin(channel, now) else "other")

    def _keep(self, channel: WorkerChannel, pid: int, response: bytes, kept: _Kept) -> None:
        now = self._clock()
        holder = kept.holder(now)
        # Without a turn: it waited for the others in vain, or its turn was given by a signer that is gone.
        if holder is not channel and (holder is not None or not kept.begin(channel, now)):
            raise TryLaterError(f"site {kept.site}: it is not this worker's turn to fetch the OCSP response")
        kept.end(now)
        if response and response != kept.response:
            kept.response = response
            logger.info("site %s: keeping an OCSP response of %d bytes from worker process %d",
                        kept.site, len(response), pid)  # fmt: skip
            self._write(kept)

    def _write(self, kept: _Kept) -> None:
        """Whole or not at all, but without fsync, which would hold up signatures: what a power cut spoils is fetched
        again."""
        unfinished = kept.path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(kept.response)
            unfinished.replace(kept.path)
        except OSError as error:
            logger.warning(
                "site %s: its OCSP response will not outlast the signer: cannot write %s: %s",
                kept.site, kept.path, error.strerror,
            )  # fmt: skip

    def _remove_others(self) -> None:
        wanted = {kept.path.name for kept in self._kept.values()}
        with suppress(OSError):
            for name in os.listdir(self._directory):  # noqa: PTH208  # names alone, which a path would only hide
                if _OURS.fullmatch(name) and name not in wanted:
                    (self._directory / name).unlink()


def _read(path: Path) -> bytes:
    """What is kept there; empty where there is nothing, or what cannot be a file of ours. Never waits, never raises."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _content(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.warning("%s is not used: %s", path, getattr(error, "strerror", None) or error)
    return b""


def _content(descriptor: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ValueError("it is no file that this user alone can write")
    if found.st_size > MAX_STAPLE:
        raise ValueError(f"it has more than {MAX_STAPLE} bytes")
    return os.read(descriptor, MAX_STAPLE)
