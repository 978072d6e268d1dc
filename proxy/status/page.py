"""/metrics for Prometheus, /healthz and /readyz, from the signer's process, summed over all processes.

tornado, because mitmproxy brings it: an HTTP server of our own would be the third on this machine.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from hsm.errors import HsmitmError, MisconfiguredError
from hsm.signer.signer import Signer
from hsm.wire.telemetry import FamilyCollector
from proxy import listening
from proxy.config.section import Address

logging.getLogger("tornado.access").setLevel(logging.ERROR)  # a scrape is no event


class _Handler(RequestHandler):
    def initialize(self, signer: Signer) -> None:
        self.signer = signer
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/plain; charset=utf-8")


class _Metrics(_Handler):
    def get(self) -> None:
        registry = CollectorRegistry()
        registry.register(FamilyCollector(self.signer.totals().families()))
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(generate_latest(registry))


class _Healthz(_Handler):
    def get(self) -> None:
        self.write("ok\n")


class _Readyz(_Handler):
    def get(self) -> None:
        try:
            self.signer.check_ready()
        except HsmitmError as error:
            self.set_status(503)
            self.write(f"{error}\n")
            return
        if not self.signer.status().listeners:
            self.set_status(503)
            self.write("no worker listens yet\n")
            return
        if self.signer.full:
            self.set_status(503)
            self.write("every worker has as many connections as it may\n")
            return
        self.write("ready\n")


class StatusPage:
    """The HTTP server of one signer."""

    def __init__(self, signer: Signer) -> None:
        arguments = {"signer": signer}
        self._server = HTTPServer(
            Application([("/metrics", _Metrics, arguments), ("/healthz", _Healthz, arguments),
                         ("/readyz", _Readyz, arguments)])
        )  # fmt: skip

    def listen(self, address: Address) -> None:
        """Serve at `address`. Raises MisconfiguredError where it is taken."""
        listening.check(address, "status.listen")
        try:
            self._server.add_sockets(bind_sockets(address.port, address.host or None))
        except OSError as error:
            raise MisconfiguredError(f"status.listen: cannot listen on {address}: {error.strerror}") from error

    def close(self) -> None:
        """Stop listening at once; an answer that is being written goes on."""
        with suppress(OSError):
            self._server.stop()
