"""SoftHSM: a library and a directory, no daemon."""

from __future__ import annotations

import asyncio

from hsm.member.process import MemberProcess
from hsm.wire.member import Initialise
from tests.modules.vendor import Vendor
from tests.softhsm import MODULE, in_s


class SoftHSM(Vendor):
    """A token store of its own."""

    name = "softhsm"

    @property
    def module(self) -> str:
        """SoftHSM's."""
        return MODULE

    @property
    def store(self) -> dict[str, str]:
        """What SoftHSM itself reads."""
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}

    @property
    def environment(self) -> dict[str, str]:
        """Its configuration."""
        return self.store

    def prepare(self) -> None:
        """A store, and a token in it."""
        store = self.directory / "tokens"
        store.mkdir()
        (self.directory / "softhsm2.conf").write_text(
            f"directories.tokendir = {store}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        asyncio.run(self._initialise())

    async def _initialise(self) -> None:
        process = await MemberProcess.spawn(self.store)
        try:
            await process.channel.call(Initialise(MODULE, self.token, "so-pin-4711", self.pin), in_s(20))
        finally:
            await process.end()
