"""Connections of the worker's own, to where a certificate says: a responder, a list, an issuer's certificate.

Who writes certificates writes these addresses, so they are judged as a client's choice is, when they are resolved, and
what was judged is connected to. A certificate that nobody has verified yet may be anybody's: it can say `near`, the
address of the server that showed it, and then a server out in the world names no address of ours.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from msgspec import Struct

from addons.addresses import Address, faces
from addons.edge.connecting import racing
from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.resolver import Found, Resolver, spelt

_ACCOUNT = "certificates"
"""That of the names that certificates have: no client's. Servers whose certificates nobody verified have one each."""


OUTSIDE = "outside"
"""As `near`: a server whose address only another proxy knows."""


class DeniedError(OSError):
    """An address that certificates may not name. Its text says which, and what denies it."""


class Parent(Struct, frozen=True):
    """The next proxy, where all goes through one. `authorization` is what it wants to hear (Proxy-Authorization), empty
    for nothing; `tls`: it is spoken to over TLS."""

    host: str
    port: int
    authorization: str = ""
    tls: bool = False


class Errands:
    """How one worker makes them."""

    def __init__(self, resolver: Resolver, destinations: Destinations, parent: Parent | None = None) -> None:
        """With a `parent` it is connected to that, in place of all others."""
        self._resolver = resolver
        self._destinations = destinations
        self.parent = parent

    async def connect(self, host: str, port: int, near: str = "") -> socket.socket:
        """A socket that is connected to `host` and `port`. Raises DeniedError, or OSError with a sentence.

        With `near` an address that is not of the public Internet is denied unless `near` is none either, or an entry
        of `allow_destinations` names it with this port.
        """
        if self.parent is not None:
            return await self._through(self.parent, host, port)
        found = await self._resolver.addresses(host, f"{_ACCOUNT} {near}")
        permitted, entry = self._permitted(found, port, near)
        if not permitted:
            raise DeniedError(f"{', '.join(str(one[1][0]) for one in found[:4])} is denied by {entry}")
        try:
            return await racing.first(permitted, port)
        except OSError:
            self._resolver.forget(host)
            raise

    async def _through(self, parent: Parent, host: str, port: int) -> socket.socket:
        """A socket to the next proxy, for `host`: which address a name has that one knows, not we."""
        if parent.tls:
            raise DeniedError(
                f"{host} is behind a proxy that is spoken to over TLS: nobody is asked through such a one"
            )
        for address in spelt(host):
            if (denied := self._destinations.denied_by(address, port)) is not None:
                raise DeniedError(f"{address} is denied by '{denied}' of deny_destinations")
        return await racing.first(await self._resolver.addresses(parent.host, _ACCOUNT), parent.port)

    def _permitted(self, found: Sequence[Found], port: int, near: str) -> tuple[list[Found], str]:
        """Those of `found` that may be connected to, and what denies the last of the others."""
        permitted, entry = [], ""
        for one in found:
            address = ipaddress.ip_address(one[1][0])
            denied = self._destinations.denied_by(address, port)
            if denied is not None:
                entry = f"'{denied}' of deny_destinations"
            elif near and self._is_ours(address, port) and not _is_inside(near):
                entry = f"its place: it is inside, and the server that names it, {near}, is not"
            else:
                permitted.append(one)
        return permitted, entry

    def _is_ours(self, address: Address, port: int) -> bool:
        return _inside(address) and not self._destinations.exempts(address, port)


def _is_inside(near: str) -> bool:
    return near != OUTSIDE and _inside(ipaddress.ip_address(near))


def _inside(address: Address) -> bool:
    """Whether `address`, or one that it stands for, is none of the public Internet."""
    return any(not face.is_global for face in faces(address))
