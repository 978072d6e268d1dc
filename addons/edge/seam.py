"""The one place where classes of ours stand in for mitmproxy's.

mitmproxy names the classes that it makes in two of its modules and has no option for them: `mode_servers` the handler
of a connection, `layers.http` those of HTTP/1 and HTTP/2. Whoever reads mitmproxy's next version has this list to go
through, and nothing else; until that was done, a worker does not start with it.
"""

from __future__ import annotations

from mitmproxy import version
from mitmproxy.proxy.layers import http

from addons.edge import nghttp2
from addons.edge.http2_client import Http2Client
from addons.edge.http2_connection import Http2Connection
from addons.edge.http2_server import Http2Server
from addons.edge.settings import Bounds
from hsm.errors import MisconfiguredError

TESTED = ("12.2.3",)
"""The versions of mitmproxy with which our classes were tested, and its own layer tests with them."""


def put_in(bounds: Bounds) -> None:
    """Have mitmproxy make our classes, with these bounds. Raises MisconfiguredError for an untested mitmproxy."""
    if version.VERSION not in TESTED:
        raise MisconfiguredError(
            f"mitmproxy {version.VERSION} is installed, and hsmitm was tested with {', '.join(TESTED)} alone: "
            f"its edge stands in for parts of it. Install that version: pip install mitmproxy=={TESTED[-1]}"
        )
    _put_in_http2(bounds)


def _put_in_http2(bounds: Bounds) -> None:
    nghttp2.load()
    Http2Connection.bounds = bounds
    http.Http2Server = Http2Server  # type: ignore[assignment,attr-defined]  # mitmproxy's own name for it
    http.Http2Client = Http2Client  # type: ignore[assignment,attr-defined]  # mitmproxy's own name for it
