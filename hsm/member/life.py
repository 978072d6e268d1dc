"""One life of a member: a started process, the keys that it proved, and how well it answers.

A key counts as held once the member has signed a fresh challenge that verifies with the public key we present: labels
and CKA_IDs prove nothing, and a stale handle can name another key. The same challenges are the test signatures of a
life that goes on. There is no key for tests alone: a signature by the keys that clients need proves just what they
need, and no HSM has to hold one key more.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from hsm import codes
from hsm.codes import Kind
from hsm.errors import BadSignatureError, KeyLostError, MemberLostError, RefusedError
from hsm.member.health import Health, hangs
from hsm.member.key import Key
from hsm.member.metrics import MemberMetrics
from hsm.member.pace import Asked, Pace
from hsm.member.process import MemberProcess
from hsm.member.settings import MemberSettings
from hsm.wire.frames import Decrypted
from hsm.wire.member import Decrypt, Describe, KeyFound, KeysFound, Opened, Ping, Reply, Sign, Signature, Vital

logger = logging.getLogger("hsmitm.member")

PROOF_TIMEOUT_S = 10.0
"""For each signature by which a process proves itself: how long its HSM takes for one is not known yet."""


class Life:
    """A process that has opened its partition."""

    def __init__(
        self,
        member: str,
        process: MemberProcess,
        opened: Opened,
        keys: Mapping[str, Key],
        metrics: MemberMetrics,
        before: Pace | None = None,
    ) -> None:
        """`keys` are those that the member may hold; `before` is the pace of a life before, on the same partition."""
        self.settings: MemberSettings | None = None
        """Those that it was started with. Written by `Starter`."""
        self.process = process
        self.opened = opened
        self.found = dict(opened.keys)
        self.proved: set[str] = set()
        self.health = Health()
        self.pace = Pace(before)
        self.in_flight = 0
        self.sessions = opened.sessions
        self.up_at = 0.0
        self.ramp_from = 0.0
        """When it came into service, and from when on its share grows (CLOCK_MONOTONIC). Written by `Succession`, which
        sets the two callbacks below, too."""
        self.idle = asyncio.Event()
        self.idle.set()
        self.freed: Callable[[], None] = _nothing
        """Called when a slot is free that nobody waited at any more."""
        self.keys_changed: Callable[[], None] = _nothing
        """Called when `proved` changed."""
        self._member = member
        self._keys = dict(keys)
        self._metrics = metrics
        self._replaced = 0
        self._tested = 0

    @property
    def lost(self) -> bool:
        """Whether the process is known to be gone. Its socket may be closing already when its end is not yet told."""
        return self.process.lost.is_set() or not self.process.channel.connected

    def knows(self, keys: Mapping[str, Key]) -> bool:
        """Whether these keys were looked for, each under its URI."""
        return all(name in self._keys and self._keys[name].uri == key.uri for name, key in keys.items())

    def forget(self, keys: Iterable[str]) -> None:
        """These keys are nobody's business any more."""
        for name in keys:
            self._keys.pop(name, None)
            self.found.pop(name, None)
            self.proved.discard(name)
        self.keys_changed()

    async def sign(self, request: Sign, deadline: float, purpose: str) -> bytes:
        """A signature that verifies. Raises BadSignatureError, or what `Channel.call` raises."""
        key = self._keys.get(request.key)
        answer = await self._ask(request, deadline, afresh=purpose == "test")
        assert isinstance(answer, Signature)
        if key is None or not key.verifies(request, answer.signature):
            raise BadSignatureError(f"member {self._member} returned a signature that does not verify")
        self._metrics.signed(self._member, purpose, answer)
        return answer.signature

    async def decrypt(self, request: Decrypt, deadline: float) -> bytes:
        """The plaintext; empty where the padding is wrong, and where the token's return code may mean that or a failure
        of the token: whoever sends ciphertexts must not have the member examined. Raises what `Channel.call` raises."""
        try:
            answer = await self._ask(request, deadline)
        except RefusedError as error:
            if not error.code or codes.called_for(error) is not Kind.AMBIGUOUS:
                raise
            plaintext = b""
        else:
            assert isinstance(answer, Decrypted)
            plaintext = answer.plaintext
        self._metrics.decrypted(self._member)
        return plaintext

    async def _ask(self, request: Sign | Decrypt, deadline: float, *, afresh: bool = False) -> Reply:
        """The answer. A caller that gives up is gone at once, but its slot is taken until the member has answered or
        the deadline passed: a session cannot be interrupted, and one more request would only queue behind it."""
        self.in_flight += 1
        self.idle.clear()
        asked = self.pace.asked(request.key, time.monotonic())
        given_up = False
        try:
            answer = await self.process.channel.call(request, deadline, functools.partial(self._outlived, asked))
        except asyncio.CancelledError:
            given_up = True
            raise
        else:
            self.pace.answered(asked, time.monotonic(), afresh=afresh)
            return answer
        finally:
            if not given_up:
                self._free(asked)

    def _outlived(self, asked: Asked) -> None:
        self._free(asked)
        self.freed()

    def _free(self, asked: Asked) -> None:
        self.pace.ended(asked, time.monotonic())
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    async def prove(self) -> None:
        """Find out which keys the member holds. One that is missing or another's is noted in `found`.

        Raises what says that the member, not the key, is at fault: MemberLostError, DeadlineError.
        """
        doubtful: dict[str, MemberLostError] = {}
        for name, key in self._keys.items():
            try:
                problem = await self._disproof(key, self.found[name])
            except MemberLostError as error:
                if codes.called_for(error) is not Kind.AMBIGUOUS:
                    raise
                doubtful[name] = error
                continue
            if problem:
                self.note_problem(name, problem)
            else:
                self._note_proof(name)
        for name, doubt in doubtful.items():
            if not self.proved:
                raise doubt
            self.note_problem(name, f"it did not sign a challenge: {doubt}")

    async def _disproof(self, key: Key, found: KeyFound) -> str:
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

    def _note_proof(self, key: str) -> None:
        self.proved.add(key)
        self.keys_changed()

    def note_problem(self, key: str, problem: str) -> None:
        """The member does not serve `key` any more, or never did. Nothing for one that was forgotten."""
        self.proved.discard(key)
        found = self.found.get(key)
        if found is None:
            return
        if found.problem != problem or found is self.opened.keys.get(key):
            logger.error("member %s cannot serve %s: %s", self._member, self._called(key), problem)
        self.found[key] = KeyFound(problem, found.spki, found.schemes, found.guarded, decrypts=found.decrypts)
        self.keys_changed()

    def _called(self, key: str) -> str:
        return f"the {self._keys[key].title}" if self._keys[key].inbound else f"key '{key}'"

    async def look_again(self, deadline: float) -> None:
        """Look for the keys that were missing: they may have been put there since."""
        answer = await self.process.channel.call(Describe(), deadline)
        assert isinstance(answer, KeysFound)
        for name in self._keys.keys() - self.proved:
            key = self._keys.get(name)
            if key is None:
                continue  # it was forgotten meanwhile
            found = answer.keys[name]
            try:
                problem = await self._disproof(key, found)
            except MemberLostError as error:
                if codes.called_for(error) is not Kind.AMBIGUOUS or not self.proved:
                    raise
                problem = f"it did not sign a challenge: {error}"
            if problem:
                self.note_problem(name, problem)
            elif name in self._keys:
                self.found[name] = found
                self._note_proof(name)
                logger.info("member %s serves %s again", self._member, self._called(name))

    async def vital(self, deadline: float) -> Vital:
        """How the sessions are. Answered by the process even while they hang."""
        vital = await self.process.channel.call(Ping(), deadline)
        assert isinstance(vital, Vital)
        self.sessions = vital.sessions
        if vital.replaced > self._replaced:
            self._metrics.replaced(self._member, vital.replaced - self._replaced)
            self._replaced = vital.replaced
        return vital

    def due_s(self, longest_s: float, key: str = "") -> float:
        """How long an answer may take now: `longest_s`, or more where the member's own pace is slower."""
        name = key or max(self.proved, key=self.pace.alone_s, default="")
        return self.pace.due_s(name, least_s=longest_s)

    def hangs(self, vital: Vital, hang_s: float) -> bool:
        """Whether one of its sessions hangs."""
        return hangs(vital, hang_s, self.pace.silence_s(least_s=hang_s))

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
            finally:
                self.freed()  # it may have had the only slot
            self._tested += 1
            self.health.tested(time.monotonic() - started)
            return


def _nothing() -> None:
    """Nobody is to be told."""
