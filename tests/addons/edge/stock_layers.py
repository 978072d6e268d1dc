"""mitmproxy's own layer tests, run with our classes in place of its: a pytest plugin for a checkout of mitmproxy.

    git clone --branch v12.2.3 --depth 1 https://github.com/mitmproxy/mitmproxy && cd mitmproxy
    PYTHONPATH=HSMITM HSMITM/.venv/bin/python -m pytest -c /dev/null --rootdir . -o asyncio_mode=auto \\
        -p tests.addons.edge.stock_layers test/mitmproxy/proxy

HSMITM is a checkout of hsmitm. All pass but those of DIFFER, which must fail: who mends one takes it out of the list.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from mitmproxy.proxy import mode_servers

from addons.edge import http1_heads, seam
from addons.edge.refusal import EdgeRefusedHook
from addons.edge.settings import Bounds

_OWN_WORDS = "refused before mitmproxy's check, with a sentence of ours that names no option of mitmproxy"
_FRAMED = "a request of HTTP/2 or 3 whose length is not known goes on in chunks: unframed it is the next request"

DIFFER: dict[str, str] = {
    "test_http.py::test_request_smuggling": _OWN_WORDS,
    "test_http.py::test_request_smuggling_whitespace": _OWN_WORDS,
    "test_http.py::test_request_smuggling_te_te": _OWN_WORDS,
    "test_http.py::test_request_smuggling_response": _OWN_WORDS,
    "test_http.py::test_invalid_content_length": _OWN_WORDS,
    "test_http.py::test_request_smuggling_validation_disabled": "no option lets requests with two lengths through",
    "test_http2.py::test_http2_client_aborts[RST-request-stream]": _FRAMED,
    "test_http2.py::test_http2_client_aborts[disconnect-request-stream]": _FRAMED,
    "test_http2.py::test_http2_client_aborts[RST+disconnect-request-stream]": _FRAMED,
    "test_http3.py::test_http3_client_aborts[RST-request-stream]": _FRAMED,
    "test_http3.py::test_http3_client_aborts[disconnect-request-stream]": _FRAMED,
    "test_http3.py::test_http3_client_aborts[RST+disconnect-request-stream]": _FRAMED,
    "test_http_version_interop.py::test_h1_to_h2": "an answer of HTTP/2 without a length is in chunks, so that its end "
    "is seen and the connection goes on",
    "test_mode_servers.py::test_wireguard": "needs a program that mitmproxy builds; it fails without us, too",
}
"""The tests that fail, by the end of their names up to parameters, with the reason."""


def pytest_configure() -> None:
    """Put our classes in, before their tests import them by name."""
    handler = mode_servers.ProxyConnectionHandler
    seam.put_in(Bounds())
    mode_servers.ProxyConnectionHandler = handler  # type: ignore[misc]  # ours needs a worker's master around it
    from test.mitmproxy.proxy import tutils  # noqa: PLC0415  # of their checkout

    merge = tutils._merge_sends

    def without_refusals(commands: Iterable[object], **arguments: bool) -> object:
        """Their playbooks know no hook of ours."""
        return merge([one for one in commands if not isinstance(one, EdgeRefusedHook)], **arguments)

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
