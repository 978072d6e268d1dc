"""HTTP with a client of one of our sites: a request for another site is answered 421, and goes no further.

RFC 9110 section 15.5.20: the client then asks again on a connection of its own. Browsers need that: with one
certificate for two sites they reuse a connection of the first for the second (RFC 9113 section 9.1.1).
"""

from __future__ import annotations

from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import DropStream, HTTPMode, SendHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders, ResponseData, ResponseEndOfMessage, ResponseHeaders

from addons.edge.connecting.stream import EdgeStream
from addons.edge.exchanges import Exchanges
from addons.edge.refusal import EdgeRefusal, EdgeRefusedHook
from addons.inbound.authority import stranger
from addons.inbound.sites import Site, Sites
from addons.pages import pages
from addons.records.connections import facts_of


class SiteHttp(Exchanges):
    """Stands where HttpLayer would, behind the TLS of `site`, one of `sites`."""

    def __init__(self, context: Context, site: Site, sites: Sites) -> None:
        super().__init__(context, HTTPMode.transparent)
        self._site = site
        self._sites = sites

    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        """As HttpLayer, which has no place to say which class is to be made."""
        stream = self.streams[stream_id] = _SiteStream(self.context.fork(), stream_id, self._site, self._sites)
        yield from self.event_to_child(stream, events.Start())


class _SiteStream(EdgeStream):
    """One request and its answer."""

    def __init__(self, context: Context, stream_id: int, site: Site, sites: Sites) -> None:
        super().__init__(context, stream_id)
        self._site = site
        self._sites = sites

    def state_wait_for_request_headers(self, event: RequestHeaders) -> layer.CommandGenerator[None]:
        """Look whom the request is for before anybody else sees it, scripts among them: it may carry what is meant for
        another site's server."""
        wrong = stranger(event.request, self._site, self._sites)
        if wrong is None:
            yield from super().state_wait_for_request_headers(event)
            return
        self.client_state = self.server_state = self.state_errored
        client, about = self.context.client, self._site.title
        yield EdgeRefusedHook(EdgeRefusal(client, "host-mismatch", f"{wrong!r} on a connection for {about}"))
        page = pages.current().page(facts_of(client), kind="host-mismatch", request=event.request, host=about)
        text = page.raw_content or b""
        yield SendHttp(ResponseHeaders(self.stream_id, page, end_stream=not text), client)
        if text:
            yield SendHttp(ResponseData(self.stream_id, text), client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), client)
        yield DropStream(self.stream_id)  # what else comes of the request goes nowhere
