"""What a worker has that connects to servers, and to those whom servers' certificates name."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from addons.edge.connecting.connecting import Connecting
from addons.edge.connecting.destinations import Destinations
from addons.edge.connecting.errands import Errands
from addons.edge.connecting.resolver import Resolver
from addons.edge.connecting.this_machine import is_local, listeners
from addons.edge.listeners.listeners import Listeners
from addons.edge.proving.probe import Probe
from addons.edge.proving.proof import Proof
from addons.edge.proving.trial import shake
from addons.edge.refusal import Refusals
from addons.policy.addon import PolicyAddon
from addons.revocation.check import Check
from addons.revocation.lists import Lists
from addons.revocation.servers import Servers
from addons.revocation.status import Status
from addons.upstream.issuers import Issuers
from hsm.errors import MisconfiguredError
from proxy.config.section import Address
from proxy.config.worker import WorkerConfig


def outward(
    config: WorkerConfig,
    ours: Iterable[Address | None],
    policy: PolicyAddon,
    clients: Listeners,
    refusals: Refusals,
    registry: CollectorRegistry,
) -> list[object]:
    """The addons. `ours` is where this hsmitm listens; `policy` is told how an SNI is proved, and what a probe finds
    of a server may end the connection of one of `clients`. Raises MisconfiguredError."""
    section, limits = config.proxy, config.limits
    places = listeners((one.host, one.port) for one in ours if one)
    try:
        destinations = Destinations(section.deny_destinations, section.allow_destinations, tuple(places), is_local)
    except OSError as error:
        raise MisconfiguredError(f"an address to listen on has no address: {error}") from error
    resolver = Resolver(per_client=limits.lookups_per_client, lookup_s=limits.lookup_s)
    probe = Probe(shake, clients.cut, section.connect_timeout_s, registry)
    policy.prove = Proof(resolver.addresses, probe).prove
    errands = Errands(resolver, destinations)
    responders, clock = Servers(errands.connect), functools.partial(dt.datetime.now, dt.UTC)
    status = Status(Check(responders, Lists(responders, clock), clock), clock)
    return [Connecting(resolver, destinations, refusals), status, probe, Issuers(Servers(errands.connect))]
