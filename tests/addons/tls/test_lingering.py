"""A client that goes on sending is told why its connection ends, in two steps, in memory."""

from __future__ import annotations

import pytest
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events

from tests.addons.edge.listeners.test_alerts import HELLOS, _Proxy


def _steps(proxy: _Proxy) -> list[str]:
    """What was done about the client's connection."""
    client = proxy.context.client
    found = []
    for one in proxy.of(commands.CloseConnection):
        if one.connection is client:
            half = isinstance(one, commands.CloseTcpConnection) and one.half_close
            found.append("half" if half else "whole")
    return found


@pytest.fixture
async def proxy() -> _Proxy:
    """One that has refused a client."""
    made = _Proxy()
    made.hear(HELLOS["no cipher suite of ours"][0])
    assert made.say()[:1] == b"\x15"
    assert _steps(made) == ["half"]
    made.context.client.state = ConnectionState.CAN_READ
    return made


async def test_what_comes_behind_an_alert_is_dropped(proxy: _Proxy) -> None:
    """And answered by nothing, until the client leaves."""
    proxy.hear(b"\x17\3\3\0\5hello" * 100)
    assert proxy.say() == b""
    assert _steps(proxy) == ["half"]
    proxy.tell(events.ConnectionClosed(proxy.context.client))
    assert _steps(proxy) == ["half", "whole"]


async def test_who_sends_without_end_is_left(proxy: _Proxy) -> None:
    """After a mebibyte."""
    for _ in range(17):
        proxy.hear(bytes(65536))
    assert _steps(proxy)[:2] == ["half", "whole"]


async def test_who_does_not_leave_is_left(proxy: _Proxy) -> None:
    """After a moment."""
    (timer,) = [one for one in proxy.of(commands.RequestWakeup) if one.delay == 1.0]
    proxy.tell(events.Wakeup(timer))
    assert _steps(proxy) == ["half", "whole"]


async def test_who_has_left_is_not_waited_for() -> None:
    """A client that ends in the middle of its hello costs no second."""
    made = _Proxy()
    made.hear(HELLOS["no cipher suite of ours"][0][:20])
    made.context.client.state = ConnectionState.CAN_WRITE
    made.tell(events.ConnectionClosed(made.context.client))
    assert _steps(made) == ["whole"]
    assert not [one for one in made.of(commands.RequestWakeup) if one.delay == 1.0]
