"""A request that the policy lets through; one that it does not gets its page before anybody else sees it.

Judged here are requests that nobody has encrypted, each by itself, and in what was decrypted the host that a request
names: what the leaf does not vouch for belongs on a connection of its own (RFC 9110 section 15.5.20). A CONNECT has its
turn in `http_connect`, behind scripts: they may send it elsewhere.
"""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.proxy import context, layer
from mitmproxy.proxy.layers.http import DropStream, HTTPMode, SendHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders, ResponseData, ResponseEndOfMessage, ResponseHeaders

from addons.edge import authority
from addons.edge.again import Again
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.pages import pages
from addons.pages.sentences import Kind
from addons.policy import asked
from addons.policy.addon import policy_of
from addons.policy.demands import elsewhere
from addons.records.connections import facts_of
from hsm import names


class Judged(Again):
    """Stands in for HttpStream."""

    def state_wait_for_request_headers(self, event: RequestHeaders) -> layer.CommandGenerator[None]:
        """As Again, for a request that may go on."""
        request, client = event.request, self.context.client
        if request.method == "CONNECT":
            yield from super().state_wait_for_request_headers(event)
            return
        decision = yield from asked.of_request(self.context, request, asked=self.mode is not HTTPMode.transparent)
        if decision is not None and decision.acts == "block":
            yield EdgeRefusedHook(EdgeRefusal(client, "blocked-by-policy", decision.reason))
            yield from self._turn_away(request, "blocked-by-policy")
        elif decision is None and (strange := _stranger(self.context, request)):
            facts_of(client).fail("host-mismatch", "client", strange)
            yield EdgeRefusedHook(EdgeRefusal(client, "host-mismatch", strange))
            yield from self._turn_away(request, "host-mismatch")
        else:
            yield from super().state_wait_for_request_headers(event)

    def handle_connect(self) -> layer.CommandGenerator[None]:
        """As Again; one that the policy has blocked is told of."""
        yield from super().handle_connect()
        facts = facts_of(self.context.client)
        if facts.decided and facts.decision is not None and facts.decision.acts == "block":
            yield EdgeRefusedHook(EdgeRefusal(self.context.client, "blocked-by-policy", facts.decision.reason))

    def handle_connect_regular(self) -> layer.CommandGenerator[None]:
        """As Again. Where everything but a name that is still to come is blocked, nobody is connected to before that
        is known: with a default of "block" a CONNECT to any address would else be a way to knock at it."""
        decision = facts_of(self.context.client).decision
        if self.flow.response is None and decision is not None and decision.acts == "block":
            self.child_layer = layer.NextLayer(self.context)
            yield from self.handle_connect_finish()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        else:
            yield from super().handle_connect_regular()  # type: ignore[no-untyped-call]

    def _turn_away(self, request: http.Request, kind: Kind) -> layer.CommandGenerator[None]:
        self.client_state = self.server_state = self.state_errored
        client = self.context.client
        page = pages.current().page(facts_of(client), kind=kind, request=request)
        text = page.raw_content or b""
        yield SendHttp(ResponseHeaders(self.stream_id, page, end_stream=not text), client)
        if text:
            yield SendHttp(ResponseData(self.stream_id, text), client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), client)
        yield DropStream(self.stream_id)  # what else comes of the request goes nowhere


def _stranger(made: context.Context, request: http.Request) -> str:
    """What a request names that does not belong on its connection, in words; "" where there is no such thing.

    That is what the leaf does not vouch for, unless the profile has it that it does not matter; and of what it does
    vouch for, as for all names of a shared certificate, whatever the policy would not decrypt: asked for on a
    connection of its own, that gets what it has to get.
    """
    facts = facts_of(made.client)
    if not asked.is_there() or not (known := facts.leaf_names or ((facts.sni,) if facts.mode == "inbound" else ())):
        return ""
    strict = policy_of(facts).host_mismatch == "block" and made.server.tls_established and facts.mode != "inbound"
    for one in authority.claims(request):
        if facts.sni and one.partition(":")[0] == facts.sni:
            continue
        try:
            named = authority.host(one)
        except ValueError as error:
            if strict:
                return str(error)
            continue
        if strict and not any(names.covers(name, named) for name in known):
            return f"{one[:80]!r} on a connection for {known[0]}"
        other = elsewhere(facts, named)
        if other is not None and (other.acts != "decrypt" or not other.settled):
            return f"{one[:80]!r} on a connection for {known[0]}: {other.reason}"
    return ""
