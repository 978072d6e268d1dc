"""What is said of a connection that fails."""

from __future__ import annotations

import logging
from typing import cast

import pytest
from mitmproxy import tls
from mitmproxy.proxy import context
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import taddons, tflow
from OpenSSL import SSL

from addons.records.connection_log import ConnectionLog


def test_failures_leave_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    """A client that does not trust the CA, a server that does not verify or cannot be reached: one line with who, where
    and why."""
    client, server = tflow.tclient_conn(), tflow.tserver_conn()
    client.sni, client.error = "shop.example.com", "The client does not trust the proxy's certificate"
    server.sni, server.error = "shop.example.com", "Connection refused"
    log = ConnectionLog()
    with taddons.context() as tctx, caplog.at_level(logging.WARNING, "hsmitm"):
        met = context.Context(client, tctx.options)
        met.server = server
        log.tls_failed_client(tls.TlsData(client, met, cast(SSL.Connection, object())))
        log.tls_failed_server(tls.TlsData(server, met))
        log.server_connect_error(ServerConnectionHookData(server, client))
    where = "address:22"
    assert caplog.messages == [
        "client 127.0.0.1:22 for shop.example.com: The client does not trust the proxy's certificate",
        f"server shop.example.com ({where}): TLS handshake failed: Connection refused",
        f"cannot connect to {where}: Connection refused",
    ]


def test_a_client_that_gives_up_early_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It was shown no certificate: there is nothing that an operator could mend."""
    client = tflow.tclient_conn()
    client.error = "connection closed"
    with taddons.context() as tctx, caplog.at_level(logging.INFO, "hsmitm"):
        ConnectionLog().tls_failed_client(tls.TlsData(client, context.Context(client, tctx.options)))
    assert [record.levelname for record in caplog.records] == ["INFO"]
