"""mitmproxy's own layer tests, run with our classes in place of its: a pytest plugin for a checkout of mitmproxy.

    git clone --branch v12.2.3 --depth 1 https://github.com/mitmproxy/mitmproxy && cd mitmproxy
    PYTHONPATH=HSMITM HSMITM/.venv/bin/python -m pytest -c /dev/null --rootdir . -o asyncio_mode=auto \\
        -p tests.addons.edge.stock_layers test/mitmproxy/proxy

HSMITM is a checkout of hsmitm. All pass but those of DIFFER, which must fail: who mends one takes it out of the list.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from mitmproxy.http import Response
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.layers import http, tls
from mitmproxy.proxy.layers.http import _http2, _upstream_proxy
from mitmproxy.proxy.layers.http._base import format_error
from mitmproxy.proxy.layers.http._events import ResponseProtocolError

from addons import seam
from addons.edge import answers
from addons.edge import websocket as edge_websocket
from addons.edge.http1 import heads as http1_heads
from addons.edge.http1.parent import UntilAnswered
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds
from tests.addons.edge.stock_http2 import StockHttp2Client, StockHttp2Server

_OWN_WORDS = "refused before mitmproxy's check, with a sentence of ours that names no option of mitmproxy"
_ONE_STREAM = "a message that is malformed ends its stream, not its connection (RFC 9113 section 8.1.1)"
_LINGERS = "a client that is still sending has a moment to read its answer before it is closed (RFC 9112 section 9.6)"
_FRAMED = "a request of HTTP/2 or 3 whose length is not known goes on in chunks: unframed it is the next request"

_HALVES = "each direction of a tunnel ends by itself: theirs closes both"

DIFFER: dict[str, str] = {
    **{
        f"test_http.py::test_request_streaming[{how}-{coding}-{why}]": _LINGERS
        for how in ("early close", "early kill")
        for coding in ("identity", "chunked")
        for why in ("body_size=0", "body_size=3", "addon")
    },
    "test_http.py::test_body_size_limit[chunked-request]": _LINGERS,
    "test_http.py::test_http_proxy_tcp": _HALVES,
    "test_http.py::test_request_smuggling": _OWN_WORDS,
    "test_http.py::test_request_smuggling_whitespace": _OWN_WORDS,
    "test_http.py::test_request_smuggling_te_te": _OWN_WORDS,
    "test_http.py::test_request_smuggling_response": _OWN_WORDS,
    "test_http.py::test_invalid_content_length": _OWN_WORDS,
    "test_http.py::test_request_smuggling_validation_disabled": "no option lets requests with two lengths through",
    "test_http2.py::test_http2_client_aborts[RST-request-stream]": _FRAMED,
    "test_http2.py::test_http2_client_aborts[disconnect-request-stream]": _FRAMED,
    "test_http2.py::test_http2_client_aborts[RST+disconnect-request-stream]": _FRAMED,
    "test_http2.py::test_upstream_error": "frames of hyper-h2: one DATA frame and the end of the stream in it",
    "test_http2.py::test_long_response": "windows are 256 KiB and given back when the other side has taken the bytes",
    "test_http2.py::test_no_normalization[False]": "nghttp2 sends names in lower case (RFC 9113 section 8.2.1)",
    "test_http2.py::test_rst_then_close": "DATA behind the end of a stream is a connection error: RFC 9113 section 5.4 "
    "leaves it to the receiver",
    "test_http2.py::TestClient::test_no_data_on_closed_stream": "what comes for a stream that we have reset is ignored "
    "(RFC 9113 section 5.1)",
    "test_http2.py::TestClient::test_informational_response[103-103 Early Hints]": "interim answers go on to the "
    "client (RFC 9110 section 15.2)",
    "test_http2.py::TestClient::test_informational_response[1not_a_number-<unknown status> ]": "a status that is no "
    "number makes a response malformed",
    "test_http2.py::test_request_smuggling_cl": _ONE_STREAM,
    "test_http2.py::test_request_smuggling_te": _ONE_STREAM,
    "test_http3.py::test_http3_client_aborts[RST-request-stream]": _FRAMED,
    "test_http3.py::test_http3_client_aborts[disconnect-request-stream]": _FRAMED,
    "test_http3.py::test_http3_client_aborts[RST+disconnect-request-stream]": _FRAMED,
    "test_http_version_interop.py::test_h1_to_h2": "an answer of HTTP/2 without a length is in chunks, so that its end "
    "is seen and the connection goes on",
    "test_modes.py::test_transparent_eager_connect_failure": "a redirected client without a server is heard, and "
    "told why in its page",
    "test_mode_servers.py::test_wireguard": "needs a program that mitmproxy builds; it fails without us, too",
}
"""The tests that fail, by the end of their names up to parameters, with the reason."""


def _in_their_words(_client: object, _came: object, event: ResponseProtocolError) -> Response | None:
    status = event.code.http_status_code()
    html = {"Content-Type": "text/html"}
    return None if status is None else Response.make(status, format_error(status, event.message), html)


def pytest_configure() -> None:
    """Put our classes in, before their tests import them by name."""
    handler = mode_servers.ProxyConnectionHandler
    seam.put_in(Bounds())
    mode_servers.ProxyConnectionHandler = handler  # type: ignore[misc]  # ours needs a worker's master around it
    http.tls = _upstream_proxy.tls = tls  # type: ignore[attr-defined]  # their tests put a layer of their own in its place
    answers.of_error = _in_their_words  # their tests read what a server said, and no client of ours does
    edge_websocket.looked_at = lambda *_: True  # type: ignore[assignment]  # their playbooks look, and no addon of theirs
    for place in (http, _http2):
        place.Http2Server, place.Http2Client = StockHttp2Server, StockHttp2Client  # type: ignore[attr-defined]
    from test.mitmproxy.proxy import tutils  # noqa: PLC0415  # of their checkout

    merge = tutils._merge_sends

    def without_refusals(commands: Iterable[object], **arguments: bool) -> object:
        """Their playbooks know no hook of ours, and no time for a parent proxy's answer."""
        return merge([one for one in commands if not isinstance(one, EdgeRefusedHook | UntilAnswered)], **arguments)

    tutils._merge_sends = without_refusals
    # Most of their requests of HTTP/1.1 have no Host, which RFC 9112 section 3.2 wants refused.
    check = http1_heads._check_host
    http1_heads._check_host = lambda method, minor, hosts: check(method, minor, hosts or [b"example.com"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What differs must differ."""
    for item in items:
        name = item.nodeid.rpartition("/")[2]
        reason = DIFFER.get(name) or DIFFER.get(name.partition("[")[0])
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
