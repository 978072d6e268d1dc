"""What the edge puts into mitmproxy is taken out again after each test: other tests have mitmproxy as it is."""

from __future__ import annotations

import pytest
from mitmproxy import ctx
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.layers import http, modes, websocket
from mitmproxy.proxy.layers.http import _upstream_proxy
from wsproto import extensions

from addons.edge.connecting.stream import EdgeStream
from addons.edge.websocket import Connection, Deflate, Websocket

_PLACES: tuple[tuple[object, str], ...] = (
    (mode_servers, "ProxyConnectionHandler"),
    (modes, "Socks5Proxy"),
    (modes, "TransparentProxy"),
    (_upstream_proxy, "HttpUpstreamProxy"),
    *((http, name) for name in ("tcp", "HttpStream", "Http1Server", "Http1Client", "Http2Server", "Http2Client")),
    (extensions, "PerMessageDeflate"),
    (websocket, "WebsocketConnection"),
    (websocket, "WebsocketLayer"),
    (Deflate, "most"),
    (Connection, "most"),
    (Websocket, "watched"),
    (EdgeStream, "streamed"),
)


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that the seam changes has its old value after the test."""
    monkeypatch.delattr(ctx, "master", raising=False)  # of an earlier test's
    for place, name in _PLACES:
        monkeypatch.setattr(place, name, getattr(place, name))
