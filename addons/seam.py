"""The one place where classes of ours stand in for mitmproxy's.

mitmproxy names the classes that it makes in three of its modules and has no option for them: `mode_servers` the handler
of a connection, `layers.http` those of HTTP/1 and HTTP/2, `layers.websocket` what its name says. Whoever reads
mitmproxy's next version has this list to go through, and nothing else; until that was done, a worker does not start
with it.
"""

from __future__ import annotations

from types import SimpleNamespace

from mitmproxy import connection, version
from mitmproxy.proxy import context, layer, mode_servers
from mitmproxy.proxy.layers import http, modes, tls, websocket
from mitmproxy.proxy.layers.http import _upstream_proxy
from wsproto import extensions

from addons.edge.connecting.redirected import Redirected
from addons.edge.connecting.socks import Socks5
from addons.edge.connecting.stream import EdgeStream
from addons.edge.http1.client import Http1Client
from addons.edge.http1.connection import Http1Connection
from addons.edge.http1.parent import ParentProxy
from addons.edge.http1.server import Http1Server
from addons.edge.http2 import nghttp2
from addons.edge.http2.client import Http2Client
from addons.edge.http2.connection import Http2Connection
from addons.edge.http2.server import Http2Server
from addons.edge.listeners.handler import EdgeHandler
from addons.edge.listeners.next_layer import upgraded
from addons.edge.settings import Bounds
from addons.edge.streaming import NOTHING, Streamed
from addons.edge.websocket import Connection, Deflate, Websocket
from addons.engine import shortcuts
from addons.upstream.layer import ServerTls
from hsm.errors import MisconfiguredError

TESTED = ("12.2.3",)
"""The versions of mitmproxy with which our classes were tested, and its own layer tests with them."""


def put_in(bounds: Bounds, *, watched: bool = True, streamed: Streamed = NOTHING, connect_s: float = 10.0) -> None:
    """Have mitmproxy make our classes, with these bounds; `watched`: scripts, or options of the operator's, may look at
    messages, of which those go on as they come that are `streamed`. `connect_s` is what a parent proxy has for its
    answer. Raises MisconfiguredError for an untested mitmproxy."""
    if version.VERSION not in TESTED:
        raise MisconfiguredError(
            f"mitmproxy {version.VERSION} is installed, and hsmitm was tested with {', '.join(TESTED)} alone: "
            f"its edge stands in for parts of it. Install that version: pip install mitmproxy=={TESTED[-1]}"
        )
    mode_servers.ProxyConnectionHandler = EdgeHandler  # type: ignore[misc]
    http.tcp = SimpleNamespace(TCPLayer=upgraded)  # type: ignore[assignment, attr-defined]  # what follows a 101
    _put_in_shortcuts()
    _put_in_streams(streamed)
    _put_in_tls()
    _put_in_http1(bounds, connect_s)
    _put_in_http2(bounds)
    _put_in_websockets(bounds, watched=watched)


def _put_in_shortcuts() -> None:
    connection.Connection.__eq__ = shortcuts.same  # type: ignore[method-assign]
    context.Context.fork = shortcuts.fork  # type: ignore[method-assign, assignment]
    layer.Layer.handle_event = shortcuts.handle_event  # type: ignore[method-assign, assignment]


def _put_in_streams(streamed: Streamed) -> None:
    EdgeStream.streamed = streamed
    http.HttpStream = EdgeStream  # type: ignore[misc]
    modes.Socks5Proxy = Socks5  # type: ignore[misc]
    modes.TransparentProxy = Redirected  # type: ignore[misc]


def _put_in_tls() -> None:
    # For further servers, and for the next proxy. The name in `layers.tls` stays what scripts know.
    http.tls = SimpleNamespace(ServerTLSLayer=ServerTls)  # type: ignore[assignment, attr-defined]
    _upstream_proxy.tls = SimpleNamespace(  # type: ignore[assignment, attr-defined]
        ServerTLSLayer=ServerTls, HTTP1_ALPNS=tls.HTTP1_ALPNS
    )


def _put_in_http1(bounds: Bounds, connect_s: float) -> None:
    Http1Connection.bounds = ParentProxy.bounds = bounds
    ParentProxy.answer_s = connect_s
    http.Http1Server = Http1Server  # type: ignore[attr-defined,assignment]
    http.Http1Client = Http1Client  # type: ignore[attr-defined,assignment]
    _upstream_proxy.HttpUpstreamProxy = ParentProxy  # type: ignore[misc]


def _put_in_http2(bounds: Bounds) -> None:
    nghttp2.load()
    Http2Connection.bounds = bounds
    http.Http2Server = Http2Server  # type: ignore[attr-defined,assignment]
    http.Http2Client = Http2Client  # type: ignore[attr-defined,assignment]


def _put_in_websockets(bounds: Bounds, *, watched: bool) -> None:
    Deflate.most = Connection.most = bounds.websocket_message_bytes
    Websocket.watched = watched
    extensions.PerMessageDeflate = Deflate  # type: ignore[misc]  # mitmproxy looks it up there
    websocket.WebsocketConnection = Connection  # type: ignore[misc]
    websocket.WebsocketLayer = Websocket  # type: ignore[misc]
