"""A parent proxy's answer to our CONNECT: in time, within the bounds of a head, interim answers read over, nothing
guessed."""

from __future__ import annotations

from typing import ClassVar

from mitmproxy import connection, http
from mitmproxy.proxy import commands, events, layer, tunnel
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _upstream_proxy
from mitmproxy.utils import human

from addons.edge.answers import Sentence
from addons.edge.http1 import heads
from addons.edge.http1.faults import FaultError
from addons.edge.http1.sections import Section
from addons.edge.refusal import Class, EdgeRefusal, EdgeRefusedHook
from addons.edge.settings import Bounds


class UntilAnswered(commands.RequestWakeup):
    """Wake me up when the answer should be here."""


class ParentProxy(_upstream_proxy.HttpUpstreamProxy):
    """Stands in for mitmproxy's, which keeps an answer of any length."""

    bounds: ClassVar[Bounds] = Bounds()
    answer_s: ClassVar[float] = 10.0
    """The worker's; `seam` sets them."""

    def __init__(self, ctx: Context, tunnel_conn: connection.Server, send_connect: bool) -> None:
        super().__init__(ctx, tunnel_conn, send_connect)
        self._section: Section | None = None
        self._timer: UntilAnswered | None = None

    def start_handshake(self) -> layer.CommandGenerator[None]:
        """Ask, and wait for so long."""
        if self.send_connect:
            self._timer = UntilAnswered(self.answer_s)
            yield self._timer
        yield from super().start_handshake()

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if not isinstance(event, events.Wakeup) or event.command is not self._timer:
            yield from super()._handle_event(event)
        elif self.tunnel_state is tunnel.TunnelState.ESTABLISHING:
            proxy = human.format_address(self.tunnel_connection.address)
            why = Sentence(
                "too-slow", f"Upstream proxy {proxy} has not answered HTTP CONNECT request within {self.answer_s:g} s"
            )
            self.conn.state = connection.ConnectionState.CLOSED
            yield from self.on_handshake_error(why)
            yield from self._handshake_finished(why)

    def receive_handshake_data(self, data: bytes) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """Whether the tunnel stands, and why it does not."""
        if not self.send_connect:
            return (yield from super().receive_handshake_data(data))
        proxy = human.format_address(self.tunnel_connection.address)
        at = 0
        try:
            while at < len(data):
                at, response = self._read_head(data, at)
                if response is None or response.status_code <= 199:
                    continue
                if not 200 <= response.status_code <= 299:
                    refusal = f"{response.status_code} {response.reason}"
                    return False, f"Upstream proxy {proxy} refused HTTP CONNECT request: {refusal}"
                if at < len(data):
                    yield from self.receive_data(data[at:])
                return True, None
        except FaultError as fault:
            kind: Class = "oversized-head" if fault.which == "oversized-head" else "malformed-response"
            yield EdgeRefusedHook(EdgeRefusal(self.context.client, kind, f"{proxy}: {fault}"))
            return False, f"Error connecting to {proxy}: {fault}"
        return False, None

    def _read_head(self, data: bytes, at: int) -> tuple[int, http.Response | None]:
        if self._section is None:
            self._section = Section(self.bounds.head_bytes, self.bounds.fields, self.bounds.field_bytes)
        at = self._section.take(data, at)
        lines = self._section.lines
        if lines is None:
            return at, None
        self._section = None
        return at, heads.read_response(lines).response
