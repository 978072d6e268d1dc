"""A worker's own sites over time: read at start, and again whenever the signer says that something has changed."""

from __future__ import annotations

import logging
from typing import Self

from prometheus_client import CollectorRegistry

from addons.gnutls import library
from addons.inbound import loading
from addons.inbound.handshakes import Handshakes
from addons.inbound.inbound import Inbound
from addons.inbound.signer_keys import SignerKeys
from addons.revocation.keeper import Keeper
from addons.revocation.staples import Staples
from addons.upstream import stated
from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire.client import SignerClient
from hsm.wire.worker import InboundKeys, InboundTerms, Reported
from proxy.config.file import Config, load

logger = logging.getLogger("hsmitm.inbound")

_TERMS_TIMEOUT_S = 3.0


class InboundSites:
    """The addon, and what keeps it up to date."""

    def __init__(self, config: Config, signer: SignerClient, registry: CollectorRegistry) -> None:
        """Raises MisconfiguredError where GnuTLS is missing or too old."""
        library.load()
        section = config.file.proxy
        self._config = config
        self._signer = signer
        self._keys = SignerKeys(signer, section.mint_timeout_s)
        self._generation = -1
        self._keeper = Keeper(signer)
        self._staples: Staples | None = None
        self.addon = Inbound([], Handshakes(section.handshake_threads), section.client_handshake_timeout_s, registry)

    @classmethod
    async def start(cls, config: Config, signer: SignerClient, registry: CollectorRegistry) -> Self:
        """Read the sites. Raises MisconfiguredError for what is wrong in them.

        A signer that is not there yet is no hindrance: it is asked again at the first report.
        """
        self = cls(config, signer, registry)
        try:
            terms = await self._terms()
        except HsmitmError as error:
            logger.warning("the signer does not tell its inbound keys yet: %s", error)
            terms = None
        loaded = loading.load(config, self._keys, terms)
        await self._take(loaded, Staples(loaded.staples, self._keeper), terms)
        return self

    async def hear(self, told: Reported) -> None:
        """The signer answered a report. Where its generation is new, everything is read again; where that fails, what
        was served is served on. Raises HsmitmError where the signer does not answer."""
        if told.generation == self._generation:
            return
        terms = await self._terms()
        try:
            config = load(self._config.path)
            if [(one.listen, one.transparent) for one in config.file.inbound] != [
                (one.listen, one.transparent) for one in self._config.file.inbound
            ]:
                raise MisconfiguredError("[[inbound]] listen and transparent take effect when hsmitm is started again")
            loaded = loading.load(config, self._keys, terms)
            kept_fresh = Staples(loaded.staples, self._keeper)
        except MisconfiguredError as error:
            logger.error("the sites stay as they were: %s", error)  # noqa: TRY400  # an operator's sentence
            self._generation = terms.generation
            return
        self._config = config
        await self._take(loaded, kept_fresh, terms)
        logger.info("the sites were read again")

    async def _terms(self) -> InboundTerms:
        reply = await self._signer.call(InboundKeys(), _TERMS_TIMEOUT_S)
        assert isinstance(reply, InboundTerms)
        self._keeper.known = reply.keeps_staples
        return reply

    async def _take(self, loaded: loading.Loaded, kept_fresh: Staples, terms: InboundTerms | None) -> None:
        before, self._staples = self._staples, kept_fresh
        if before is not None:
            await before.close()
        await self._staples.start()  # first: what is served from here on has its staples
        stated.forget()
        self.addon.listeners = loaded.listeners
        self._generation = terms.generation if terms else -1

    async def close(self) -> None:
        """End what runs beside the data path."""
        if self._staples is not None:
            await self._staples.close()
