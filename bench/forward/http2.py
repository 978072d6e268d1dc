"""The forward measurement over HTTP/2: one connection of h2load through each server, to nghttp2's own server.

squid and sslsplit have no part in it: the one speaks HTTP/1.1 to both sides, the other copies bytes.
"""

from __future__ import annotations

from msgspec import structs

from bench.rig.h2load import H2Job, H2Load
from bench.rig.nghttpd import BODY, HOST, SMALL, Nghttpd
from bench.rig.server import Phase
from bench.rig.tunnel import Route

IN_FLIGHT: dict[Phase, int] = {"h2-16": 16, "h2-80": 80, "h2-down": 1, "h2-up": 1}
"""Requests that wait at a time; a browser has 16 and more for a page, and 100 is what servers allow."""
_PER_S, _NULL_PER_S = 600, 60_000
"""Requests for each second of a turn: a number rather than a time, so that none is cut off half-way and its CPU is
nobody's. mitmdump needs about two seconds for one of these. The second is for the origin without a proxy."""


def load(origin: Nghttpd, route: Route, phase: Phase, *, seconds: float, body_bytes: int) -> H2Load:
    """What a server has in `phase`: through `route`, or at the origin itself where that has no CONNECT."""
    job = H2Job(
        route=structs.replace(route, port=origin.port),
        host=HOST,
        requests=max(10, int(seconds * (_PER_S if route.connect else _NULL_PER_S))),
        in_flight=IN_FLIGHT[phase],
        path=SMALL,
    )
    bodies = max(1, round(seconds))
    match phase:
        case "h2-down":
            job = structs.replace(job, requests=bodies, path=BODY, body_bytes=body_bytes)
        case "h2-up":
            job = structs.replace(job, requests=bodies, upload=origin.body, body_bytes=body_bytes)
    return H2Load(job)
