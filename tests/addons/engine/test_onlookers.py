"""Who looks at what passes."""

from __future__ import annotations

import pytest
from mitmproxy import ctx
from mitmproxy.test import taddons

from addons.engine.onlookers import looked_at
from addons.records.metrics import Metrics


class Script:
    """A user's."""

    def websocket_message(self, _flow: object) -> None:
        """It looks."""


def test_scripts_look_and_we_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own addons count, and keep nothing; where there is no worker somebody may look."""
    with taddons.context(Metrics()) as tctx:
        assert not looked_at("websocket_message", "tcp_start")
        tctx.master.addons.add(Script())
        assert looked_at("websocket_message")
        assert not looked_at("tcp_message")
    monkeypatch.delattr(ctx, "master", raising=False)
    assert looked_at("anything")
