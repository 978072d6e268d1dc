"""A worker's knowledge of revocation, and those whom it asks: a CA, and a web server of its own on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http.server import BaseHTTPRequestHandler

from cryptography import x509

from addons.edge.connecting.destinations import DENIED, Destinations
from addons.edge.connecting.errands import Errands
from addons.edge.connecting.resolver import Resolver
from addons.revocation.answers import Answer
from addons.revocation.check import Check
from addons.revocation.lists import Lists
from addons.revocation.servers import Servers
from addons.revocation.status import Status
from tests.addons.revocation.ocsp_responder import Responder, der, respond_with
from tests.addons.revocation.stapled import CA, Time

NOT_FOUND = respond_with(b"", 404)


def errands(*allowed: str) -> Errands:
    """Connections to where certificates say; this machine is denied but for `allowed`."""
    return Errands(Resolver(per_client=16, lookup_s=5), Destinations(DENIED, allowed or ("127.0.0.1",)))


class Asking:
    """What a worker has, on a clock of the test's."""

    def __init__(self, web: Responder, time: Time, *allowed: str) -> None:
        self.web, self.time = web, time
        self.servers = Servers(errands(*allowed), clock=time.seconds)
        self.lists = Lists(self.servers, time.clock)
        self.status = Status(Check(self.servers, self.lists, time.clock), time.clock)
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        web.answer = lambda http: self.answers.get(http.path, NOT_FOUND)(http)

    def at(self, path: str, answer: bytes | Callable[[BaseHTTPRequestHandler], None]) -> str:
        """The URL of a place of the web server that gives this answer from now on."""
        self.answers[path] = respond_with(answer) if isinstance(answer, bytes) else answer
        return self.web.url.removesuffix("/ocsp") + path

    async def of(
        self, leaf: x509.Certificate, staple: bytes = b"", within_s: float = 5, above: Sequence[x509.Certificate] = ()
    ) -> Answer:
        """The answer for a chain of `leaf`, what is `above` it, and the root."""
        return await self.whole((leaf, *above, CA.certificate), staple, within_s)

    async def whole(self, chain: Sequence[x509.Certificate], staple: bytes = b"", within_s: float = 5) -> Answer:
        """The answer for this chain."""
        given = self.status.of([der(one) for one in chain], staple, within_s)
        return given if isinstance(given, Answer) else await _given(given)

    @property
    def questions(self) -> list[str]:
        """The paths that were asked for."""
        return [path for path, _, _ in self.web.asked]


async def _given(answer: Awaitable[Answer]) -> Answer:
    async with asyncio.timeout(20):
        return await answer
