"""What the edge puts into mitmproxy is taken out again after each test: other tests have mitmproxy as it is."""

from __future__ import annotations

import pytest
from mitmproxy.proxy.layers import websocket
from wsproto import extensions

from addons.edge.websocket import Connection, Deflate, Websocket

_PLACES: tuple[tuple[object, str], ...] = (
    (extensions, "PerMessageDeflate"),
    (websocket, "WebsocketConnection"),
    (websocket, "WebsocketLayer"),
    (Deflate, "most"),
    (Connection, "most"),
    (Websocket, "whole"),
)


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that the seam changes has its old value after the test."""
    for place, name in _PLACES:
        monkeypatch.setattr(place, name, getattr(place, name))
