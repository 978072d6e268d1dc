"""Certificates of issuers, fetched from where certificates say (caIssuers, RFC 5280 section 4.2.2.1).

The certificate that names the place is nobody's word: it was not verified. So what is fetched is small, few, and from
no address of ours for a server that is not of ours; and it is nobody's word either: only who builds a chain up to a
root with it knows what it is good for.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from msgspec import Struct

from addons.revocation import named, ocsp
from addons.revocation.download import Wanted
from addons.revocation.named import STRANGE
from addons.revocation.servers import NotAskedError, Servers

MOST = 64 << 10
"""Bytes of an answer."""
_SENT, _DEPTH = 10, 4
"""Certificates of a server's that are looked at, and how many of its chain may be missing."""
_CERTIFICATES, _LIKELY = 8, 3
"""Of a bundle that are looked at, and how many of these that have the issuer's name are tried for its key."""
_FETCH_S, _WITHIN_S = 3.0, 5.0
"""For one answer, and for all that a connection waits for."""
_KEPT_S, _FAILED_S = 86400.0, 60.0
_PLACES = 1024
"""So many places are remembered."""
_IN_PROGRESS, _OF_SERVER = 256, 8
"""So many places are asked at a time, and so many that certificates of one server name."""

Certificates = tuple[x509.Certificate, ...]
Climb = Generator[Awaitable[Certificates], Certificates, Certificates]
"""Yields what is to be waited for, and takes what came of it."""


class _Known(Struct, frozen=True):
    """What was at a place, and until when (monotonic seconds) that counts."""

    certificates: tuple[x509.Certificate, ...]
    until: float


class Issuers:
    """Those that one worker has fetched. Among its addons, so that it is found there."""

    name = "issuers"

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetched: dict[tuple[str, str], asyncio.Task[tuple[x509.Certificate, ...]]] = {}

    def above(
        self, sent: Sequence[x509.Certificate], near: str, enough: Callable[[Sequence[x509.Certificate]], bool]
    ) -> Certificates | Awaitable[Certificates]:
        """The certificates above those that a server has `sent`, its own first, as far as they are to be had and until
        they are `enough`: at once where they are known, else within 5 s. `near` is the server's address.
        """
        climb = self._climb(_top(sent[:_SENT]), near, enough)
        try:
            return self._go_on(climb, next(climb))
        except StopIteration as end:
            found: Certificates = end.value
            return found

    async def _go_on(self, climb: Climb, waiting: Awaitable[Certificates]) -> Certificates:
        try:
            async with asyncio.timeout(_WITHIN_S):
                while True:
                    waiting = climb.send(await waiting)
        except StopIteration as end:
            found: Certificates = end.value
            return found
        except TimeoutError:
            return ()

    def _climb(self, top: x509.Certificate, near: str, enough: Callable[[Sequence[x509.Certificate]], bool]) -> Climb:
        climbed: Certificates = ()
        for _ in range(_DEPTH):
            issuer = None
            for url in named.issuers(top) if top.subject != top.issuer else ():
                known = self._at(url, near)
                found = known if isinstance(known, tuple) else (yield known)
                if (issuer := _issuer(top, found)) is not None:
                    break
            if issuer is None or issuer in climbed:
                break
            climbed, top = (*climbed, issuer), issuer
            if enough(climbed):
                break
        return climbed

    def _at(self, url: str, near: str) -> Certificates | Awaitable[Certificates]:
        """The certificates at `url`, at once where they are known; none where there are none to be had. `near` is the
        address of the server whose certificate names it."""
        known = self._known.get(url)
        if known is not None and time.monotonic() < known.until:
            self._known.move_to_end(url)
            return known.certificates
        key = (url, near)
        task = self._fetched.get(key)
        if task is None:
            of_server = sum(place == near for _, place in self._fetched)
            if len(self._fetched) >= _IN_PROGRESS or of_server >= _OF_SERVER:
                return ()
            task = asyncio.get_running_loop().create_task(self._fetch(url, near), context=contextvars.Context())
            if task.done():
                return task.result()
            self._fetched[key] = task
            task.add_done_callback(partial(self._over, key))
        return asyncio.shield(task)

    def _over(self, key: tuple[str, str], _: object) -> None:
        del self._fetched[key]

    async def _fetch(self, url: str, near: str) -> Certificates:
        wanted = Wanted("the issuer's certificate at", url, MOST, _FETCH_S, "application/pkix-cert")
        try:
            found = certificates(await self._servers.ask(wanted, near))
        except NotAskedError:
            return ()  # another server's certificate may name the same place
        except ValueError:
            found = ()
        self._known[url] = _Known(found, time.monotonic() + (_KEPT_S if found else _FAILED_S))
        self._known.move_to_end(url)
        if len(self._known) > _PLACES:
            self._known.popitem(last=False)
        return found


def certificates(data: bytes) -> Certificates:
    """A certificate in DER, or several in a PKCS #7 message, as RFC 5280 section 4.2.2.1 has them; in PEM, as some
    have them. None where it is neither."""
    if data.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
        return _read(lambda: x509.load_pem_x509_certificates(data))
    return _read(lambda: [x509.load_der_x509_certificate(data)]) or _read(lambda: _bundle(data))


def _bundle(data: bytes) -> list[x509.Certificate]:
    with warnings.catch_warnings():  # of bundles in BER, which RFC 5280 allows
        warnings.simplefilter("ignore", UserWarning)
        return pkcs7.load_der_pkcs7_certificates(data)


def _top(sent: Sequence[x509.Certificate]) -> x509.Certificate:
    """The last of a server's certificates that is reached from the first."""
    top, others = sent[0], list(sent[1:])
    while (above := _issuer(top, others)) is not None:
        top = above
        others.remove(above)
    return top


def _issuer(certificate: x509.Certificate, found: Sequence[x509.Certificate]) -> x509.Certificate | None:
    likely = [one for one in found if one.subject == certificate.issuer][:_LIKELY]
    return next((one for one in likely if ocsp.is_issuer(one, certificate)), None)


def _read(how: Callable[[], list[x509.Certificate]]) -> Certificates:
    try:
        found = how()[:_CERTIFICATES]
        for one in found:
            one.public_key()
    except STRANGE:
        return ()
    return tuple(found)
