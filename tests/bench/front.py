"""Sites with certificates and the origin behind them, for tests of what stands in front."""

from __future__ import annotations

from pathlib import Path

from bench.inbound.open_loop import Pace
from bench.rig.nginx import Nginx
from bench.rig.plain_origin import PlainOrigin
from bench.rig.site import file_sites, host
from proxy.demo.origin import OriginCA


class Rig:
    """Sites, the origin behind them, and where to put what a test makes."""

    def __init__(self, directory: Path, origin: PlainOrigin) -> None:
        self.directory, self.origin = directory, origin
        self.ca = OriginCA()
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_text(self.ca.pem)

    def nginx_file(self, upstream: str | None = None) -> Nginx:
        """nginx with keys in files."""
        return Nginx(self.directory / "file", file_sites(self.ca, self.directory), upstream or self.origin.url)

    def pace(self, address: str, ca: Path, rate: float = 100, seconds: float = 0.5) -> Pace:
        """An open loop."""
        return Pace(address, host("p256"), str(ca), "1.3", rate, seconds)
