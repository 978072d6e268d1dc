"""What layers ask of the policy: the decision on a connection, before they go on with it.

Where no worker runs, as in tests of single layers, there is no policy, and nothing is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy import connection, ctx
from mitmproxy.proxy import commands, context, layer
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.tls import ClientHello

from addons.records.connections import facts_of
from addons.records.facts import Decision, Facts

NAME = "policy"
"""Of the addon that answers."""
ACCESS_DENIED = 49
"""RFC 8446 section 6.2: the proposal was understood, and access control has it that it goes no further."""


@dataclass
class DecideHook(commands.StartHook):
    """The decision on a connection is needed: the addon notes it in the client's facts. Blocking."""

    client: connection.Client
    name = "policy_decide"


def at_destination(made: context.Context) -> layer.CommandGenerator[Decision | None]:
    """Where the client wants to go is known and nothing else, as with SOCKS5 and redirected traffic. The answer may not
    be settled. None: there is no policy."""
    if not _is_there():
        return None
    _note_destination(facts_of(made.client), made)
    yield DecideHook(made.client)
    return facts_of(made.client).decision


def at_hello(made: context.Context, hello: ClientHello) -> layer.CommandGenerator[Decision | None]:
    """The ClientHello has been read: the answer is the last. None: there is no policy, or it is the TLS of the proxy
    itself, which is no destination."""
    if not _is_there() or is_outermost(made):
        return None
    facts = facts_of(made.client)
    _note_destination(facts, made)
    note_hello(facts, hello)
    yield DecideHook(made.client)
    return facts.decision


def is_outermost(made: context.Context) -> bool:
    """Whether this TLS is that of the proxy itself, reached over TLS: there is no server whose leaf it could be."""
    explicit = bool(made.layers) and isinstance(made.layers[0], modes.HttpProxy | modes.HttpUpstreamProxy)
    return explicit and not any(isinstance(one, HttpStream) for one in made.layers)


def note_hello(facts: Facts, hello: ClientHello) -> None:
    """What the policy goes by of a ClientHello."""
    facts.hello = True
    facts.sni = (hello.sni or "").lower()
    facts.alpn = tuple(one.decode("ascii", "replace") for one in hello.alpn_protocols)


def _note_destination(facts: Facts, made: context.Context) -> None:
    address = made.server.address
    if address is not None and not facts.port:
        facts.port = address[1]
        if facts.mode in ("transparent", "inbound"):
            facts.destination, facts.addresses = address[0], (address[0],)
        else:
            facts.host = address[0]


def _is_there() -> bool:
    master = getattr(ctx, "master", None)
    return master is not None and master.addons.get(NAME) is not None
