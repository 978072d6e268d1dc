"""What layers ask of the policy: the decision on a connection, before they go on with it.

Where no worker runs, as in tests of single layers, there is no policy, and nothing is asked.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from mitmproxy import connection, ctx, http
from mitmproxy.net.http import url
from mitmproxy.proxy import commands, context, layer, layers
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HttpStream

from addons.policy import networks
from addons.records.connections import destined, facts_of, outermost
from addons.records.facts import Decision, Facts
from hsm import names

NAME = "policy"
"""Of the addon that answers."""
ACCESS_DENIED = 49
"""RFC 8446 section 6.2: access control has it that this goes no further."""
_EXPLICIT = (modes.HttpProxy, modes.HttpUpstreamProxy)


@dataclass
class Deciding:
    """Whose connection is to be decided upon, and the host and port that it would be connected to."""

    client: connection.Client
    address: connection.Address | None


@dataclass
class DecideHook(commands.StartHook):
    """The decision on a connection is needed: the addon notes it in the client's facts. Blocking."""

    data: Deciding
    name = "policy_decide"


def at_destination(made: context.Context) -> layer.CommandGenerator[Decision | None]:
    """Where the client wants to go is known and nothing else, as with SOCKS5 and redirected traffic. The answer may not
    be settled. None: there is no policy."""
    if not is_there():
        return None
    facts = facts_of(made.client)
    _note_destination(facts, made)
    yield DecideHook(Deciding(made.client, made.server.address))
    return facts.decision


def at_hello(made: context.Context) -> layer.CommandGenerator[Decision | None]:
    """The ClientHello has been read and noted: the answer is the last. None: there is no policy, or it is the TLS of
    the proxy itself, which is no destination."""
    if not is_there() or outermost(made):
        return None
    facts = facts_of(made.client)
    if not facts.decided:
        _note_destination(facts, made)
        yield DecideHook(Deciding(made.client, made.server.address))
    return facts.decision


def of_request(made: context.Context, request: http.Request, *, asked: bool) -> layer.CommandGenerator[Decision | None]:
    """A request that nobody has encrypted; `asked`: it says itself where to go, as those do that a proxy is asked for.

    Where it does not, it is judged by where it goes, and by the host that it names: a block of either holds.
    """
    if not is_there() or is_decrypted(made):
        return None
    facts, (host, port) = facts_of(made.client), _authority(request)
    address: connection.Address | None
    if asked:
        address = (request.host, request.port) if request.host else (host, port or 80)
        begin(made.client, *address)
    else:
        _note_destination(facts, made)
        address = made.server.address
        if facts.mode == "transparent":
            facts.host = host
    first = yield from _judged_as(made.client, facts, facts.host, address)
    if asked or host in ("", facts.host) or first is None or first.acts == "block":
        return first
    there = facts.host
    second = yield from _judged_as(made.client, facts, host, address)
    if second is not None and second.acts == "block":
        return second
    facts.host, facts.decision = there, first
    return first


def _judged_as(
    client: connection.Client, facts: Facts, host: str, address: connection.Address | None
) -> layer.CommandGenerator[Decision | None]:
    """A plain request, as one for `host`."""
    facts.host, facts.plain = host, True
    facts.decision, facts.decided = None, False
    yield DecideHook(Deciding(client, address))
    return facts.decision


def begin(client: connection.Client, host: str, port: int) -> None:
    """The client asks a proxy for something: what it has asked for before on this connection counts no more."""
    if (connecting := ctx.master.addons.get("connecting")) is not None:
        connecting.look_again(client)
    facts = facts_of(client)
    try:
        facts.host = names.to_ascii(host)
    except ValueError:
        facts.host = host
    facts.port = port
    facts.destination, facts.addresses = "", None
    facts.plain = facts.hello = False
    facts.sni, facts.sni_proved = "", None
    facts.decision = facts.policy = None
    facts.decided = False
    facts.at = dt.datetime.now(dt.UTC)


def is_decrypted(made: context.Context) -> bool:
    """Whether TLS of ours with a leaf for the destination is around this: not that of a proxy reached over TLS."""
    begins = 0
    for number, one in enumerate(made.layers):
        if isinstance(one, HttpStream) and (flow := getattr(one, "flow", None)) and flow.request.method == "CONNECT":
            begins = number + 1
    if not begins and isinstance(made.layers[0], _EXPLICIT):
        return False
    return any(isinstance(one, layers.ClientTLSLayer) for one in made.layers[begins:])


def is_there() -> bool:
    """Whether there is a policy to ask."""
    master = getattr(ctx, "master", None)
    return master is not None and master.addons.get(NAME) is not None


def _authority(request: http.Request) -> tuple[str, int | None]:
    """Whom a request names; nobody, where it names what is no host."""
    try:
        return url.parse_authority(request.authority or request.host_header or "", check=True)
    except ValueError:
        return "", None


def _note_destination(facts: Facts, made: context.Context) -> None:
    """Where it goes, as far as is known; where there is a connection already, it is where that goes."""
    server = made.server
    if server.address is None:
        return
    if facts.mode != "inbound":
        destined(facts, server.address)
    facts.port = facts.port or server.address[1]
    if facts.addresses is not None:
        return
    if server.peername is not None and facts.mode != "upstream":
        facts.addresses = (server.peername[0],)
    elif facts.mode in ("transparent", "inbound") and networks.number(server.address[0]) is not None:
        facts.addresses = (server.address[0],)
