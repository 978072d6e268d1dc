"""The plain-HTTP origin behind the inbound sites as an nginx: a fifth of what Python's costs, so that the two cores are
left to what is measured. Without nginx there are no peers either, and `plain_origin` does."""

from __future__ import annotations

from pathlib import Path

from bench.nginx import Nginx
from bench.plain_origin import BODY

_CONFIGURATION = """daemon off;
worker_processes 1;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests {forever};
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address} backlog=1024;
        location = / {{ default_type text/plain; return 200 "{body}"; }}
        location = /body {{ root {directory}; default_type application/octet-stream; }}
    }}
}}
"""


class NginxOrigin(Nginx):
    """Answers / as `PlainOrigin` does, and /body with zeros. Use it as an async context manager."""

    def __init__(self, directory: Path, body_bytes: int) -> None:
        """`directory` is made."""
        super().__init__(directory, [], "")
        self._body_bytes = body_bytes

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address}"

    def _configuration(self) -> str:
        with (self.directory / "body").open("wb") as file:
            file.truncate(self._body_bytes)
        body = BODY.decode().replace("\n", "\\n")
        return _CONFIGURATION.format(user=self.user, directory=self.directory, address=self.address, body=body,
                                     forever=1_000_000_000)  # fmt: skip
