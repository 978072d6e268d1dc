"""Whether a request belongs to the site that its connection was made for. No I/O.

A client's TLS connection is for one site: the SNI chose it, and with it what is demanded of clients. A request in it
says again whom it is for, in up to three places (RFC 9110 section 7.2: the target's authority, `:authority`, Host), and
a server behind us that has several sites believes that. So each place has to name the connection's own site.
"""

from __future__ import annotations

import re

from mitmproxy import http

from addons.inbound.sites import Site, Sites
from hsm import names

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)]|([^\[\]:@/?#\s*]+))(?::[0-9]{0,5})?")


def host(authority: str) -> str:
    """The host of `authority` (host [":" port], RFC 3986 section 3.2) as sites' names are written. Raises ValueError,
    also for user information, which has no place here (RFC 9110 section 4.2.4)."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError(f"{authority[:80]!r} is no host")
    return names.check(found[1] or found[2])


def stranger(request: http.Request, site: Site, sites: Sites) -> str | None:
    """What in `request` is not of `site`, the one of `sites` that the SNI chose; None where all is.

    A request that names nobody (HTTP/1.0) goes to whatever the server has first: that may be another site, where there
    is one.
    """
    claims = [request.authority] if request.authority else []
    claims += request.headers.get_all("Host")
    if not claims:
        return None if len(sites.all) == 1 else "a request without a host"
    for one in claims:
        try:
            meant = sites.find(host(one))
        except ValueError as error:
            return str(error)
        if meant is not site:
            return one
    return None
