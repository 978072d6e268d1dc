"""A TLS handshake of our own with a server, on behalf of a client whose TLS is not opened: to see its certificate.

It goes the way of all connections to servers: the same destinations are denied, the same parent proxy is asked, the
same roots, versions and suites hold, scripts see the same hooks. Nothing is asked of the server.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import suppress

from mitmproxy import connection, ctx
from mitmproxy.proxy import commands, context, events, layer, mode_specs, tunnel
from mitmproxy.proxy.layers.http import _upstream_proxy
from msgspec.structs import replace

from addons.edge.listeners.handler import EdgeHandler
from addons.edge.proving.probe import Finding, Question
from addons.policy.settings import Profile
from addons.records.connections import facts_of
from addons.upstream.connection import Demand, ServerConnection
from addons.upstream.judge import Judgement, judge
from addons.upstream.layer import ServerTls

_STRICT = Profile(
    expired="block", untrusted="block", self_signed="block", name_mismatch="block", revoked="block", weak_key="block"
)
"""What proves a name: no profile's allowance does."""
_NOT_OURS = ("server-wants-client-certificate", "no-common-group")
"""What is said of a handshake with us, and is the client's own business where it has one itself."""


async def shake(client: connection.Client, question: Question) -> Finding:
    """Ask a server for its certificate."""
    return await _Trial(client, question).run()


class _Opening(layer.Layer):
    """Wants the server connected, and no more."""

    def __init__(self, made: context.Context) -> None:
        super().__init__(made)
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            error = yield commands.OpenConnection(self.context.server)
            if not self.over.done():
                self.over.set_result(error)


class _Tls(ServerTls):
    """TLS with the server."""

    def __init__(self, made: context.Context, *, named: bool) -> None:
        super().__init__(made)
        self._named = named

    def start_tls(self) -> layer.CommandGenerator[None]:
        """As ServerTls; a name that nobody has said needs not be the certificate's."""
        yield from super().start_tls()
        if isinstance(self.tls, ServerConnection) and self.tls.demand is not None and not self._named:
            wanted = self.tls.demand
            self.tls.demand = replace(wanted, profile=replace(wanted.profile, name_mismatch="allow"))


class _Nobody:
    """A client's end that nothing is written to."""

    def __init__(self, client: connection.Client) -> None:
        self._told = {"peername": client.peername, "sockname": client.sockname}

    def get_extra_info(self, name: str, default: object = None) -> object:
        """As a transport's."""
        return self._told.get(name, default)


class _Trial(EdgeHandler):
    """The handler of a client that is not there."""

    def __init__(self, client: connection.Client, question: Question) -> None:
        super().__init__(ctx.master, asyncio.StreamReader(), _Nobody(client), ctx.options, client.proxy_mode)
        self.transports.clear()
        self._question = question
        facts, theirs = facts_of(self.client), facts_of(client)
        facts.policy, facts.policy_version, facts.decision = theirs.policy, theirs.policy_version, theirs.decision
        self._facts = facts
        made = context.Context(self.client, ctx.options)
        made.server = connection.Server(address=(question.address, question.port))
        made.server.sni = question.name
        made.server.alpn_offers = tuple(one.encode() for one in question.alpn)
        self._tls, self._opening = _Tls(made, named=question.named), _Opening(made)
        self.layer = self._stack(made)[0]

    def _stack(self, made: context.Context) -> tunnel.LayerStack:
        stack, mode = tunnel.LayerStack(), self.client.proxy_mode
        if isinstance(mode, mode_specs.UpstreamMode):
            made.server.via = (mode.scheme, mode.address)
            stack /= _upstream_proxy.HttpUpstreamProxy.make(made, True)
        stack /= self._tls
        stack /= self._opening
        return stack

    async def run(self) -> Finding:
        """To its end; nothing is left of it."""
        try:
            await self.server_event(events.Start())
            return self._finding(await self._opening.over)
        finally:
            tasks = [io.handler for io in self.transports.values() if io.handler is not None]
            for one in (*tasks, *self.wakeup_timer):
                one.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

    def _finding(self, error: str | None) -> Finding:
        made, leg = self._tls.tls, self._facts.server_leg
        found = Finding(certificate=leg.certificate, verification=leg.verification)
        if isinstance(made, ServerConnection) and made.demand is not None and not made.cut:
            judgement = _judgement(made, made.demand)
            if judgement is not None and judgement.outcome == "trust":
                return replace(found, proved=_proves(made, made.demand))
            if judgement is not None:
                return replace(found, kind=judgement.kind, sentence=judgement.sentence)
        elif error is None:
            return found  # a script's own connection, which nobody judges
        if (failure := self._facts.failure) is not None:
            return replace(found, kind=failure.kind, sentence=failure.text)
        return replace(found, kind="connect-failed", sentence=f"no TLS with {self._question.name}: {error}")


def _judgement(made: ServerConnection, wanted: Demand) -> Judgement | None:
    """What becomes of the server; None where its certificate was not seen."""
    found = made.judgement
    if found is not None and found.kind not in _NOT_OURS:
        return found
    if found is None and not made.certificate_wanted:
        return None
    return _judged(made, wanted, wanted.profile)  # it wants the client's own certificate, and has none of ours


def _proves(made: ServerConnection, wanted: Demand) -> bool:
    revoked = made.judgement is not None and made.judgement.kind == "server-revoked"
    judgement = _judged(made, wanted, _STRICT)
    return judgement is not None and judgement.outcome == "trust" and not revoked


def _judged(made: ServerConnection, wanted: Demand, profile: Profile) -> Judgement | None:
    chain = made.completed or made.built
    if not chain:
        return None
    now = dt.datetime.now(dt.UTC)
    return judge(made.complaints, chain, profile, wanted.accepts, now, host=wanted.host)
