"""Our classes stand in for mitmproxy's in the versions that they were tested with, and in no other."""

from __future__ import annotations

import pytest
from mitmproxy import version
from mitmproxy.proxy import layers
from mitmproxy.proxy.layers import http, tls, websocket
from mitmproxy.proxy.layers.http import _upstream_proxy
from wsproto import extensions

from addons import seam
from addons.edge.settings import Bounds
from addons.edge.websocket import Connection, Deflate, Websocket
from addons.upstream.layer import ServerTls
from hsm.errors import MisconfiguredError


def test_the_installed_mitmproxy_is_one_that_was_tested() -> None:
    """What requirements.txt pins is what the edge was tested with."""
    seam.put_in(Bounds(), watched=True)


def test_mitmproxy_makes_what_was_put_in() -> None:
    """Nothing of ours counts unless mitmproxy makes it: it looks up each class where we put it."""
    seam.put_in(Bounds(websocket_message_bytes=4096), watched=False)
    assert (extensions.PerMessageDeflate, extensions.PerMessageDeflate.most) == (Deflate, 4096)
    assert (websocket.WebsocketConnection, websocket.WebsocketConnection.most) == (Connection, 4096)
    assert (websocket.WebsocketLayer, websocket.WebsocketLayer.watched) == (Websocket, False)
    assert http.tls.ServerTLSLayer is _upstream_proxy.tls.ServerTLSLayer is ServerTls  # type: ignore[attr-defined]
    assert layers.ServerTLSLayer is tls.ServerTLSLayer is not ServerTls  # what scripts know


def test_another_mitmproxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of mitmproxy alone stops a worker at its start, with what to do, instead of half working."""
    monkeypatch.setattr(version, "VERSION", "12.9.0")
    with pytest.raises(MisconfiguredError, match=r"12\.9\.0 is installed.* pip install mitmproxy==12\.2\.3"):
        seam.put_in(Bounds(), watched=True)
