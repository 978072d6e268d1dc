"""The keys of one life of a member: which it was asked to hold, what was found, what was proved of them, and what an
operator reads of that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from msgspec import structs

from hsm import codes, schemes
from hsm.codes import Kind
from hsm.errors import MemberLostError
from hsm.member.key import Key
from hsm.member.proofs import Proof, Prover
from hsm.member.proved import Proved
from hsm.schemes import SCHEMES
from hsm.wire.member import KeyFound

logger = logging.getLogger("hsmitm.member")


class Held:
    """What is known of each key. `hsm.member.life` asks the member, and writes nothing here but by these methods."""

    def __init__(self, member: str, keys: Mapping[str, Key], found: Mapping[str, KeyFound], prover: Prover) -> None:
        """`keys` are those that the member may hold, `found` what its process says of them at first."""
        self.keys = dict(keys)
        self.found = dict(found)
        self.made = Proved()
        self.changed: Callable[[], None] = _nothing
        """Called when `made` changed. Written by `Succession`."""
        self.look_soon = False
        """Whether a key lost the last scheme that it was asked for, and may have others."""
        self._member = member
        self._first = dict(found)
        self._prover = prover

    @property
    def may_be_more(self) -> bool:
        """Whether something is missing that may have come since: a key, or a scheme that failed for a moment."""
        return len(self.made.schemes) < len(self.found) or bool(self.made.passing())

    def knows(self, keys: Mapping[str, Key]) -> bool:
        """Whether these keys were looked for, each under its URI."""
        return all(name in self.keys and self.keys[name].uri == key.uri for name, key in keys.items())

    def forget(self, keys: Iterable[str]) -> None:
        """These keys are nobody's business any more."""
        for name in keys:
            self.keys.pop(name, None)
            self.found.pop(name, None)
            self.made.drop(name)
        self.changed()

    async def prove(self) -> None:
        """Find out which keys the member holds, and what it makes with them. One that is missing or another's is noted
        in `found`.

        Raises what says that the member, not the key, is at fault: MemberLostError, DeadlineError.
        """
        doubtful: dict[str, MemberLostError] = {}
        for name, key in list(self.keys.items()):
            proof = await self._prover.prove(key, self.found[name])
            if proof.doubt is not None:
                doubtful[name] = proof.doubt
            else:
                self._take(name, proof)
        for name, doubt in doubtful.items():
            if not self.made.schemes:
                raise doubt
            self.note_problem(name, f"it did not sign a challenge: {doubt}")

    async def look_again(self, found: Mapping[str, KeyFound]) -> None:
        """Prove what was missing: keys, of which `found` is the latest, and schemes that failed. Raises as `prove`."""
        self.look_soon = False
        for name in self.keys.keys() - self.made.schemes.keys():
            key = self.keys.get(name)
            if key is None:
                continue  # it was forgotten meanwhile
            proof = await self._proof_again(key, found[name])
            if proof.problem:
                self.note_problem(name, proof.problem)
            elif name in self.keys:
                self.found[name] = found[name]
                self._take(name, proof)
                logger.info("member %s serves %s again", self._member, self._called(name))
        for name, scheme in self.made.passing():
            if name in self.keys and await self._prover.again(self.keys[name], SCHEMES[scheme]) is None:
                self.made.regain(name, scheme)
                logger.info("member %s makes %s with %s again", self._member, scheme, self._called(name))
                self.changed()

    async def _proof_again(self, key: Key, found: KeyFound) -> Proof:
        try:
            proof = await self._prover.prove(key, found)
        except MemberLostError as error:
            if codes.called_for(error) is not Kind.AMBIGUOUS or not self.made.schemes:
                raise
            return Proof(problem=f"it did not sign a challenge: {error}")
        if proof.doubt is not None and not self.made.schemes:
            raise proof.doubt
        return proof

    def _take(self, name: str, proof: Proof) -> None:
        if not proof.made:
            self.note_problem(name, proof.problem)
        elif name in self.keys:  # else it was forgotten meanwhile
            self.made.take(name, proof.made, proof.lacking)
            if proof.undecrypted:
                self.found[name] = structs.replace(self.found[name], decrypts=False)
                who, why = self._called(name), proof.undecrypted
                logger.error("member %s does not decrypt with %s: %s", self._member, who, why)
            self._tell_of_lacking(name, self.made.lacks(name))
            self.changed()

    def _tell_of_lacking(self, name: str, lacking: Mapping[str, str]) -> None:
        for why, several in schemes.by_reason(lacking).items():
            logger.warning("member %s makes no %s with %s: %s", self._member, several, self._called(name), why)

    def note_lacking(self, name: str, scheme: str, why: str) -> None:
        """The member does not make `scheme` with the key any more. It does not serve a key without any."""
        if not self.made.lose(name, scheme, why):
            self.note_problem(name, why)
            self.look_soon = True
            return
        for sibling in self.keys[name].schemes:
            if sibling.family == SCHEMES[scheme].family:  # one mechanism makes them all
                self.made.doubt(name, sibling.name)
        self._tell_of_lacking(name, {scheme: why})
        self.changed()

    def note_problem(self, name: str, problem: str) -> None:
        """The member does not serve the key any more, or never did. Nothing for one that was forgotten."""
        self.made.drop(name)
        found = self.found.get(name)
        if found is None:
            return
        if found.problem != problem or found is self._first.get(name):
            logger.error("member %s cannot serve %s: %s", self._member, self._called(name), problem)
        self.found[name] = structs.replace(found, problem=problem, missing=False)
        self.changed()

    def _called(self, name: str) -> str:
        return f"the {self.keys[name].title}" if self.keys[name].inbound else f"key '{name}'"


def _nothing() -> None:
    """Nobody is to be told."""
