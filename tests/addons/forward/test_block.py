"""Who may use the forward proxy, and who may visit our own sites."""

from __future__ import annotations

import pytest
from mitmproxy import connection
from mitmproxy.proxy import mode_specs
from mitmproxy.test import taddons

from addons.forward.block import Block
from addons.modes import InboundMode, InboundTransparentMode, Modes

PUBLIC, PRIVATE = "8.8.8.8", "10.0.0.7"


def _refused(mode: mode_specs.ProxyMode, address: str) -> bool:
    block = Block()
    with taddons.context(block):
        client = connection.Client(peername=(address, 4711), sockname=("10.0.0.1", 443), proxy_mode=mode)
        block.client_connected(client)
    return bool(client.error)


@pytest.mark.parametrize(("address", "refused"), [(PUBLIC, True), (PRIVATE, False)])
def test_the_forward_proxy_is_no_open_proxy(address: str, refused: bool) -> None:
    """A client from a public address is refused, unless the operator opens the proxy by mitmproxy's option."""
    assert _refused(mode_specs.ProxyMode.parse("regular"), address) is refused


@pytest.mark.parametrize("mode", ["inbound:0@127.0.0.1:443", "inboundtransparent:0@127.0.0.1:443"])
@pytest.mark.parametrize("address", [PUBLIC, PRIVATE])
def test_our_own_sites_are_there_for_the_public(mode: str, address: str) -> None:
    """Clients of our own sites come from everywhere."""
    parsed = mode_specs.ProxyMode.parse(mode)
    assert isinstance(parsed, Modes)
    assert type(parsed) in {InboundMode, InboundTransparentMode}
    assert not _refused(parsed, address)
