"""Clients that never were: what mitmproxy hands to `Forward.tls_start_client`, without a network."""

from __future__ import annotations

import datetime as dt
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy import connection, tls
from mitmproxy.certs import Cert
from mitmproxy.options import Options
from mitmproxy.proxy import context


class Clients:
    """Clients that can verify ECDSA, behind servers that were verified."""

    def __init__(self, options: Options, names: int) -> None:
        """A leaf will have `names` names: the host and those of the server's certificate, which all servers share."""
        self._options = options
        self._upstream = [Cert(_certificate(names - 1))] if names > 1 else []

    def arrived(self, host: str) -> tls.TlsData:
        """One whose ClientHello asks for `host`."""
        client = connection.Client(
            peername=("192.0.2.9", 1234), sockname=("192.0.2.1", 8080), timestamp_start=time.time(),
            state=connection.ConnectionState.OPEN, sni=host,
        )  # fmt: skip
        arrived = context.Context(client, self._options)
        arrived.server.address = (host, 443)
        arrived.server.timestamp_tls_setup = client.timestamp_start
        arrived.server.certificate_list = self._upstream
        return tls.TlsData(client, arrived)


def _certificate(names: int) -> x509.Certificate:
    """A server's certificate with so many names."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    carried = [x509.DNSName(f"alternative-{number}.bench.test") for number in range(names)]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(carried), critical=True)
        .sign(key, hashes.SHA256())
    )
