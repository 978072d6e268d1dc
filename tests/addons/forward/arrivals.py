"""Connections as mitmproxy hands them to addons."""

from __future__ import annotations

import time
from collections.abc import Awaitable

from mitmproxy import connection
from mitmproxy.proxy import context
from mitmproxy.test import taddons


async def settled(waiting: Awaitable[None] | None) -> None:
    """Wait for a hook that has to wait."""
    if waiting is not None:
        await waiting


def arrival(tctx: taddons.context) -> context.Context:
    """The context of a client that has connected and asks for www.example.com."""
    client = connection.Client(
        peername=("192.0.2.9", 1234),
        sockname=("192.0.2.1", 8080),
        timestamp_start=time.time(),
        state=connection.ConnectionState.OPEN,
    )
    made = context.Context(client, tctx.options)
    made.server.address = ("www.example.com", 443)
    made.server.peername = ("192.0.2.80", 443)
    return made
