"""The status of one certificate: what was stapled to it, else its responder's word, else its issuer's list."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable

from cryptography import x509
from msgspec import structs

from addons.revocation import named, ocsp, ocsp_http
from addons.revocation.answers import Answer, Status
from addons.revocation.download import NoAnswerError
from addons.revocation.lists import RENEW, Lists
from addons.revocation.named import STRANGE
from addons.revocation.servers import Servers

LONGEST_STAPLE = ocsp_http.MAX_BYTES
_OCSP_S = 5.0
"""What a responder has for its answer; PAN-OS has the same."""
_RENEW_S, _RENEW_STAPLED_S = RENEW.total_seconds(), 3600.0
"""An answer may hold for a week. After so long its source is asked again while it still counts: half a day for what is
fetched, an hour for what servers bring along anyway."""
_UNKNOWN_S, _TIMEOUT_S = 300.0, 30.0
"""So long it is remembered that there is no answer."""
_FOR_EVER = 86400.0 * 365


class Check:
    """A worker's way to ask."""

    def __init__(self, servers: Servers, lists: Lists, clock: Callable[[], dt.datetime]) -> None:
        self._servers = servers
        self._lists = lists
        self._clock = clock

    def stapled(self, staple: bytes, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer | None:
        """What the stapled response (DER) says; None for one that says nothing of this certificate and time."""
        if not staple or len(staple) > LONGEST_STAPLE:
            return None
        try:
            answer = self._read(staple, certificate, issuer, "the response that it has stapled", _RENEW_STAPLED_S)
        except ValueError:
            return None
        return structs.replace(answer, words=_clause(answer, certificate))

    async def ask(self, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer:
        """What those say that the certificate names. Never raises for what they do."""
        answer = await self._asked(certificate, issuer)
        return structs.replace(answer, words=_clause(answer, certificate))

    async def _asked(self, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer:
        if named.is_never_revoked(certificate):
            return self._answer("good", "its issuer does without revocation, for it is short-lived", _FOR_EVER)
        responders, lists = named.responders(certificate), named.lists(certificate)
        if not responders and not lists:
            return self._answer("unknown", "it names neither an OCSP responder nor a CRL with http", _FOR_EVER)
        errors: list[ValueError] = []
        for url in responders:
            try:
                return await self._ask_responder(url, certificate, issuer)
            except ValueError as error:
                errors.append(error)
        for url in lists:
            try:
                return await self._look_up(url, certificate, issuer)
            except ValueError as error:
                errors.append(error)
        words = "; ".join(str(one) for one in errors)
        if any(isinstance(one, NoAnswerError) for one in errors):
            return self._answer("timeout", words, _TIMEOUT_S)
        return self._answer("unknown", words, _UNKNOWN_S)

    async def _ask_responder(self, url: str, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer:
        try:
            question = ocsp_http.question(url, ocsp.request(certificate, issuer), _OCSP_S)
        except STRANGE as error:
            raise ValueError(f"no OCSP request can be made for the certificate: {error!r:.200}") from error
        response = await self._servers.ask(question)
        return self._read(response, certificate, issuer, f"the OCSP responder {url}", _RENEW_S)

    def _read(
        self, response: bytes, certificate: x509.Certificate, issuer: x509.Certificate, who: str, renew_s: float
    ) -> Answer:
        """What a response says. Raises ValueError where it says neither good nor revoked."""
        now = self._clock()
        try:
            validity = ocsp.verify(response, certificate, issuer, now)
        except ocsp.RevokedError as error:
            words = f"{error}, says {who}".removeprefix("the certificate ")
            return self._said("revoked", words, error.this_update, error.next_update, renew_s)
        except ocsp.ResponseError as error:
            raise ValueError(f"{who}: {error}") from error
        return self._said("good", f"{who} says so", validity.this_update, validity.next_update, renew_s)

    async def _look_up(self, url: str, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer:
        found = await self._lists.find(url, issuer)
        serial, points, ca = certificate.serial_number, named.points(certificate), named.is_ca(certificate)
        since = await asyncio.to_thread(found.revoked, serial, points, ca=ca)
        told, until = found.this_update, found.next_update
        if since is None:
            return self._said("good", f"the CRL {url} does not have it", told, until, _RENEW_S)
        words = f"is revoked since {ocsp.utc(since)}, says the CRL {url}"
        return self._said("revoked", words, told, until, _RENEW_S)

    def _said(self, status: Status, words: str, told: dt.datetime, until: dt.datetime, renew_s: float) -> Answer:
        renew = min(self._clock().timestamp() + renew_s, until.timestamp())
        return Answer(status, words, told.timestamp(), renew, until.timestamp())

    def _answer(self, status: Status, words: str, for_s: float) -> Answer:
        until = self._clock().timestamp() + for_s
        return Answer(status, words, 0.0, until, until)


def _clause(answer: Answer, certificate: x509.Certificate) -> str:
    """The answer's words, said of a server."""
    name = f"{certificate.subject.rfc4514_string():.100}" if named.is_ca(certificate) else ""
    whose = f"the certificate of its CA {name}" if name else "its certificate"
    match answer.status:
        case "revoked":
            return f"{whose} {answer.words}"
        case "good":
            return answer.words
        case _:
            return f"whether {whose} is revoked is not known: {answer.words}"
