"""One life of a member: a started process, the keys that it proved, and how well it answers.

A key counts as held once the member has signed a fresh challenge that verifies with the public key we present: labels
and CKA_IDs prove nothing, and a stale handle can name another key. The same challenges are the test signatures of a
life that goes on. There is no key for tests alone: a signature by the keys that clients need proves just what they
need, and no HSM has to hold one key more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from hsm import codes, wire
from hsm.codes import Kind
from hsm.errors import BadSignatureError, KeyLostError, MemberLostError, RefusedError
from hsm.health import Health
from hsm.key import Key
from hsm.member_metrics import MemberMetrics
from hsm.member_settings import MemberSettings
from hsm.process import MemberProcess

logger = logging.getLogger("hsmitm.member")

PROOF_TIMEOUT_S = 10.0


class Life:
    """A process that has opened its partition."""

    def __init__(
        self,
        member: str,
        process: MemberProcess,
        opened: wire.Opened,
        keys: Mapping[str, Key],
        metrics: MemberMetrics,
    ) -> None:
        """`keys` are those that the member may hold."""
        self.settings: MemberSettings | None = None
        self.process = process
        self.opened = opened
        self.found = dict(opened.keys)
        self.proved: set[str] = set()
        self.health = Health()
        self.in_flight = 0
        self.sessions = opened.sessions
        self.up_at = 0.0
        self.ramp_from = 0.0
        self.idle = asyncio.Event()
        self.idle.set()
        self._member = member
        self._keys = keys
        self._metrics = metrics
        self._replaced = 0
        self._tested = 0

    @property
    def lost(self) -> bool:
        """Whether the process is known to be gone. Its socket may be closing already when its end is not yet told."""
        return self.process.lost.is_set() or not self.process.channel.connected

    async def sign(self, request: wire.Sign, deadline: float, purpose: str) -> bytes:
        """A signature that verifies. Raises BadSignatureError, or what `Channel.call` raises."""
        self.in_flight += 1
        self.idle.clear()
        try:
            answer = await self.process.channel.call(request, deadline)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()
        assert isinstance(answer, wire.Signature)
        if not self._keys[request.key].verifies(request, answer.signature):
            raise BadSignatureError(f"member {self._member} returned a signature that does not verify")
        self._metrics.signed(self._member, purpose, answer)
        return answer.signature

    async def prove(self) -> None:
        """Find out which keys the member holds. One that is missing or another's is noted in `found`.

        Raises what says that the member, not the key, is at fault: MemberLostError, DeadlineError.
        """
        doubtful: dict[str, MemberLostError] = {}
        for name, key in self._keys.items():
            try:
                problem = await self._disproof(key, self.found[name])
            except MemberLostError as error:
                if codes.kind(error.code) is not Kind.AMBIGUOUS:
                    raise
                doubtful[name] = error
                continue
            if problem:
                self.note_problem(name, problem)
            else:
                self.proved.add(name)
        for name, doubt in doubtful.items():
            if not self.proved:
                raise doubt
            self.note_problem(name, f"it did not sign a challenge: {doubt}")

    async def _disproof(self, key: Key, found: wire.KeyFound) -> str:
        """Why the member cannot serve the key; empty when its signature of a challenge verified."""
        if found.problem:
            return found.problem
        if found.spki and found.spki != key.spki:
            return f"{key.uri} is not the key of the certificate: their public keys differ"
        try:
            await self.sign(key.challenge(), time.monotonic() + PROOF_TIMEOUT_S, "proof")
        except RefusedError as error:  # a key that was found and is lost now is no key's fault
            return f"it did not sign a challenge: {error}"
        except BadSignatureError:
            if found.spki:
                raise  # the right key, and a wrong signature: that is no key's fault
            return f"{key.uri} is not the key of the certificate: its signature of a challenge does not verify"
        return ""

    def note_problem(self, key: str, problem: str) -> None:
        """The member does not serve `key` any more, or never did."""
        self.proved.discard(key)
        found = self.found[key]
        if found.problem != problem or found is self.opened.keys.get(key):
            logger.error("member %s cannot serve key '%s': %s", self._member, key, problem)
        self.found[key] = wire.KeyFound(problem, found.spki, found.schemes, found.guarded)

    async def look_again(self, deadline: float) -> None:
        """Look for the keys that were missing: they may have been put there since."""
        answer = await self.process.channel.call(wire.Describe(), deadline)
        assert isinstance(answer, wire.KeysFound)
        for name in self._keys.keys() - self.proved:
            found = answer.keys[name]
            try:
                problem = await self._disproof(self._keys[name], found)
            except MemberLostError as error:
                if codes.kind(error.code) is not Kind.AMBIGUOUS or not self.proved:
                    raise
                problem = f"it did not sign a challenge: {error}"
            if problem:
                self.note_problem(name, problem)
            else:
                self.found[name] = found
                self.proved.add(name)
                logger.info("member %s serves key '%s' again", self._member, name)

    async def vital(self, deadline: float) -> wire.Vital:
        """How the sessions are. Answered by the process even while they hang."""
        vital = await self.process.channel.call(wire.Ping(), deadline)
        assert isinstance(vital, wire.Vital)
        self.sessions = vital.sessions
        if vital.replaced > self._replaced:
            self._metrics.replaced(self._member, vital.replaced - self._replaced)
            self._replaced = vital.replaced
        return vital

    async def test(self, deadline: float) -> None:
        """A test signature by the next of the proved keys. Raises what is wrong with the member.

        A key that turns out to be lost, or that is refused twice, is noted, and the next one is tried: it tells a
        deleted key from a lost login.
        """
        refused = ""
        while self.proved:
            names = sorted(self.proved)
            name = names[self._tested % len(names)]
            started = time.monotonic()
            try:
                await self.sign(self._keys[name].challenge(), deadline, "test")
            except (KeyLostError, RefusedError) as error:
                if isinstance(error, RefusedError) and refused != name:
                    refused = name
                    continue
                self.note_problem(name, str(error))
                if not self.proved:
                    raise KeyLostError(f"none of its keys can be used any more: {error}") from error
                continue
            except MemberLostError:
                self._tested += 1  # the next test is by another key: it tells whose fault this is
                raise
            self._tested += 1
            self.health.tested(time.monotonic() - started)
            return
