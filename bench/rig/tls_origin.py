"""The origin behind forward proxies: one nginx with a certificate of its own for each host name.

Each name has its own certificate because hsmitm copies a server's names into the leaf: behind one wildcard certificate
a single signature would serve every host. All of them have the same P-256 key, the cheapest handshake there is.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.rig.nginx import Nginx
from proxy.demo.origin import OriginCA

WARM, COLD = "w%d.bench.test", "c%d.bench.test"
_HTTP = """ssl_protocols TLSv1.2 TLSv1.3;
    ssl_buffer_size 16k;
    keepalive_timeout 1h;
    server_names_hash_bucket_size 128;
    """

_SERVER = """server {{
        listen {address} ssl{backlog};
        server_name {names};
        ssl_certificate {directory}/{certificate}.pem;
        ssl_certificate_key {directory}/origin.key;
        location = / {{ default_type text/plain; return 200 "$ssl_server_name says hello\\n"; }}
        location = /body {{ root {directory}; default_type application/octet-stream; }}
    }}
    """


class TlsOrigin(Nginx):
    """nginx. Use it as an async context manager; `port` is where it listens, on the loopback address."""

    def __init__(self, directory: Path, ca: OriginCA, *, warm: int, cold: int, body_bytes: int) -> None:
        """It serves `warm` hosts of WARM and `cold` of COLD; /body has `body_bytes` zeros."""
        super().__init__(directory, [], "")
        self._ca, self._warm, self._cold, self._body_bytes = ca, warm, cold, body_bytes

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    @property
    def hosts(self) -> list[str]:
        """All names that it has a certificate for."""
        return [WARM % number for number in range(self._warm)] + [COLD % number for number in range(self._cold)]

    def _configuration(self) -> str:
        self._certify()
        with (self.directory / "body").open("wb") as body:
            body.truncate(self._body_bytes)
        warm = [WARM % number for number in range(self._warm)]
        servers = [self._server(name, name) for name in warm]
        # The name chooses the file, which nginx reads anew for each handshake; the warm ones are in memory.
        servers.append(self._server("~^c[0-9]+\\.bench\\.test$", "$ssl_server_name"))
        return self._whole(_HTTP + "".join(servers))

    def _server(self, names: str, certificate: str) -> str:
        first = certificate == WARM % 0  # an option of the socket, which all have together
        return _SERVER.format(
            address=self.address,
            backlog=" backlog=4096" if first else "",
            names=names,
            certificate=certificate,
            directory=self.directory,
        )

    def _certify(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        path = self.directory / "origin.key"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        for name in self.hosts:
            certificate = self._ca.certify(key.public_key(), [name])
            (self.directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
