"""A whole hsmitm with sites: one worker, one member with many sessions, a site of each kind of key.

What it listens on for inbound is chosen beforehand: the configuration names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from bench.rig.faulty_module import FaultyModule
from bench.rig.nginx import Token
from bench.rig.nginx_origin import NginxOrigin
from bench.rig.plain_origin import PlainOrigin
from bench.rig.port import free_port
from bench.rig.site import Site, token_sites
from bench.rig.system import System
from proxy.config import edit
from proxy.demo.origin import OriginCA


class InboundSystem(System):
    """hsmitm with [[inbound]]. Use it as an async context manager."""

    def __init__(
        self, directory: Path, *, plain: PlainOrigin | NginxOrigin, site_ca: OriginCA, sessions: int, seed: int
    ) -> None:
        """`plain` is the origin behind the sites and must be listening; `site_ca` signs the sites' certificates."""
        super().__init__(directory, 1, key_type="p256", workers=1, sessions=sessions, seed=seed)
        self._plain, self._site_ca = plain, site_ca
        self.real_module = ""
        self._store: dict[str, str] = {}
        self.inbound = f"127.0.0.1:{free_port()}"
        self.sites: list[Site] = []

    def token(self, module: FaultyModule) -> Token:
        """The member's partition for another program, which reaches it through a faulty module of its own."""
        return Token(module.path, self._pin(), self._store | module.environment(self.real_module))

    async def prepare(self) -> None:
        """Keys and certificates for the sites, and [[inbound]], on top of what every system has."""
        await super().prepare()
        (member,) = self.config.file.hsm.members
        assert member.token is not None
        self.real_module = member.environment["FAULTY_MODULE"]
        self._store = {"SOFTHSM2_CONF": member.environment["SOFTHSM2_CONF"]}
        self.sites = await token_sites(
            self._site_ca,
            self.directory,
            module=self.real_module,
            token=member.token,
            pin=self._pin(),
            environment=self._store,
        )
        path = self.directory / "hsmitm.toml"
        edit.write(path, edit.read(path) + self._inbound_tables())

    async def __aenter__(self) -> Self:
        """As System; `proxy` is the forward listener."""
        await super().__aenter__()
        listeners = [one.address for one in (await self.status()).listeners]
        self.proxy = next(address for address in listeners if address != self.inbound)
        return self

    def _pin(self) -> str:
        return (self.directory / "pin").read_text().strip()

    def _inbound_tables(self) -> str:
        tables = f'\n[[inbound]]\nlisten = "{self.inbound}"\n'
        for site in self.sites:
            tables += (
                f'\n[[inbound.sites]]\nnames = ["{site.host}"]\ncertificate = "{site.certificate.name}"\n'
                f'key = "{site.key}"\nupstream = "{self._plain.url}"\n'
            )
        return tables
