"""A worker that stops, and how connections hear of it: those of HTTP/2 say so at once (RFC 9113 section 6.8), those of
HTTP/1 with their next answer (RFC 9112 section 9.6). What is in progress goes on.
"""

from __future__ import annotations

from mitmproxy.proxy import commands


class Leaving:
    """Whether the worker takes its leave."""

    begun = False
    """No further connection is taken, and those that there are take their leave."""


class WhenLeaving(commands.RequestWakeup):
    """Wake me up when the worker stops. `backpressure.Turns` keeps it until then."""

    def __init__(self) -> None:
        super().__init__(0)
