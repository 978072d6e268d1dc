"""Minting: a worker's names and public key -> a certificate that the signer built, one log line and one count."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from hsm import names
from hsm.certificates.issuer import Issuer
from hsm.certificates.leaf import SERIAL_BITS
from hsm.certificates.leaf_key import cost, leaf_key, secret_of
from hsm.certificates.settings import LeafProfile
from hsm.errors import DeadlineError, HsmitmError, OverloadedError, RefusedError
from hsm.group.group import Group
from hsm.member.key import Key
from hsm.signer.quotas import Allowance
from hsm.signer.records import Records, lines_of
from hsm.signer.turns import Turns
from hsm.wire.worker import Authority, Mint, Minted

logger = logging.getLogger("hsmitm.signer")

_TOLD_NAMES, _TOLD_OF_NAME, _TOLD_OF_ERROR = 5, 64, 300
"""Of a refused leaf: a worker that is taken over asks for what it likes."""


def _told(names: list[str]) -> str:
    shown = [one if len(one) <= _TOLD_OF_NAME else f"{one[:_TOLD_OF_NAME]}..." for one in names[:_TOLD_NAMES]]
    return f"{shown}" + (f" and {len(names) - _TOLD_NAMES} more" if len(names) > _TOLD_NAMES else "")


class Minting:
    """The CAs and what they may sign. The one place that asks the group for a CA's signature of a leaf."""

    def __init__(
        self,
        issuers: Mapping[Authority, Issuer],
        group: Group,
        profile: LeafProfile,
        allowance: Allowance,
        registry: CollectorRegistry,
        records: Records,
    ) -> None:
        """`group` has the keys of `issuers`, and those of inbound sites; `registry` gets the counter, `records` a
        record of each leaf."""
        names.public_suffixes()  # now, and not while somebody waits for a leaf
        self._issuers = issuers
        self._above = {secret_of(key) for issuer in issuers.values() for key in issuer.keys_above}
        self._keys: Mapping[str, Key] = {}
        self._taken: frozenset[tuple[str, int]] = frozenset()
        self._group = group
        self._profile = profile
        self._records = records
        self._allowance = allowance
        self._turns = Turns()
        self._mints = Counter("hsmitm_mints", "Leaf certificates asked for", ("authority", "result"), registry=registry)

    async def mint(self, pid: int, request: Mint, deadline: float) -> Minted:
        """The leaf that the worker process `pid` asks for. Raises RefusedError, OverloadedError for one that has had
        its share, and what `Group.sign` raises."""
        started = time.monotonic()
        try:
            self._allowance.mint(pid, len(request.names), cost(request.spki))
        except OverloadedError:  # which has an alarm of its own, and no line for each
            self._mints.labels(request.authority, "Overloaded").inc()
            raise
        try:
            await self._records.room(deadline)
            minted, serial = await self._minted(pid, request, deadline)
            ms = 1000 * (time.monotonic() - started)
            rest = f"authority={request.authority} serial={serial:x} worker={pid} ms={ms:.1f}"
            await self._records.write(lines_of(request.names, rest), deadline)
        except HsmitmError as error:
            self._mints.labels(request.authority, type(error).__name__.removesuffix("Error")).inc()
            logger.warning(
                "not minted names=%s authority=%s worker=%d: %s",
                _told(request.names), request.authority, pid, str(error)[:_TOLD_OF_ERROR],
                extra={"log_class": f"not minted for {pid}"},
            )  # fmt: skip
            raise
        self._mints.labels(request.authority, "minted").inc()
        return minted

    async def _minted(self, pid: int, request: Mint, deadline: float) -> tuple[Minted, int]:
        """The leaf and its serial number."""
        try:
            await self._turns.take(pid, deadline)
        except TimeoutError as error:
            raise DeadlineError("the deadline passed before the leaf was made") from error
        issuer = self._issuers.get(request.authority)
        if issuer is None:
            raise RefusedError(f"no forward-{request.authority} CA is configured")
        if secret_of(leaf_key(request.spki)) in self._secrets():
            raise RefusedError("a leaf with a key of this machine's partitions: a CA's, or an inbound site's")
        serial = secrets.randbits(SERIAL_BITS) | 1 << (SERIAL_BITS - 1)
        key = self._group.keys[request.authority]
        now, scheme = dt.datetime.now(dt.UTC), self._group.schemes(key.name)[0]
        approved = issuer.approve(request.names, request.spki, self._profile, now, serial, scheme)
        signature = await self._group.sign(key.name, approved.tbs, approved.digest, deadline, "mint", scheme, asker=pid)
        begins, ends = approved.not_before.timestamp(), approved.not_after.timestamp()
        certificate = approved.certificate(signature, key.public)
        return Minted(certificate, begins, ends, signature.member, signature.ms), approved.serial

    def _secrets(self) -> frozenset[tuple[str, int]]:
        """Of all keys that no leaf may have: an inbound key signs what a worker asks for, and a CA's signs leaves."""
        if self._keys is not self._group.keys:  # a reload puts other ones in their place
            self._keys = self._group.keys
            self._taken = frozenset(self._above | {secret_of(key.public) for key in self._keys.values()})
        return self._taken
