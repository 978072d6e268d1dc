"""CONNECT requests whose leaf could not be had: refused while the reason can still be told in HTTP."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence

from mitmproxy import http

from addons.forward.availability import Availability
from addons.forward.leaf_cache import LeafCache
from addons.forward.new_names import NewNames
from addons.pages import pages
from addons.pages.sentences import Kind
from addons.policy.addon import on_outage_of, will_decrypt
from addons.records import classes
from addons.records.connections import facts_of
from hsm import names
from hsm.errors import HsmitmError, OverloadedError
from hsm.wire.client import SignerClient
from hsm.wire.frames import Ready

logger = logging.getLogger("hsmitm.forward")

_RETRY_S = 1
"""What a client that brings too many new names is told to wait, in Retry-After (RFC 9110 section 10.2.3)."""


class Connects:
    """The answers of one worker."""

    def __init__(
        self,
        signer: SignerClient,
        availability: Availability,
        caches: Sequence[LeafCache],
        timeout_s: float,
        new_names: NewNames | None,
    ) -> None:
        """`timeout_s` is how long the signer has for its word."""
        self._signer = signer
        self._availability = availability
        self._caches = caches
        self._timeout_s = timeout_s
        self._new_names = new_names

    def answer(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Refuse `flow`, a CONNECT, where its leaf could not be minted, as far as is known. Who is refused already, or
        will perhaps not be decrypted, needs none: the signer is not asked."""
        facts = facts_of(flow.client_conn)
        if flow.response is not None or not will_decrypt(facts):
            return None
        try:
            host = names.to_ascii(flow.request.host)
        except ValueError as error:
            facts.fail(classes.of_hsm(error), "client", str(error))
            logger.info("CONNECT to a name that no certificate can carry: %s", error)
            flow.response = _page(flow, "malformed-name", str(error))
            return None
        cached = any(cache.covers(host) for cache in self._caches)
        if not cached and self._new_names is not None and not self._new_names.connect(flow.client_conn, host):
            self._new_names.refuse(flow.client_conn, host)
            flow.response = _page(flow, "too-many-names", retry_after_s=_RETRY_S)
            return None
        try:
            self._availability.check(on_outage_of(facts), cached=cached)
        except HsmitmError as error:
            _refuse(flow, host, error)
            return None
        # While all is well the mint itself is the question: to ask before it would be a round trip for nothing.
        well = self._availability.in_service and self._signer.connected
        return None if cached or well else self._await_signer(flow, host)

    async def _await_signer(self, flow: http.HTTPFlow, host: str) -> None:
        try:
            await self._signer.call(Ready(), self._timeout_s)
        except HsmitmError as error:
            _refuse(flow, host, error)


def _refuse(flow: http.HTTPFlow, host: str, error: HsmitmError) -> None:
    facts_of(flow.client_conn).fail(classes.of_hsm(error), "client", str(error))
    logger.warning("CONNECT %s refused: %s", host, error)
    flow.response = _page(flow, "hsm-busy" if isinstance(error, OverloadedError) else "hsm-unavailable")


def _page(flow: http.HTTPFlow, kind: Kind, detail: str = "", retry_after_s: int | None = None) -> http.Response:
    facts = facts_of(flow.client_conn)
    return pages.current().page(facts, kind=kind, request=flow.request, detail=detail, retry_after_s=retry_after_s)
