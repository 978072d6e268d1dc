"""Whether a request belongs to the site that its connection was made for. No I/O.

A client's TLS connection is for one site: the SNI chose it, and with it what is demanded of clients. A request in it
says again whom it is for, in up to three places (RFC 9110 section 7.2: the target's authority, `:authority`, Host), and
a server behind us that has several sites believes that. So each place has to name the connection's own site.
"""

from __future__ import annotations

from mitmproxy import http

from addons.edge.authority import claims, host
from addons.inbound.sites import Site, Sites


def stranger(request: http.Request, site: Site, sites: Sites) -> str | None:
    """What in `request` is not of `site`, the one of `sites` that the SNI chose; None where all is.

    A request that names nobody (HTTP/1.0) goes to whatever the server has first: that may be another site, where there
    is one.
    """
    found = claims(request)
    if not found:
        return None if len(sites.all) == 1 else "a request without a host"
    for one in found:
        try:
            meant = sites.find(host(one))
        except ValueError as error:
            return str(error)
        if meant is not site:
            return one
    return None
