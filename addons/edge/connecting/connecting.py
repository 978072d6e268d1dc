"""Connections to servers on behalf of clients: look the name up, judge each address, connect to one that was judged.

Whoever decides by addresses before there is a connection, as the policy does, asks for them here (`addresses`): the
connection then goes to those, and nobody looks again.

Where it sits: mitmproxy's handler calls `asyncio.open_connection(host, port)` in the middle of a method that does much
else, and the loop is asked. So the handler says beforehand on whose behalf (`addons.engine.loop.CONNECT`), and the
worker's loop asks `Connecting` instead of resolving by itself. A copy of the handler's method would have to follow each
new mitmproxy, and a `server_connect` hook can name a host, but neither hand over an address that was judged nor have
several raced.

What an operator has configured is no client's choice and is not judged: an inbound site's server and the next proxy of
`upstream:` mode. A script's redirection is, and so is where redirected traffic was going to.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, Literal

from mitmproxy import connection, ctx
from mitmproxy.proxy import mode_specs

from addons.account import account
from addons.edge.answers import Sentence
from addons.edge.connecting import racing
from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.resolver import Found, Resolver, TooManyLookupsError, spelt
from addons.edge.refusal import EdgeRefusal, Refusals
from addons.engine.loop import Create
from addons.records.connections import facts_of

_JUDGED = "_hsmitm_judged"
"""The attribute of mitmproxy's object for a client with the addresses that were judged for it."""
_MOST_JUDGED = 64
"""Hosts; who asks for more is judged anew before each."""
_OPERATOR = "operator"
"""The account of names that the operator has written."""


class NoConnectionError(OSError):
    """There is no connection. Its text is a `Sentence`."""

    def __init__(self, sentence: Sentence) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class RefusedError(NoConnectionError):
    """A client may not have this connection."""


class Connecting:
    """The addon that handlers and streams ask."""

    name = "connecting"

    def __init__(self, resolver: Resolver, destinations: Destinations, refusals: Refusals) -> None:
        self._resolver = resolver
        self._destinations = destinations
        self._refusals = refusals

    async def connect(
        self,
        client: connection.Client,
        stated: connection.Address | None,
        preface: bytes,
        host: str,
        port: int,
        local: tuple[Any, ...] | None,
        create: Create,
    ) -> Any:
        """Create a connection to `host`, from the address `local` if there is one.

        `stated` is the server that the operator has configured for what `client` asks; `preface` is sent to it first.
        Raises OSError with a sentence.
        """
        chosen = not self._is_stated(client, stated, host, port)
        permitted = _judged(client).get((host, port)) if chosen else None
        if permitted is None:
            permitted = await self._found(client, host, port, chosen=chosen)
        elif isinstance(permitted, OSError):
            raise permitted.with_traceback(None)
        if local is not None:
            family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
            permitted = [one for one in permitted if one[0] == family]
            if not permitted:
                raise OSError(f"{host} has no address of the kind of {local[0]}, from which hsmitm is to connect")
        try:
            made = await _connected(permitted, port, local, create)
        except TimeoutError as error:
            self._resolver.forget(host)
            facts_of(client).fail("too-slow", "server", str(error))
            raise NoConnectionError(Sentence("too-slow", str(error))) from error
        except OSError as error:
            self._resolver.forget(host)
            facts_of(client).fail("connect-failed", "server", str(error))
            raise NoConnectionError(Sentence("connect-failed", str(error))) from error
        if preface:
            made[0].write(preface)
        return made

    async def addresses(
        self, client: connection.Client, stated: connection.Address | None, host: str, port: int
    ) -> tuple[str, ...]:
        """The addresses of `host` that a connection to `port` for `client` will go to, looked up now. `stated` as in
        `connect`. None, where it has none or may have none: connecting says why."""
        chosen = not self._is_stated(client, stated, host, port)
        found: Sequence[Found] | OSError
        try:
            found = await self._found(client, host, port, chosen=chosen)
        except OSError as error:
            found = error
        if chosen:
            judged = _judged(client)
            judged.pop((host, port), None)
            judged[host, port] = found
            while len(judged) > _MOST_JUDGED:
                del judged[next(iter(judged))]
        return () if isinstance(found, OSError) else tuple(str(one[1][0]) for one in found)

    @staticmethod
    def look_again(client: connection.Client) -> None:
        """What `client` asks for now has nothing to do with what it has asked for before."""
        _judged(client).clear()

    async def _found(self, client: connection.Client, host: str, port: int, *, chosen: bool) -> Sequence[Found]:
        """What `host` is looked up to be, less what the client may not reach. Raises OSError with a sentence."""
        try:
            found = await self._resolver.addresses(host, account(client.peername[0]) if chosen else _OPERATOR)
        except TooManyLookupsError as error:
            self._refuse(client, "too-many-lookups", host[:253])
            raise RefusedError(Sentence("too-many-lookups", f"{host} was not looked up: {error}")) from None
        except OSError as error:
            facts_of(client).fail("dns-failed", "server", str(error))
            raise NoConnectionError(Sentence("dns-failed", str(error))) from error
        permitted = self._permitted(client, found, host, port) if chosen else found
        if not isinstance(client.proxy_mode, mode_specs.UpstreamMode):  # there it is the other proxy that was looked up
            facts = facts_of(client)
            facts.addresses = tuple(str(one[1][0]) for one in permitted)
            facts.destination = facts.addresses[0]
        return permitted

    @staticmethod
    def _is_stated(client: connection.Client, stated: connection.Address | None, host: str, port: int) -> bool:
        mode = client.proxy_mode
        if isinstance(mode, mode_specs.UpstreamMode):
            stated = mode.address
        return stated is not None and (host, port) == tuple(stated[:2])

    def _permitted(self, client: connection.Client, found: Sequence[Found], host: str, port: int) -> Sequence[Found]:
        """Those of `found` that a client may reach. Raises RefusedError where that is none."""
        permitted, entry = [], ""
        for one in found:
            denied = self._destinations.denied_by(ipaddress.ip_address(one[1][0]), port)
            if denied is None:
                permitted.append(one)
            else:
                entry = denied
        if not permitted:
            addresses = ", ".join(str(one[1][0]) for one in found[:4])
            raise RefusedError(self.refused(client, host, port, entry, addresses))
        return permitted

    def refused(self, client: connection.Client, host: str, port: int, entry: str, addresses: str) -> Sentence:
        """Count and tell that `client` may not reach `host`; what the client is told."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._refuse(client, "blocked-destination", f"{where} ({addresses}) is denied by '{entry}'")
        return Sentence(
            "blocked-destination",
            f"{where} is not reached through this proxy: its address is denied by '{entry}' of deny_destinations. "
            "Whoever runs the proxy can make an exception for address and port: [proxy] allow_destinations",
        )

    def refused_literal(self, client: connection.Client, host: str, port: int) -> Sentence | None:
        """What the client is told where the address `host` (in any spelling) is denied; None for names.

        For what another proxy will connect to: there the name is looked up, and here it is not.
        """
        for address in spelt(host):
            if entry := self._destinations.denied_by(address, port):
                return self.refused(client, host, port, entry, str(address))
        return None

    def _refuse(
        self, client: connection.Client, kind: Literal["blocked-destination", "too-many-lookups"], detail: str
    ) -> None:
        self._refusals.edge_refused(EdgeRefusal(client, kind, detail))


async def _connected(permitted: Sequence[Found], port: int, local: tuple[Any, ...] | None, create: Create) -> Any:
    """By the loop itself where there is one address, which costs half; nothing is looked up any more."""
    address = permitted[0][1]
    if len(permitted) == 1 and "%" not in address[0]:
        try:
            return await create(address[0], port, local_addr=local)
        except OSError as error:
            raise racing.in_words(error, (address[0], port, *address[2:])) from None
    connected = await racing.first(permitted, port, local)
    try:
        return await create(sock=connected)
    except BaseException:
        connected.close()
        raise


def _judged(client: connection.Client) -> dict[tuple[str, int], Sequence[Found] | OSError]:
    """By host and port, the newest last. It is gone with the client."""
    found: dict[tuple[str, int], Sequence[Found] | OSError] = client.__dict__.setdefault(_JUDGED, {})
    return found


def current() -> Connecting | None:
    """The running worker's; None where no worker runs, as in tests of single layers."""
    master = getattr(ctx, "master", None)
    return master.addons.get("connecting") if master is not None else None
