"""The challenges that prove a key on a member: which schemes it makes with it, and why not the others.

Every scheme is challenged as it is used: what a token lists, it may refuse (a FIPS policy, CKA_ALLOWED_MECHANISMS, a
mechanism that wants the message where a handshake has its digest). An inbound key is asked for each of its schemes, a
CA's key until one is made: it signs in one alone.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from msgspec import Struct, structs

from hsm import codes, schemes
from hsm.backoff import Backoff
from hsm.codes import Kind
from hsm.errors import BadSignatureError, HsmitmError, MemberLostError, RefusedError
from hsm.member.key import Key
from hsm.member.proved import Lack
from hsm.schemes import Scheme
from hsm.wire.member import Decrypt, KeyFound, Sign

PROOF_TIMEOUT_S = 10.0
_AT_ONCE = 4
"""Challenges of one key at a time: an HSM that makes one signature after another has the time to make them all."""
_BUSY = Backoff(0.02, 0.5)
_DIFFER = "their public keys differ"
_SECRET_SIZE = 48
"""A premaster secret's (RFC 5246 section 7.4.7.1)."""

Ask = Callable[[Sign, float, str], Awaitable[bytes]]
"""A request, its deadline and its purpose -> a signature that verifies. `hsm.member.life.Life.sign`."""


class Proof(Struct, frozen=True):
    """What the challenges of one key came to: the schemes that were made, those that were not, and where none was, why
    the key cannot serve. `doubt` is what may be the member's fault as well as the key's; `undecrypted` why a key that
    should decrypt does not."""

    made: frozenset[str] = frozenset()
    lacking: dict[str, Lack] = {}
    problem: str = ""
    doubt: MemberLostError | None = None
    undecrypted: str = ""


class _AnotherKeyError(Exception):
    """The signature of a challenge does not verify, and the key itself shows no public half: it is another key's."""


class Prover:
    """Challenges the keys of one life."""

    def __init__(self, ask: Ask, decrypt: Callable[[Decrypt, float], Awaitable[bytes]]) -> None:
        """The two requests are `hsm.member.life.Life`'s."""
        self._ask = ask
        self._decrypt = decrypt

    async def prove(self, key: Key, found: KeyFound) -> Proof:
        """What a member that holds `found` makes with `key`.

        Raises what says that the member, not the key, is at fault: MemberLostError, DeadlineError.
        """
        if found.problem:
            return Proof(problem=found.problem)
        differs = bool(found.spki) and found.spki != key.spki
        if differs and not (found.hearsay and any(one.name in found.schemes for one in key.schemes)):
            return Proof(problem=f"{key.uri} is not the key of the certificate: {_DIFFER}")
        made: set[str] = set()
        left = [one for one in key.schemes if one.name in found.schemes]
        lacks: dict[str, Lack | HsmitmError] = {
            one.name: Lack("the partition lists no mechanism for it") for one in key.schemes if one not in left
        }
        try:
            while left and not made:  # one after another, until it is clear that this is the key
                scheme = left.pop(0)
                lack = await self._challenge(key, scheme, sure=bool(found.spki) and not found.hearsay)
                if lack is None:
                    made.add(scheme.name)
                else:
                    lacks[scheme.name] = lack
        except _AnotherKeyError:
            why = "its signature of a challenge does not verify"
            if found.spki:
                same = found.spki == key.spki
                why = f"{why}, although the public key object beside it is the certificate's" if same else _DIFFER
            return Proof(problem=f"{key.uri} is not the key of the certificate: {why}")
        if key.inbound:
            for scheme, lack in zip(left, await self._together(key, left), strict=True):
                if lack is None:
                    made.add(scheme.name)
                else:
                    lacks[scheme.name] = lack
        proof = _concluded(made, lacks)
        if made and key.decrypts and found.decrypts:
            return structs.replace(proof, undecrypted=await self._disproof_of_decryption(key))
        return proof

    async def _together(self, key: Key, wanted: list[Scheme]) -> list[Lack | HsmitmError | None]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(scheme: Scheme) -> Lack | HsmitmError | None:
            async with room:
                return await self._challenge(key, scheme, patient=True)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(scheme)) for scheme in wanted]
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        return [task.result() for task in tasks]

    async def _disproof_of_decryption(self, key: Key) -> str:
        """Why the member does not decrypt with `key`, which is RSA; empty where it does."""
        assert isinstance(key.public, rsa.RSAPublicKey)
        secret = secrets.token_bytes(_SECRET_SIZE)
        request = Decrypt(key.name, key.public.encrypt(secret, padding.PKCS1v15()))
        try:
            found = await self._decrypt(request, time.monotonic() + PROOF_TIMEOUT_S)
        except RefusedError as error:
            return str(error)
        return "" if found == secret else "a test ciphertext was not decrypted rightly"

    async def again(self, key: Key, scheme: Scheme) -> Lack | None:
        """Why the member does not make `scheme` with a key that it proved; None where it does. Raises as `prove`."""
        lack = await self._challenge(key, scheme)
        return Lack(_refusal(lack), passing=True) if isinstance(lack, HsmitmError) else lack

    async def _challenge(
        self, key: Key, scheme: Scheme, *, sure: bool = True, patient: bool = False
    ) -> Lack | HsmitmError | None:
        """Why `scheme` is not made, None where it is. An error may be the key's fault or the member's; what was wrong
        once is asked for once more. `sure`: this is the key, whatever its signature is. `patient`: the token is asked
        for several at a time, and may say that it has no room."""
        deadline, busy = time.monotonic() + PROOF_TIMEOUT_S, 0
        wrong: MemberLostError | None = None
        while True:
            try:
                await self._ask(key.challenge(scheme), deadline, "proof")
            except RefusedError as error:
                return Lack(await self._whole(key, scheme, error))
            except MemberLostError as error:
                bad, kind = isinstance(error, BadSignatureError), codes.called_for(error)
                if bad and not sure:
                    raise _AnotherKeyError from error
                if kind is Kind.BUSY and patient and time.monotonic() < deadline:
                    busy += 1
                    await asyncio.sleep(_BUSY.after(busy))
                    continue
                if not bad and kind is not Kind.AMBIGUOUS:
                    raise
                if wrong is not None:
                    return wrong if isinstance(wrong, BadSignatureError) else error
                wrong = error
            else:
                if isinstance(wrong, BadSignatureError):
                    raise wrong  # once wrong, once right: that is no scheme's fault
                return None

    async def _whole(self, key: Key, scheme: Scheme, refused: RefusedError) -> str:
        """Why a refused challenge was refused: of its digest alone, or altogether."""
        if key.inbound:
            deadline = time.monotonic() + PROOF_TIMEOUT_S
            try:
                await self._ask(key.challenge(scheme, whole=True), deadline, "proof")
            except (RefusedError, BadSignatureError):
                pass
            except MemberLostError as error:
                if codes.called_for(error) is not Kind.AMBIGUOUS:
                    raise
            else:
                told = f" ({codes.name(refused.code)})" if refused.code else ""
                return (
                    f"the partition makes it only where it hashes the message itself{told}, and a TLS server has the "
                    "digest alone"
                )
        return _refusal(refused)


def _refusal(error: HsmitmError) -> str:
    return f"it did not sign a challenge: {error}"


def _concluded(made: set[str], lacks: dict[str, Lack | HsmitmError]) -> Proof:
    """The proof. Raises BadSignatureError where each scheme was made wrongly: the right key, and a wrong signature,
    that is no key's fault."""
    errors = [lack for lack in lacks.values() if isinstance(lack, HsmitmError)]
    refusals = [lack for lack in lacks.values() if isinstance(lack, Lack)]
    lacking = {
        name: lack if isinstance(lack, Lack) else Lack(_refusal(lack), passing=True) for name, lack in lacks.items()
    }
    if made:
        return Proof(frozenset(made), lacking)
    if refusals:
        reasons = schemes.by_reason({name: lack.why for name, lack in lacking.items()})
        told = "; ".join(f"no {several}: {why}" for why, several in reasons.items())
        return Proof(problem=told if len(lacking) > 1 else refusals[0].why, lacking=lacking)
    for error in errors:
        if isinstance(error, BadSignatureError):
            raise error
    doubt = errors[0]
    assert isinstance(doubt, MemberLostError)
    return Proof(problem=_refusal(doubt), lacking=lacking, doubt=doubt)
