"""The plain-HTTP origin behind the inbound sites as an nginx: a fifth of what Python's costs, so that the two cores are
left to what is measured. Without nginx there are no peers either, and `plain_origin` does."""

from __future__ import annotations

from pathlib import Path

from bench.rig.nginx import Nginx
from bench.rig.plain_origin import BODY

_SERVER = """server {{
        listen {address} backlog=1024;
        location = / {{ default_type text/plain; return 200 "{body}"; }}
        location = /body {{ root {directory}; default_type application/octet-stream; }}
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
        return self._whole(_SERVER.format(address=self.address, directory=self.directory, body=body))
