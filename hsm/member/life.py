"""One life of a member: a started process, the keys that it proved, and how well it answers.

A key counts as held once the member has signed a fresh challenge that verifies with the public key we present: labels
and CKA_IDs prove nothing, and a stale handle can name another key. So it is with each scheme: what a token lists, it
may forbid. The same challenges (`hsm.member.proofs`) are the test signatures of a life that goes on. There is no key
for tests alone: a signature by the keys that clients need proves just what they need, and no HSM has to hold one key
more.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Set

from hsm import codes
from hsm.codes import Kind
from hsm.errors import BadSignatureError, KeyLostError, MemberLostError, RefusedError, SchemeLostError
from hsm.member.health import Health
from hsm.member.held import Held
from hsm.member.key import Key
from hsm.member.metrics import MemberMetrics
from hsm.member.pace import Asked, Pace
from hsm.member.process import MemberProcess
from hsm.member.proofs import Prover
from hsm.member.settings import MemberSettings
from hsm.schemes import SCHEMES
from hsm.wire.frames import Decrypted
from hsm.wire.member import Decrypt, Describe, KeyFound, KeysFound, Opened, Ping, Reply, Sign, Signature, Vital

logger = logging.getLogger("hsmitm.member")


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
        """Those that it was started with. Written by `Starter`, as the next one is."""
        self.opened_in_s = 0.0
        """How long it took to open the partition."""
        self.process = process
        self.opened = opened
        self.held = Held(member, keys, opened.keys, Prover(self.sign, self._plaintext))
        self.health = Health()
        self.pace = Pace(before)
        self.in_flight = 0
        self.sessions = opened.sessions
        self.up_at = 0.0
        self.ramp_from = 0.0
        """When it came into service, and from when on its share grows (CLOCK_MONOTONIC). Written by `Succession`, which
        sets the callback below, too."""
        self.idle = asyncio.Event()
        self.idle.set()
        self.freed: Callable[[], None] = _nothing
        """Called when a slot is free."""
        self._member = member
        self._metrics = metrics
        self._replaced = 0
        self._tested = 0

    @property
    def proved(self) -> Set[str]:
        """The keys that it proved."""
        return self.held.made.schemes.keys()

    @property
    def found(self) -> dict[str, KeyFound]:
        """Each key as it holds it, with what is wrong with it."""
        return self.held.found

    @property
    def lost(self) -> bool:
        """Whether the process is known to be gone. Its socket may be closing already when its end is not yet told."""
        return self.process.lost.is_set() or not self.process.channel.connected

    async def sign(self, request: Sign, deadline: float, purpose: str) -> bytes:
        """A signature that verifies. Raises BadSignatureError, SchemeLostError where a scheme that was made is not
        allowed any more, or what `Channel.call` raises."""
        key = self.held.keys.get(request.key)
        was_made = request.scheme in self.held.made.schemes.get(
            request.key, ()
        )  # another's answer may end that meanwhile
        try:
            answer = await self._ask(request, deadline, afresh=purpose == "test")
        except RefusedError as error:
            if error.code in codes.FORBIDDEN and was_made:
                self.held.made.doubt(request.key, request.scheme)
                raise SchemeLostError(str(error), error.code) from error
            raise
        assert isinstance(answer, Signature)
        if key is None or not key.verifies(request, answer.signature):
            raise BadSignatureError(f"member {self._member} returned a signature that does not verify")
        self._metrics.signed(self._member, purpose, answer)
        return answer.signature

    async def decrypt(self, request: Decrypt, deadline: float) -> bytes:
        """The plaintext; empty where the padding is wrong, and where the token's return code may mean that or a failure
        of the token: whoever sends ciphertexts must not have the member examined. Raises what `Channel.call` raises."""
        plaintext = await self._plaintext(request, deadline)
        self._metrics.decrypted(self._member)
        return plaintext

    async def _plaintext(self, request: Decrypt, deadline: float) -> bytes:
        try:
            answer = await self._ask(request, deadline)
        except RefusedError as error:
            if not error.code or codes.called_for(error) is not Kind.AMBIGUOUS:
                raise
            return b""
        assert isinstance(answer, Decrypted)
        return answer.plaintext

    async def _ask(self, request: Sign | Decrypt, deadline: float, *, afresh: bool = False) -> Reply:
        """The answer. A caller that gives up is gone at once, but its slot is taken until the member has answered or
        the deadline passed: a session cannot be interrupted, and one more request would only queue behind it."""
        self.in_flight += 1
        self.idle.clear()
        asked = self.pace.asked(request.key, time.monotonic())
        free = functools.partial(self._free, asked)
        try:
            answer = await self.process.channel.call(request, deadline, free)
        except asyncio.CancelledError:
            raise
        except BaseException:
            free()
            raise
        if not isinstance(answer, Decrypted) or answer.plaintext:  # a ciphertext may be refused without any work
            self.pace.answered(asked, time.monotonic(), afresh=afresh)
        free()
        return answer

    def _free(self, asked: Asked) -> None:
        if asked.place:
            self.pace.ended(asked, time.monotonic())
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()
        self.freed()

    async def prove(self) -> None:
        """Find out which keys it holds, and what it makes with them. Raises as `Held.prove`."""
        await self.held.prove()

    def note_problem(self, key: str, problem: str) -> None:
        """It does not serve `key` any more. Nothing for one that was forgotten."""
        self.held.note_problem(key, problem)

    async def look_again(self, deadline: float) -> None:
        """Look for the keys that were missing, and for schemes that failed: they may be there now."""
        answer = await self.process.channel.call(Describe(), deadline)
        assert isinstance(answer, KeysFound)
        await self.held.look_again(answer.keys)

    async def vital(self, deadline: float) -> Vital:
        """How the sessions are. Answered by the process even while they hang."""
        vital = await self.process.channel.call(Ping(), deadline)
        assert isinstance(vital, Vital)
        self.sessions = vital.sessions
        if vital.replaced > self._replaced:
            self._metrics.replaced(self._member, vital.replaced - self._replaced)
            self._replaced = vital.replaced
        return vital

    async def test(self, deadline: float) -> None:
        """A test signature by the next of the proved keys, in each of its schemes in turn. Raises what is wrong with
        the member.

        A key that turns out to be lost, and a scheme that is refused twice, are noted, and the next one is tried: it
        tells a deleted key from a lost login.
        """
        refused = None
        while self.proved:
            name, scheme = tested = self.held.made.next(self.held.keys, self._tested)
            started = time.monotonic()
            try:
                await self.sign(self.held.keys[name].challenge(SCHEMES[scheme]), deadline, "test")
            except (KeyLostError, RefusedError) as error:
                if isinstance(error, KeyLostError) and not isinstance(error, SchemeLostError):
                    self.note_problem(name, str(error))
                elif refused == tested:
                    self.held.note_lacking(name, scheme, str(error))
                refused = tested
                if not self.proved:
                    raise KeyLostError(f"none of its keys can be used any more: {error}") from error
                continue
            except MemberLostError:
                self._tested += 1  # the next test is by another key: it tells whose fault this is
                raise
            self.held.made.trust(name, scheme)
            self._tested += 1
            self.health.tested(time.monotonic() - started)
            return


def _nothing() -> None:
    """Nobody is to be told."""
