"""A worker's own sites over time: read at start, and taken up to date as the signer's answers to reports say.

Two numbers say what has changed (`hsm.wire.worker.Reported`). Another configuration: somebody asked for a reload, and
files are read. Other terms: the ticket key or the keys' schemes, which are applied to what is loaded; no file is read,
for an edit is nobody's wish before it is reloaded. What fails is tried again at the next report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Self

from prometheus_client import CollectorRegistry

from addons.gnutls import library
from addons.inbound import loading
from addons.inbound.handshakes import Handshakes
from addons.inbound.inbound import Inbound
from addons.inbound.settings import HandshakeSettings, ListenerSettings
from addons.inbound.signer_keys import SignerKeys
from addons.revocation.keeper import Keeper
from addons.revocation.staples import Staples
from addons.upstream import stated
from hsm.errors import HsmitmError, MisconfiguredError
from hsm.wire.client import SignerClient
from hsm.wire.worker import InboundKeys, InboundTerms, Reported

logger = logging.getLogger("hsmitm.inbound")

_TERMS_TIMEOUT_S = 3.0
_QUICK_S = 0.05
_PAUSE = 20
"""Reading hundreds of sites holds up their clients. A try that failed and took more than _QUICK_S of the event loop's
thread is followed by a pause so many times as long; others are tried again at each report."""

Reread = Callable[[], Sequence[ListenerSettings]]
"""The listeners as the configuration has them now. Raises MisconfiguredError."""


class InboundSites:
    """The addon, and what keeps it up to date."""

    def __init__(
        self,
        listeners: Sequence[ListenerSettings],
        settings: HandshakeSettings,
        signer: SignerClient,
        registry: CollectorRegistry,
        reread: Reread,
    ) -> None:
        """`listeners` in the configuration's order. Raises MisconfiguredError where GnuTLS is missing or too old, or
        for what is wrong in the sites."""
        library.load()
        self._places = _places(listeners)
        self._signer = signer
        self._reread = reread
        self._keys = SignerKeys(signer, settings.signature_s)
        self._keeper = Keeper(signer)
        self._loaded = loading.load(listeners, self._keys)
        self._staples = Staples(self._loaded.staples, self._keeper)
        self._configuration: int | None = None
        self._terms: InboundTerms | None = None
        self._not_before = 0.0
        self._complaints: set[str] = set()
        self.addon = Inbound(self._loaded.listeners, Handshakes(settings.threads), settings, registry)

    @classmethod
    async def start(
        cls,
        listeners: Sequence[ListenerSettings],
        settings: HandshakeSettings,
        signer: SignerClient,
        registry: CollectorRegistry,
        *,
        reread: Reread,
    ) -> Self:
        """Read the sites. Raises MisconfiguredError for what is wrong in them.

        A signer that is not there yet is no hindrance: it is asked again at the first report.
        """
        try:
            terms = await _ask(signer)  # before the files are read: a reload in between is noticed
        except HsmitmError as error:
            logger.warning("the signer does not tell its inbound keys yet: %s", error)
            terms = None
        self = cls(listeners, settings, signer, registry, reread)
        if terms is not None:
            self._apply(terms)
            self._configuration = terms.of_configuration
        await self._staples.start()
        return self

    async def hear(self, told: Reported) -> None:
        """The signer answered a report. What cannot be taken over leaves what was served, is said once, and is tried
        again with the next report."""
        try:
            if self._terms is None or told.terms != self._terms.terms:
                self._apply(await _ask(self._signer))
                logger.info("ticket key and schemes are now as the signer tells them")
            if told.of_configuration != self._configuration and time.monotonic() >= self._not_before:
                await self._read_again(told.of_configuration)
                logger.info("the sites were read again")
        except HsmitmError as error:
            if str(error) not in self._complaints:
                self._complaints.add(str(error))
                logger.error("the sites stay as they were: %s", error)  # noqa: TRY400  # an operator's sentence
        else:
            if told.of_configuration == self._configuration:
                self._complaints.clear()

    def _apply(self, terms: InboundTerms) -> None:
        self._terms = terms
        self._keeper.known = terms.keeps_staples
        self._loaded.apply(terms)

    async def _read_again(self, configuration: int) -> None:
        listeners = self._reread()
        if _places(listeners) != self._places:
            self._configuration = configuration  # to read them again would not help
            raise MisconfiguredError("[[inbound]] listen and transparent take effect when hsmitm is started again")
        began = time.thread_time()
        try:
            loaded = loading.load(listeners, self._keys)
            kept_fresh = Staples(loaded.staples, self._keeper)
        except MisconfiguredError:
            took = time.thread_time() - began
            self._not_before = time.monotonic() + (took * _PAUSE if took > _QUICK_S else 0.0)
            raise
        if self._terms is not None:
            loaded.apply(self._terms)
        before, self._staples, self._loaded = self._staples, kept_fresh, loaded
        await before.close()
        await self._staples.start()  # first: what is served from here on has its staples
        stated.forget()
        self.addon.listeners = loaded.listeners
        self._configuration = configuration

    async def close(self) -> None:
        """End what runs beside the data path."""
        await self._staples.close()


async def _ask(signer: SignerClient) -> InboundTerms:
    reply = await signer.call(InboundKeys(), _TERMS_TIMEOUT_S)
    assert isinstance(reply, InboundTerms)
    return reply


def _places(listeners: Sequence[ListenerSettings]) -> list[tuple[str, bool]]:
    return [(one.place, one.transparent) for one in listeners]
