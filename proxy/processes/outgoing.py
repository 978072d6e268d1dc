"""What a worker has that connects to others: to servers, and to those whom servers' certificates name. Wiring only."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable

from mitmproxy.addons import upstream_auth
from mitmproxy.exceptions import OptionsError
from mitmproxy.proxy import mode_specs
from prometheus_client import CollectorRegistry

from addons.edge.connecting.connecting import Connecting
from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.errands import Errands, Parent
from addons.edge.connecting.resolver import Resolver
from addons.edge.connecting.this_machine import is_local, listeners
from addons.edge.refusal import Refusals
from addons.revocation.check import Check
from addons.revocation.lists import Lists
from addons.revocation.servers import Questions, Servers
from addons.revocation.status import Status
from addons.upstream.issuers import Issuers
from hsm.errors import MisconfiguredError
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig


class Outgoing:
    """The addons, and what they share."""

    def __init__(
        self, config: WorkerConfig, ours: Iterable[Address | None], refusals: Refusals, registry: CollectorRegistry
    ) -> None:
        """`ours` is where clients come in. Raises MisconfiguredError."""
        section, limits = config.proxy, config.limits
        places = listeners((one.host, one.port) for one in (*ours, config.status_listen) if one)
        try:
            destinations = Destinations(section.deny_destinations, section.allow_destinations, tuple(places), is_local)
        except OSError as error:
            raise MisconfiguredError(f"an address to listen on has no address: {error}") from error
        self.resolver = Resolver(per_client=limits.lookups_per_client, lookup_s=limits.lookup_s)
        errands = Errands(self.resolver, destinations, _parent(config))
        questions = Questions(registry)
        responders, clock = Servers(errands, questions.of("status")), functools.partial(dt.datetime.now, dt.UTC)
        status = Status(Check(responders, Lists(responders, clock), clock), clock)
        connecting = Connecting(self.resolver, destinations, refusals)
        # Anybody's certificate says where its issuer is: that must not be in the way of what CAs say.
        self.addons: list[object] = [connecting, status, Issuers(Servers(errands, questions.of("issuer")))]


def _parent(config: WorkerConfig) -> Parent | None:
    """The next proxy, as mitmproxy has it in mode and option."""
    if not config.proxy.mode.startswith("upstream"):
        return None
    try:
        mode = mode_specs.ProxyMode.parse(config.proxy.mode)
        told = config.mitmproxy.options.get("upstream_auth")
        authorization = upstream_auth.parse_upstream_auth(told).decode() if told else ""
    except (ValueError, OptionsError):
        return None  # whoever starts the mode says what is wrong with it
    assert isinstance(mode, mode_specs.UpstreamMode)
    return Parent(*mode.address, authorization, tls=mode.scheme != "http")
