"""mitmproxy's HTTP layer, but for how it takes the end of an HTTP/1 client that still waits for its answer."""

from __future__ import annotations

from mitmproxy import connection
from mitmproxy.proxy import events, layer, layers
from mitmproxy.proxy.layers.http._http1 import Http1Server


class PatientHttp(layers.HttpLayer):
    """Stands where HttpLayer would, at our own sites alone."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from super()._handle_event(event)
        if isinstance(event, events.Start):
            made = self.connections[self.context.client]
            if type(made) is Http1Server:  # there is no place to say which class is to be made
                made.__class__ = _PatientHttp1Server


class _PatientHttp1Server(Http1Server):
    """A client that ends its direction after its request still gets the answer (RFC 9112 section 9.6).

    So the request of a client that is gone goes on until the server answers, or until mitmproxy's idle timeout.
    """

    _ended: events.ConnectionClosed | None = None

    def wait(self, event: events.Event) -> layer.CommandGenerator[None]:
        """Keep a half-closed client's end until its answer is out; anything else is its end now."""
        if isinstance(event, events.ConnectionClosed) and event.connection.state & connection.ConnectionState.CAN_WRITE:
            self._ended = event
        else:
            yield from super().wait(event)

    def mark_done(self, *, request: bool = False, response: bool = False) -> layer.CommandGenerator[None]:
        """The answer is out: now the end counts."""
        yield from super().mark_done(request=request, response=response)
        if self._ended is not None and self.state != self.wait:
            event, self._ended = self._ended, None
            yield from self.state(event)
