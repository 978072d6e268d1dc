"""Certificates of issuers, fetched from where certificates say (caIssuers, RFC 5280 section 4.2.2.1).

The certificate that names the place is nobody's word: it was not verified. So what is fetched is small, few, and from
no address of ours for a server that is not of ours; and it is nobody's word either: only who builds a chain up to a
root with it knows what it is good for.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from msgspec import Struct

from addons.revocation.download import Wanted
from addons.revocation.named import STRANGE
from addons.revocation.servers import NotAskedError, Servers

MOST = 64 << 10
"""Bytes of an answer."""
_CERTIFICATES = 8
"""Of a bundle that are looked at."""
_FETCH_S = 3.0
_KEPT_S, _FAILED_S = 86400.0, 60.0
_PLACES = 1024
"""So many places are remembered."""
_IN_PROGRESS = 64


class _Known(Struct, frozen=True):
    """What was at a place, and until when (monotonic seconds) that counts."""

    certificates: tuple[x509.Certificate, ...]
    until: float


class Issuers:
    """Those that one worker has fetched."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._fetched: dict[tuple[str, str], asyncio.Task[tuple[x509.Certificate, ...]]] = {}

    def at(self, url: str, near: str) -> tuple[x509.Certificate, ...] | Awaitable[tuple[x509.Certificate, ...]]:
        """The certificates at `url`, at once where they are known; none where there are none to be had. `near` is the
        address of the server whose certificate names it."""
        known = self._known.get(url)
        if known is not None and time.monotonic() < known.until:
            self._known.move_to_end(url)
            return known.certificates
        key = (url, near)
        task = self._fetched.get(key)
        if task is None:
            if len(self._fetched) >= _IN_PROGRESS:
                return ()
            task = asyncio.get_running_loop().create_task(self._fetch(url, near), context=contextvars.Context())
            if task.done():
                return task.result()
            self._fetched[key] = task
            task.add_done_callback(partial(self._over, key))
        return asyncio.shield(task)

    def _over(self, key: tuple[str, str], _: object) -> None:
        del self._fetched[key]

    async def _fetch(self, url: str, near: str) -> tuple[x509.Certificate, ...]:
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


def certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """A certificate in DER, or several in a PKCS #7 message, as RFC 5280 section 4.2.2.1 has them; in PEM, as some
    have them. None where it is neither."""
    if data.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
        return _read(lambda: x509.load_pem_x509_certificates(data))
    return _read(lambda: [x509.load_der_x509_certificate(data)]) or _read(
        lambda: pkcs7.load_der_pkcs7_certificates(data)
    )


def _read(how: Callable[[], list[x509.Certificate]]) -> tuple[x509.Certificate, ...]:
    try:
        found = how()[:_CERTIFICATES]
        for one in found:
            one.public_key()
    except STRANGE:
        return ()
    return tuple(found)
