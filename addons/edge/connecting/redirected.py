"""Redirected traffic: what is blocked by its destination, for all that is known yet, is not connected to.

Nothing was said yet, so there is nothing to answer: the client is heard, and then gets its alert, or its page.
"""

from __future__ import annotations

from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers import modes

from addons.policy import asked


class Redirected(modes.TransparentProxy):
    """Stands in for TransparentProxy."""

    def finish_start(self) -> layer.CommandGenerator[str | None]:
        """As TransparentProxy, for who may go there."""
        decision = yield from asked.at_destination(self.context)
        if decision is None or decision.acts != "block":
            return (yield from super().finish_start())
        self._handle_event = self.child_layer.handle_event
        yield from self.child_layer.handle_event(events.Start())
        return None
