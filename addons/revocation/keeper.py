"""The signer as a worker's keeper of OCSP responses: what it keeps for all workers, and whose turn it is to fetch.

Nothing depends on it: where the signer is away, does not know the questions or does not answer, the caller is told so
at once and fetches for itself. It is told nothing that it need believe: responses are verified by the caller.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hsm.errors import HsmitmError
from hsm.wire.worker import FindStaple, KeepStaple, StapleFound

if TYPE_CHECKING:
    from hsm.wire.client import SignerClient

logger = logging.getLogger("hsmitm.ocsp")

_TIMEOUT_S = 2.0


class Keeper:
    """`known` is whether the signer knows the questions (`InboundTerms.keeps_staples`): one that does not would end the
    connection, with all that is asked on it. Who talks to the signer writes it, whenever it tells its terms."""

    def __init__(self, signer: SignerClient) -> None:
        self._signer = signer
        self.known = False

    async def find(
        self, certificate: bytes, seen: bytes, within_s: float, *, fetches: bool = True
    ) -> StapleFound | None:
        """As `FindStaple`; None where the signer does not say."""
        if not self._there:
            return None
        try:
            reply = await self._signer.call(FindStaple(certificate, seen, within_s, fetches), _TIMEOUT_S)
        except HsmitmError as error:
            logger.info("the signer keeps no OCSP response for us: %s", error)
            return None
        assert isinstance(reply, StapleFound)
        return reply

    async def keep(self, certificate: bytes, response: bytes) -> None:
        """As `KeepStaple`; it is no matter to us whether the signer takes it."""
        if not self._there:
            return
        try:
            await self._signer.call(KeepStaple(certificate, response), _TIMEOUT_S)
        except HsmitmError as error:
            logger.info("the signer does not keep our OCSP response: %s", error)

    @property
    def _there(self) -> bool:
        # A signer that is away is not waited for: with many sites that would add up.
        return self.known and self._signer.connected
