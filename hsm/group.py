"""The members that hold the same keys: prove that they do, choose one, and verify what it signed.

A key counts as held by a member once the member has signed a fresh challenge that verifies with the key of the
certificate we present: labels and CKA_IDs prove nothing, and a stale handle can name another key.
Failing over between members by what each return code means is to come; its place is `sign`, the only loop over members.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram

from hsm import wire
from hsm.errors import HsmitmError, MemberLostError, RefusedError, TryLaterError
from hsm.lifecycle import State
from hsm.member import Member
from hsm.schemes import PublicKey, Scheme
from hsm.uri import KeyURI

logger = logging.getLogger("hsmitm.group")

PROOF_TIMEOUT_S = 10.0
TRIES = 2
"""Members asked for one request. A signature has no side effect, so a lost member's request is repeated once."""
WAIT_FOR_MEMBER_S = 2.0
"""How long a request waits for a member to come back. A killed member process is back in a quarter of a second."""

_EXECUTION = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""Seconds: P-256 in software at the low end, a network HSM in the middle, a hang at the high end."""


class Key(Struct, frozen=True):
    """A key of the group: its URI on each member, and the public key that its signatures must verify with."""

    uri: KeyURI
    public: PublicKey
    scheme: Scheme


class Group:
    """Members and the keys they proved."""

    def __init__(self, keys: dict[str, Key], registry: CollectorRegistry) -> None:
        """`registry` gets the signature counters."""
        self.keys = keys
        self.members: Sequence[Member] = ()
        self.held: dict[str, dict[str, wire.KeyFound]] = {}
        self._proved: dict[str, set[str]] = {name: set() for name in keys}
        self._joined = asyncio.Event()
        labels = ("member", "purpose")
        self._signatures = Counter("hsmitm_signatures", "Signatures verified and used", labels, registry=registry)
        self._errors = Counter(
            "hsmitm_signature_errors", "Signature requests that a member did not answer well",
            ("member", "purpose", "error"), registry=registry,
        )  # fmt: skip
        self._queued = Histogram(
            "hsmitm_signature_queue_seconds", "Time a request waited for a session of its member",
            labels, buckets=_EXECUTION, registry=registry,
        )  # fmt: skip
        self._executed = Histogram(
            "hsmitm_signature_seconds", "Time the PKCS#11 module took to sign", labels, buckets=_EXECUTION,
            registry=registry,
        )  # fmt: skip

    def proved_by(self, key: str) -> list[str]:
        """Names of the members that proved `key` and are up."""
        return [m.name for m in self.members if m.serving and m.name in self._proved[key]]

    def problems(self, key: str) -> dict[str, str]:
        """For each member that does not serve `key`, why not."""
        found = {}
        for member in self.members:
            if member.state is not State.UP:
                found[member.name] = f"member is {member.state}: {member.reason}"
            elif member.name not in self._proved[key]:
                found[member.name] = self.held[member.name][key].problem
        return found

    async def prove(self, member: Member, opened: wire.Opened) -> None:
        """Find out which keys a newly started member holds; called before it is up.

        A key that is missing or another's is noted (`problems`) and the member gets no requests for it.
        """
        self.held[member.name] = dict(opened.keys)
        for name, key in self.keys.items():
            self._proved[name].discard(member.name)
            problem = await self._disproof(member, name, key, opened.keys[name])
            if problem:
                found = opened.keys[name]
                self.held[member.name][name] = wire.KeyFound(problem, found.spki, found.schemes, found.guarded)
                logger.error("member %s cannot serve key '%s': %s", member.name, name, problem)
            else:
                self._proved[name].add(member.name)
        asyncio.get_running_loop().call_soon(self._joined.set)

    async def _disproof(self, member: Member, name: str, key: Key, found: wire.KeyFound) -> str:
        """Why `member` cannot serve the key; empty when its signature of a challenge verified."""
        if found.problem:
            return found.problem
        if found.spki and found.spki != key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            return f"{key.uri} is not the key of the certificate: their public keys differ"
        challenge = secrets.token_bytes(32)
        request = wire.Sign(name, key.scheme.name, key.scheme.digest(challenge), challenge)
        try:
            answer = await member.sign(request, time.monotonic() + PROOF_TIMEOUT_S)
        except RefusedError as error:  # what may pass, a lost member or a deadline, keeps the member down instead
            return f"it did not sign a challenge: {error}"
        if not key.scheme.verifies(key.public, request.digest, answer.signature):
            return f"{key.uri} is not the key of the certificate: its signature of a challenge does not verify"
        self._count(member, "proof", answer)
        return ""

    def _count(self, member: Member, purpose: str, answer: wire.Signature) -> None:
        self._signatures.labels(member.name, purpose).inc()
        self._queued.labels(member.name, purpose).observe(answer.queued_s)
        self._executed.labels(member.name, purpose).observe(answer.executed_s)

    def choose(self, key: str, tried: set[str]) -> Member | None:
        """The member for the next request: the least busy of those in service that were not tried, else of all."""
        serving = [m for m in self.members if m.serving and m.name in self._proved[key]]
        fresh = [m for m in serving if m.name not in tried] or serving
        return min(fresh, key=lambda m: m.in_flight, default=None)

    async def sign(self, name: str, message: bytes, digest: bytes, deadline: float, purpose: str) -> bytes:
        """A verified signature of `message` (its `digest` in the key's scheme) by the key `name`.

        Raises TryLaterError where no member is in service, DeadlineError, RefusedError, or the last MemberLostError.
        """
        key = self.keys[name]
        request = wire.Sign(name, key.scheme.name, digest, message)
        tried: set[str] = set()
        for attempt in range(TRIES):
            member = await self.wait_for_member(name, tried, deadline)
            tried.add(member.name)
            try:
                answer = await member.sign(request, deadline)
                if not key.scheme.verifies(key.public, digest, answer.signature):
                    await self._take_out(member)
                    raise MemberLostError(f"member {member.name} returned a signature that does not verify")
            except HsmitmError as error:
                self._errors.labels(member.name, purpose, type(error).__name__.removesuffix("Error")).inc()
                if not isinstance(error, MemberLostError) or attempt == TRIES - 1:
                    raise
                logger.warning("member %s lost a request, trying again: %s", member.name, error)
                continue
            self._count(member, purpose, answer)
            return answer.signature
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _take_out(self, member: Member) -> None:
        """A bad signature never leaves; its member starts afresh, and proves its keys before it serves again."""
        logger.error("member %s returned a signature that does not verify; it is taken out and restarted", member.name)
        for members in self._proved.values():
            members.discard(member.name)
        await member.restart()

    async def wait_for_member(self, name: str, tried: set[str], deadline: float) -> Member:
        """A member that serves the key `name`, once there is one. Raises TryLaterError, saying why there is none."""
        until = min(deadline, time.monotonic() + WAIT_FOR_MEMBER_S)
        while (member := self.choose(name, tried)) is None:
            self._joined.clear()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._joined.wait()
            except TimeoutError:
                why = "; ".join(f"{member}: {problem}" for member, problem in self.problems(name).items())
                raise TryLaterError(f"no member of the HSM is in service ({why})") from None
        return member
