"""The host that a request names (RFC 9110 section 7.2: the target's authority, `:authority`, Host). No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mitmproxy import http

from hsm import names

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)]|([^\[\]:@/?#\s*]+))(?::[0-9]{0,5})?")


def host(authority: str) -> str:
    """The host of `authority` (host [":" port], RFC 3986 section 3.2) as sites' names are written. Raises ValueError,
    also for user information, which has no place here (RFC 9110 section 4.2.4)."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError(f"{authority[:80]!r} is no host")
    return names.check(found[1] or found[2])


def claims(request: http.Request) -> Sequence[str]:
    """All places in which a request says whom it is for."""
    named = request.headers.get_all("Host")
    return [request.authority, *named] if request.authority else named
